"""What all optimizers share.

An optimizer takes the memory of its parameters once, when it is made; `Optimizer.step` then takes
the gradients, checks them and runs one compiled sweep over the whole model. Defaults are PyTorch's;
where libraries differ, a keyword tells (see docs/semantics.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core

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


def hyper_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters among the locals() of a constructor."""
    return {k: v for k, v in arguments.items() if k not in ("self", "params", "__class__")}
