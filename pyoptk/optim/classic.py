"""SGD, Rprop, and the optimizers that divide by a mean of squared gradients; form: see adam.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Optimizer
from .hyper import Value

if TYPE_CHECKING:
    from dataclasses import KW_ONLY, InitVar

__all__ = ["SGD", "AdaGrad", "Adadelta", "RMSprop", "Rprop"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for (Sutskever et al. 2013).

    Step 1: ``velocity = g``; later ``velocity = momentum * velocity + (1 - dampening) * g``; then
    ``p -= lr * (g + momentum * velocity if nesterov else velocity)``; without momentum
    ``p -= lr * g``.

    Parameters
    ----------
    lr, momentum, dampening, nesterov
        As in the formula; momentum in [0, 1).
    lr_in_momentum : bool
        ``velocity = momentum * velocity - lr * g; p += velocity`` instead, which differs when `lr`
        changes (Keras, scikit-learn).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-3
    momentum: Value = 0.0
    _: KW_ONLY
    dampening: Value = 0.0
    nesterov: bool = False
    lr_in_momentum: bool = False
    weight_decay: Value = 0.0


class AdaGrad(Optimizer):
    """AdaGrad (Duchi et al. 2011).

    ``s += g * g; p -= lr / (1 + (step - 1) * lr_decay) * g / (sqrt(s) + eps)``

    Parameters
    ----------
    lr, lr_decay, eps
        As in the formula.
    initial_accumulator : float
        What `s` starts at, >= 0 (0.1 in Keras and Optax). Not to be changed later.
    eps_inside_sqrt : bool
        ``sqrt(s + eps)`` instead (Keras, Optax).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-2
    _: KW_ONLY
    lr_decay: Value = 0.0
    eps: Value = 1e-10
    eps_inside_sqrt: bool = False
    initial_accumulator: InitVar[float] = 0.0
    weight_decay: Value = 0.0


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), with momentum or centered (Graves 2013) if asked for.

    ``v = rho * v + (1 - rho) * g * g; den = sqrt(v) + eps``; centered, the running mean of g is
    kept as `avg` and ``den = sqrt(max(v - avg * avg, 0)) + eps``; then ``p -= lr * g / den``, or
    with momentum ``velocity = momentum * velocity + g / den; p -= lr * velocity``.

    Parameters
    ----------
    lr, rho, eps, momentum, centered
        As in the formula; rho and momentum in [0, 1).
    eps_inside_sqrt : bool
        ``sqrt(v + eps)`` instead (Keras, Optax).
    lr_in_momentum : bool
        ``velocity = momentum * velocity + lr * g / den; p -= velocity`` instead (Keras, Optax).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-2
    rho: Value = 0.99
    eps: Value = 1e-8
    _: KW_ONLY
    momentum: Value = 0.0
    centered: bool = False
    eps_inside_sqrt: bool = False
    lr_in_momentum: bool = False
    weight_decay: Value = 0.0


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012).

    ``v = rho * v + (1 - rho) * g * g; delta = sqrt(acc_delta + eps) / sqrt(v + eps) * g;
    acc_delta = rho * acc_delta + (1 - rho) * delta * delta; p -= lr * delta``

    Parameters
    ----------
    lr, rho, eps
        As in the formula; rho in [0, 1).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1.0
    rho: Value = 0.9
    eps: Value = 1e-6
    weight_decay: Value = 0.0


class Rprop(Optimizer):
    """Resilient propagation (Riedmiller & Braun 1993): only signs count; for whole batches.

    Every element has a step size, `lr` at first. ``size = clip(size * eta_plus, min_size,
    max_size)`` where g has the sign that it had in the step before, with `eta_minus` where it has
    the other, and there ``g = 0``; then ``p -= sign(g) * size``.

    Parameters
    ----------
    lr : float
        The first step size; without effect later, except on decoupled decay.
    eta_minus, eta_plus, min_size, max_size
        As in the formula; eta_minus in [0, 1), eta_plus >= 1.
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-2
    eta_minus: Value = 0.5
    eta_plus: Value = 1.2
    _: KW_ONLY
    min_size: Value = 1e-6
    max_size: Value = 50.0
    weight_decay: Value = 0.0
