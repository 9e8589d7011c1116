"""Lion."""

from __future__ import annotations

from typing import ClassVar, Unpack

from ..params import Arrays
from .base import Optimizer
from .hyper import Shared, Value, hyper_of

__all__ = ["Lion"]


class Lion(Optimizer):
    """Lion (Chen et al. 2023): every element moves by `lr`, only its sign is learnt.

    ``p -= lr * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g``, where sign(0)
    is 0. Weight decay is decoupled.

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, beta1, beta2
        As in the formula; the betas in [0, 1).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.Lion(w, lr=0.5)
    >>> opt.step(np.array([1e-9, 0.0]))
    >>> w
    array([ 2.5, -2. ])
    """

    _kernel = "lion"
    _shared: ClassVar = {"decoupled": True}
    beta1: Value
    beta2: Value

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-4,
        beta1: Value = 0.9,
        beta2: Value = 0.99,
        weight_decay: Value = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))
