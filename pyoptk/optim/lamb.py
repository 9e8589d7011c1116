"""LAMB."""

from __future__ import annotations

from typing import ClassVar, Unpack

from ..params import Arrays
from .base import Optimizer
from .hyper import Shared, Value, hyper_of

__all__ = ["LAMB"]


class LAMB(Optimizer):
    """Adam whose step has a length relative to the parameter (You et al. 2020, algorithm 2).

    m and v as in `Adam`; for each array of `params` ``direction = m / (1 - beta1**t) / (sqrt(v) /
    sqrt(1 - beta2**t) + eps) + weight_decay * p; p -= lr * norm(p) / norm(direction) * direction``,
    or, where one of the norms is 0, ``p -= lr * direction``.

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, beta1, beta2, eps, weight_decay
        As in the formula; the betas in [0, 1).
    decoupled : bool
        False: the decay is L2, ``g += weight_decay * p``, and not part of direction.
    decay_outside_norm : bool
        The decay is no part of direction; ``p *= 1 - lr * weight_decay`` comes first (Keras).
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.LAMB(w, lr=0.1)
    >>> for _ in range(300):
    ...     opt.step(2 * w)  # the gradient of w @ w
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    _kernel = "lamb"
    _shared: ClassVar = {"decoupled": True}
    beta1: Value
    beta2: Value
    eps: Value
    decay_outside_norm: bool

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-3,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        eps: Value = 1e-6,
        weight_decay: Value = 1e-2,
        *,
        decay_outside_norm: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))
