"""Adam and its relatives."""

from __future__ import annotations

from typing import ClassVar, Unpack

from ..params import Arrays
from .base import Optimizer
from .hyper import Shared, Value, hyper_of

__all__ = ["AdaBelief", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"]


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

    _shared: ClassVar = {"decoupled": True}

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
        Optimizer.__init__(self, params, hyper_of(locals()))


class NAdam(Optimizer):
    """Adam with Nesterov momentum (Dozat 2016).

    m and v as in `Adam`; with ``mu(t) = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and
    ``product = mu(1) * ... * mu(t)``, ``ahead = mu(t + 1) / (1 - product * mu(t + 1)) * m
    + (1 - mu(t)) / (1 - product) * g; p -= lr * ahead / (sqrt(v) / sqrt(1 - beta2**t) + eps)``.
    The product is computed from t each time, with the `beta1` and `momentum_decay` of that time.

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    momentum_decay : float
        As in the formula, >= 0; 1.0 is Keras's NAdam; with 1e5 mu is `beta1` throughout, as in
        Optax.
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.NAdam(w, lr=0.1)
    >>> for _ in range(300):
    ...     opt.step(2 * w)  # the gradient of w @ w
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    _kernel = "nadam"
    beta1: Value
    beta2: Value
    eps: Value
    momentum_decay: Value

    def __init__(
        self,
        params: Arrays,
        lr: Value = 2e-3,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        eps: Value = 1e-8,
        weight_decay: Value = 0.0,
        *,
        momentum_decay: Value = 4e-3,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))


class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020).

    m and v as in `Adam`; with ``last = 2 / (1 - beta2) - 1`` and
    ``rho = last - 2 * t * beta2**t / (1 - beta2**t)``, while ``rho <= 5`` (with the default beta2
    for 5 steps) ``p -= lr / (1 - beta1**t) * m``, then ``rect = sqrt((rho - 4) * (rho - 2) * last /
    ((last - 4) * (last - 2) * rho)); p -= lr * rect * sqrt(1 - beta2**t) / (1 - beta1**t) * m /
    (sqrt(v) + eps)``.

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    eps_hat : bool
        False: ``sqrt(v) / sqrt(1 - beta2**t) + eps`` in the last line instead (Optax).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.RAdam(w, lr=0.1)
    >>> for _ in range(300):
    ...     opt.step(2 * w)  # the gradient of w @ w
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    _kernel = "radam"
    beta1: Value
    beta2: Value
    eps: Value
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
        eps_hat: bool = True,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))


class Adamax(Optimizer):
    """Adamax (Kingma & Ba 2015, algorithm 2).

    ``m = beta1 * m + (1 - beta1) * g; u = max(beta2 * u, abs(g) + eps);
    p -= lr / (1 - beta1**t) * m / u`` at step t = 1, 2, ...

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    eps_outside_max : bool
        ``u = max(beta2 * u, abs(g))`` and ``m / (u + eps)`` instead (Keras).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.Adamax(w, lr=0.1)
    >>> for _ in range(300):
    ...     opt.step(2 * w)  # the gradient of w @ w
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    _kernel = "adamax"
    beta1: Value
    beta2: Value
    eps: Value
    eps_outside_max: bool

    def __init__(
        self,
        params: Arrays,
        lr: Value = 2e-3,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        eps: Value = 1e-8,
        weight_decay: Value = 0.0,
        *,
        eps_outside_max: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))


class AdaBelief(Optimizer):
    """Adam whose steps are large where the gradient is as expected (Zhuang et al. 2020).

    m as in `Adam`; ``s = beta2 * s + (1 - beta2) * (g - m)**2 + eps;
    p -= lr / (1 - beta1**t) * m / (sqrt(s) / sqrt(1 - beta2**t) + eps)`` at step t = 1, 2, ...

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.AdaBelief(w, lr=0.1)
    >>> for _ in range(300):
    ...     opt.step(2 * w)  # the gradient of w @ w
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    _kernel = "adabelief"
    beta1: Value
    beta2: Value
    eps: Value

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-3,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        eps: Value = 1e-16,
        weight_decay: Value = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))
