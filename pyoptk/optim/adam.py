"""Adam and its relatives; LAMB and Lion.

Annotations are the arguments of the constructor (_arguments.py), and those of the optimizer's row
in csrc/optimizers.c: tests compare them. The rest is in base.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Optimizer
from .hyper import Value

if TYPE_CHECKING:
    from dataclasses import KW_ONLY

__all__ = ["LAMB", "AdaBelief", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam"]


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), AMSGrad (Reddi et al. 2018) if asked for.

    ``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g * g;
    p -= lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)`` at step t = 1, 2, ...

    Parameters
    ----------
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    amsgrad : bool
        ``vmax = max(vmax, v)`` takes the place of v in the last line.
    amsgrad_on_corrected : bool
        ``vmax = max(vmax, v / (1 - beta2**t))`` instead (Optax).
    eps_hat : bool
        ``p -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)`` instead (Keras,
        scikit-learn, ONNX).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-3
    beta1: Value = 0.9
    beta2: Value = 0.999
    eps: Value = 1e-8
    weight_decay: Value = 0.0
    _: KW_ONLY
    amsgrad: bool = False
    amsgrad_on_corrected: bool = False
    eps_hat: bool = False


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

    weight_decay: Value = 1e-2
    _: KW_ONLY
    decoupled: bool = True


class NAdam(Optimizer):
    """Adam with Nesterov momentum (Dozat 2016).

    m and v as in `Adam`; with ``mu(t) = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and
    ``product = mu(1) * ... * mu(t)``, ``ahead = mu(t + 1) / (1 - product * mu(t + 1)) * m
    + (1 - mu(t)) / (1 - product) * g; p -= lr * ahead / (sqrt(v) / sqrt(1 - beta2**t) + eps)``.
    The product is computed from t each time, with the `beta1` and `momentum_decay` of that time.

    Parameters
    ----------
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    momentum_decay : float
        As in the formula, >= 0; 1.0 is Keras's NAdam; with 1e5 mu is `beta1` throughout, as in
        Optax.
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 2e-3
    beta1: Value = 0.9
    beta2: Value = 0.999
    eps: Value = 1e-8
    weight_decay: Value = 0.0
    _: KW_ONLY
    momentum_decay: Value = 4e-3


class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020).

    m and v as in `Adam`; with ``last = 2 / (1 - beta2) - 1`` and
    ``rho = last - 2 * t * beta2**t / (1 - beta2**t)``, while ``rho <= 5`` (with the default beta2
    for 5 steps) ``p -= lr / (1 - beta1**t) * m``, then ``rect = sqrt((rho - 4) * (rho - 2) * last /
    ((last - 4) * (last - 2) * rho)); p -= lr * rect * sqrt(1 - beta2**t) / (1 - beta1**t) * m /
    (sqrt(v) + eps)``.

    Parameters
    ----------
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    eps_hat : bool
        False: ``sqrt(v) / sqrt(1 - beta2**t) + eps`` in the last line instead (Optax).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-3
    beta1: Value = 0.9
    beta2: Value = 0.999
    eps: Value = 1e-8
    weight_decay: Value = 0.0
    _: KW_ONLY
    eps_hat: bool = True


class Adamax(Optimizer):
    """Adamax (Kingma & Ba 2015, algorithm 2).

    ``m = beta1 * m + (1 - beta1) * g; u = max(beta2 * u, abs(g) + eps);
    p -= lr / (1 - beta1**t) * m / u`` at step t = 1, 2, ...

    Parameters
    ----------
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    eps_outside_max : bool
        ``u = max(beta2 * u, abs(g))`` and ``m / (u + eps)`` instead (Keras).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 2e-3
    beta1: Value = 0.9
    beta2: Value = 0.999
    eps: Value = 1e-8
    weight_decay: Value = 0.0
    _: KW_ONLY
    eps_outside_max: bool = False


class AdaBelief(Optimizer):
    """Adam whose steps are large where the gradient is as expected (Zhuang et al. 2020).

    m as in `Adam`; ``s = beta2 * s + (1 - beta2) * (g - m)**2 + eps;
    p -= lr / (1 - beta1**t) * m / (sqrt(s) / sqrt(1 - beta2**t) + eps)`` at step t = 1, 2, ...

    Parameters
    ----------
    lr, beta1, beta2, eps
        As in the formula; the betas in [0, 1).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-3
    beta1: Value = 0.9
    beta2: Value = 0.999
    eps: Value = 1e-16
    weight_decay: Value = 0.0


class LAMB(Optimizer):
    """Adam whose step has a length relative to the parameter (You et al. 2020, algorithm 2).

    m and v as in `Adam`; for each array of `params` ``direction = m / (1 - beta1**t) / (sqrt(v) /
    sqrt(1 - beta2**t) + eps) + weight_decay * p; p -= lr * norm(p) / norm(direction) * direction``,
    or, where one of the norms is 0, ``p -= lr * direction``.

    Parameters
    ----------
    lr, beta1, beta2, eps, weight_decay
        As in the formula; the betas in [0, 1).
    decoupled : bool
        False: the decay is L2, ``g += weight_decay * p``, and not part of direction.
    decay_outside_norm : bool
        The decay is no part of direction; ``p *= 1 - lr * weight_decay`` comes first (Keras).
    params, maximize, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-3
    beta1: Value = 0.9
    beta2: Value = 0.999
    eps: Value = 1e-6
    weight_decay: Value = 1e-2
    _: KW_ONLY
    decay_outside_norm: bool = False
    decoupled: bool = True


class Lion(Optimizer):
    """Lion (Chen et al. 2023): every element moves by `lr`, only its sign is learnt.

    ``p -= lr * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g``, where sign(0)
    is 0. Weight decay is decoupled.

    Parameters
    ----------
    lr, beta1, beta2
        As in the formula; the betas in [0, 1).
    params, weight_decay, decoupled, ...
        As for all optimizers: see `Optimizer`, also for shapes, dtypes and errors.

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
    lr: Value = 1e-4
    beta1: Value = 0.9
    beta2: Value = 0.99
    weight_decay: Value = 0.0
    _: KW_ONLY
    decoupled: bool = True
