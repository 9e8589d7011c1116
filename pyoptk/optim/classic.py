"""SGD, and the optimizers that divide by a mean of squared gradients."""

from __future__ import annotations

from typing import Unpack

from ..params import Arrays
from .base import Optimizer
from .hyper import Shared, Value, hyper_of

__all__ = ["SGD", "AdaGrad", "Adadelta", "RMSprop", "Rprop"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for (Sutskever et al. 2013).

    Step 1: ``velocity = g``; later ``velocity = momentum * velocity + (1 - dampening) * g``; then
    ``p -= lr * (g + momentum * velocity if nesterov else velocity)``; without momentum
    ``p -= lr * g``.

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, momentum, dampening, nesterov
        As in the formula; momentum in [0, 1).
    lr_in_momentum : bool
        ``velocity = momentum * velocity - lr * g; p += velocity`` instead, which differs when `lr`
        changes (Keras, scikit-learn).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.SGD(w, lr=0.1, momentum=0.9)
    >>> for _ in range(200):
    ...     opt.step(2 * w)  # the gradient of w @ w
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    _kernel = "sgd"
    momentum: Value
    dampening: Value
    nesterov: bool
    lr_in_momentum: bool

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-3,
        momentum: Value = 0.0,
        *,
        dampening: Value = 0.0,
        nesterov: bool = False,
        lr_in_momentum: bool = False,
        weight_decay: Value = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))


class AdaGrad(Optimizer):
    """AdaGrad (Duchi et al. 2011).

    ``s += g * g; p -= lr / (1 + (step - 1) * lr_decay) * g / (sqrt(s) + eps)``

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, lr_decay, eps
        As in the formula.
    initial_accumulator : float
        What `s` starts at, >= 0 (0.1 in Keras and Optax). Not to be changed later.
    eps_inside_sqrt : bool
        ``sqrt(s + eps)`` instead (Keras, Optax).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.AdaGrad(w, lr=1.0)
    >>> for _ in range(200):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    _kernel = "adagrad"
    lr_decay: Value
    eps: Value
    eps_inside_sqrt: bool

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-2,
        *,
        lr_decay: Value = 0.0,
        eps: Value = 1e-10,
        eps_inside_sqrt: bool = False,
        initial_accumulator: float = 0.0,
        weight_decay: Value = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), with momentum or centered (Graves 2013) if asked for.

    ``v = rho * v + (1 - rho) * g * g; den = sqrt(v) + eps``; centered, the running mean of g is
    kept as `avg` and ``den = sqrt(max(v - avg * avg, 0)) + eps``; then ``p -= lr * g / den``, or
    with momentum ``velocity = momentum * velocity + g / den; p -= lr * velocity``.

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, rho, eps, momentum, centered
        As in the formula; rho and momentum in [0, 1).
    eps_inside_sqrt : bool
        ``sqrt(v + eps)`` instead (Keras, Optax).
    lr_in_momentum : bool
        ``velocity = momentum * velocity + lr * g / den; p -= velocity`` instead (Keras, Optax).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.RMSprop(w, lr=0.05, momentum=0.5)
    >>> for _ in range(300):
    ...     opt.step(2 * w)
    >>> bool(np.abs(w).max() < 0.2)
    True
    """

    _kernel = "rmsprop"
    rho: Value
    eps: Value
    momentum: Value
    centered: bool
    eps_inside_sqrt: bool
    lr_in_momentum: bool

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-2,
        rho: Value = 0.99,
        eps: Value = 1e-8,
        *,
        momentum: Value = 0.0,
        centered: bool = False,
        eps_inside_sqrt: bool = False,
        lr_in_momentum: bool = False,
        weight_decay: Value = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012).

    ``v = rho * v + (1 - rho) * g * g; delta = sqrt(acc_delta + eps) / sqrt(v + eps) * g;
    acc_delta = rho * acc_delta + (1 - rho) * delta * delta; p -= lr * delta``

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr, rho, eps
        As in the formula; rho in [0, 1).
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.Adadelta(w, lr=10.0)
    >>> for _ in range(300):
    ...     opt.step(2 * w)  # the gradient of w @ w
    >>> bool(np.abs(w).max() < 0.1)
    True
    """

    _kernel = "adadelta"
    rho: Value
    eps: Value

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1.0,
        rho: Value = 0.9,
        eps: Value = 1e-6,
        weight_decay: Value = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))


class Rprop(Optimizer):
    """Resilient propagation (Riedmiller & Braun 1993): only signs count; for whole batches.

    Every element has a step size, `lr` at first. ``size = clip(size * eta_plus, min_size,
    max_size)`` where g has the sign that it had in the step before, with `eta_minus` where it has
    the other, and there ``g = 0``; then ``p -= sign(g) * size``.

    Parameters
    ----------
    params : array, sequence or dict of arrays
        float32 or float64 (all the same), C-contiguous, of any shape. Changed in place by `step`.
    lr : float
        The first step size; without effect later, except on decoupled decay.
    eta_minus, eta_plus, min_size, max_size
        As in the formula; eta_minus in [0, 1), eta_plus >= 1.
    weight_decay : float
    **shared
        What all optimizers take: see `Optimizer`, also for the errors.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.Rprop(w, lr=0.1)
    >>> for _ in range(100):
    ...     opt.step(2 * w)  # the gradient of w @ w
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    _kernel = "rprop"
    eta_minus: Value
    eta_plus: Value
    min_size: Value
    max_size: Value

    def __init__(
        self,
        params: Arrays,
        lr: Value = 1e-2,
        eta_minus: Value = 0.5,
        eta_plus: Value = 1.2,
        *,
        min_size: Value = 1e-6,
        max_size: Value = 50.0,
        weight_decay: Value = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, hyper_of(locals()))
