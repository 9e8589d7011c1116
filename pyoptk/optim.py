"""The optimizers: each holds the state of some parameters and updates them in place.

An optimizer takes the memory of its parameters once, when it is made; `Optimizer.step` then takes
the gradients, checks them and runs one compiled sweep over the whole model. Defaults are PyTorch's;
where libraries differ, a keyword tells (see docs/semantics.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core

Array = NDArray[np.floating[Any]]
Arrays = Array | Iterable[Array] | Mapping[Any, Array]
Grads = Array | Sequence[Array | None] | Mapping[Any, Array | None] | None


class Optimizer:
    """What all optimizers share. Not to be made itself: take `SGD`, `Adam` and so on.

    Every hyper-parameter is an attribute that may be read and assigned at any time; a value out of
    range is refused and changes nothing. Those that all optimizers take:

    lr : float
        Learning rate, >= 0.
    weight_decay : float
        Decay, >= 0: ``g += weight_decay * p``, or, if `decoupled`, ``p *= 1 - lr * weight_decay``
        (Loshchilov & Hutter 2019).
    maximize : bool
        Go up the gradient instead of down.
    grad_scale : float
        Multiplies every gradient first, for example 1 / loss scale.
    clip_value : float or None
        Then clips each element to [-clip_value, clip_value].
    max_norm : float or None
        Scales all gradients together so that their global norm, after `grad_scale`, is at most this
        (PyTorch's ``clip_grad_norm_``, before `clip_value`); `grad_norm` tells the norm before.

    Raises
    ------
    TypeError
        For arrays that are not float32 or float64, or not all of one of them.
    ValueError
        For parameters that are read-only, not C-contiguous or overlapping, and for hyper-parameters
        out of range (NaN, negative, a beta outside [0, 1)).
    """

    _kernel: str
    hyper: dict[str, Any]
    lr: float
    weight_decay: float
    decoupled: bool
    maximize: bool
    grad_scale: float
    clip_value: float | None
    max_norm: float | None

    def __init__(self, params: Arrays, hyper: dict[str, Any], initial: float = 0.0) -> None:
        keys, arrays = _listed(params)
        mapping = isinstance(params, Mapping)
        plan = _core.Plan(self._kernel, keys, mapping, arrays, hyper, initial)
        self.__dict__.update(hyper=hyper, params=params, _keys=keys, _mapping=mapping, _plan=plan)

    def step(self, grads: Grads) -> None:
        """Change every parameter in place, once, by its gradient.

        Parameters
        ----------
        grads : array, sequence or dict of arrays
            Mirrors `params`: the same keys, shapes and dtype. None in place of an array leaves that
            parameter, its state and its step count alone. Only read; may be reused at once. One
            that is not C-contiguous is copied first. Must not overlap a parameter.

        Raises
        ------
        TypeError, ValueError
            If a gradient is missing, of another shape or dtype, or overlaps a parameter. The
            message names it, and nothing has been changed.
        """
        self._plan.step(grads)

    @property
    def steps(self) -> Any:
        """The number of steps that each parameter has taken, in the structure of `params`."""
        return self._like_params(self._plan.steps())

    @property
    def grad_norm(self) -> float | None:
        """The global norm of the last step's gradients before clipping; None without `max_norm`."""
        norm: float | None = self._plan.grad_norm()
        return norm

    @property
    def state(self) -> dict[str, Any]:
        """The state arrays by name, each in the structure of `params`; changed by `step`."""
        return {name: self._like_params(arrays) for name, arrays in self._plan.states.items()}

    def _like_params(self, values: list[Any]) -> Any:
        if self._mapping:
            return dict(zip(self._keys, values, strict=True))
        return values[0] if self._keys is None else list(values)

    def __getattr__(self, name: str) -> Any:
        hyper = self.__dict__.get("hyper", {})
        if name in hyper:
            return hyper[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.hyper:
            raise AttributeError(
                f"{type(self).__name__} has no hyper-parameter {name!r}, only "
                f"{', '.join(self.hyper)}"
            )
        hyper = {**self.hyper, name: value}
        self._plan.configure(hyper)
        self.__dict__["hyper"] = hyper

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.hyper.items())
        return f"{type(self).__name__}({settings})"


def _listed(params: Arrays) -> tuple[list[Any] | None, list[Array]]:
    """The keys (None for a single array) and the arrays of `params`."""
    if isinstance(params, Mapping):
        return list(params), list(params.values())
    if isinstance(params, np.ndarray) or not isinstance(params, Iterable):
        return None, [params]
    arrays = list(params)
    return list(range(len(arrays))), arrays


def _hyper(arguments: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters among the locals() of a constructor."""
    return {k: v for k, v in arguments.items() if k not in ("self", "params", "__class__")}


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
        changes (Keras, scikit-learn, Optax).
    weight_decay, decoupled, maximize, grad_scale, clip_value, max_norm
        See `Optimizer`, also for the errors.

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
    momentum: float
    dampening: float
    nesterov: bool
    lr_in_momentum: bool

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        dampening: float = 0.0,
        nesterov: bool = False,
        lr_in_momentum: bool = False,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        grad_scale: float = 1.0,
        clip_value: float | None = None,
        max_norm: float | None = None,
    ) -> None:
        super().__init__(params, _hyper(locals()))


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
    weight_decay, decoupled, maximize, grad_scale, clip_value, max_norm
        See `Optimizer`, also for the errors.

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
    lr_decay: float
    eps: float
    eps_inside_sqrt: bool

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-2,
        *,
        lr_decay: float = 0.0,
        eps: float = 1e-10,
        initial_accumulator: float = 0.0,
        eps_inside_sqrt: bool = False,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        grad_scale: float = 1.0,
        clip_value: float | None = None,
        max_norm: float | None = None,
    ) -> None:
        hyper = _hyper(locals())
        super().__init__(params, hyper, hyper.pop("initial_accumulator"))


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
    weight_decay, decoupled, maximize, grad_scale, clip_value, max_norm
        See `Optimizer`, also for the errors.

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
    rho: float
    eps: float
    momentum: float
    centered: bool
    eps_inside_sqrt: bool
    lr_in_momentum: bool

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-2,
        rho: float = 0.99,
        eps: float = 1e-8,
        *,
        momentum: float = 0.0,
        centered: bool = False,
        eps_inside_sqrt: bool = False,
        lr_in_momentum: bool = False,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        grad_scale: float = 1.0,
        clip_value: float | None = None,
        max_norm: float | None = None,
    ) -> None:
        super().__init__(params, _hyper(locals()))


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
    weight_decay, decoupled, maximize, grad_scale, clip_value, max_norm
        See `Optimizer`, also for the errors.

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
    beta1: float
    beta2: float
    eps: float
    amsgrad: bool
    amsgrad_on_corrected: bool
    eps_hat: bool

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        amsgrad_on_corrected: bool = False,
        eps_hat: bool = False,
        decoupled: bool = False,
        maximize: bool = False,
        grad_scale: float = 1.0,
        clip_value: float | None = None,
        max_norm: float | None = None,
    ) -> None:
        super().__init__(params, _hyper(locals()))


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
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **switches: Any,
    ) -> None:
        super().__init__(
            params, lr, beta1, beta2, eps, weight_decay, **{"decoupled": True, **switches}
        )
