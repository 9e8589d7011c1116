"""Adam and its relatives."""

from __future__ import annotations

from typing import Unpack

from .base import Arrays, Optimizer, Shared, Value, hyper_of


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), AMSGrad (Reddi et al. 2018) if asked for.

    ``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g * g;
    p -= lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)`` at step t = 1, 2, ...

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    amsgrad : bool
        ``vmax = max(vmax, v)`` takes the place of v in the last line.
    amsgrad_on_corrected : bool
        ``vmax = max(vmax, v / (1 - beta2**t))`` instead (Optax).
    eps_hat : bool
        ``p -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)`` instead (Keras,
        scikit-learn, ONNX).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = {"weight": np.array([3.0, -2.0]), "bias": np.array([1.0])}
    >>> opt = pyoptk.Adam(w, lr=0.1)
    >>> for _ in range(300):
    ...     opt.step({name: 2 * value for name, value in w.items()})
    >>> bool(np.abs(w["weight"]).max() < 1e-3)
    True
    """

    _kernel = "adam"
    beta1: Value
    beta2: Value
    eps: Value
    amsgrad: bool
    amsgrad_on_corrected: bool
    eps_hat: bool

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-3,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        eps: Value = 1e-8,
        weight_decay: Value = 0.0,
        *,
        amsgrad: bool = False,
        amsgrad_on_corrected: bool = False,
        eps_hat: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))


class AdamW(Adam):
    """Adam with decoupled weight decay of 1e-2 (Loshchilov & Hutter 2019); else as `Adam`.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.ones(3, np.float32)
    >>> opt = pyoptk.AdamW(w, lr=0.1, weight_decay=0.5)
    >>> opt.step(np.zeros(3, np.float32))
    >>> w
    array([0.95, 0.95, 0.95], dtype=float32)
    """

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-3,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        eps: Value = 1e-8,
        weight_decay: Value = 1e-2,
        *,
        amsgrad: bool = False,
        amsgrad_on_corrected: bool = False,
        eps_hat: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        shared.setdefault("decoupled", True)
        Optimizer.__init__(self, params, hyper_of(locals()))
