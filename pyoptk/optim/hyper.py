"""The hyper-parameters of optimizers: types, and their values for each parameter and step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np

from .._sparse import SparseRows
from ..params import Array, Fixed

Value = float | Callable[[int], float]
Grad = Array | SparseRows | None
Grads = Grad | Sequence["Grads"] | Mapping[Any, "Grads"]
Kind = tuple[tuple[str, ...], bool]  # which patterns of `groups`, and whether it decays
Merged = list[tuple[dict[str, Any], dict[str, Callable[[int], Any]]]]  # see `by_kind`


class Settings(NamedTuple):
    """An optimizer's hyper-parameters, always replaced together."""

    hyper: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Any]]
    merged: Merged
    scheduled: set[str]  # which of them are functions of the step

    @classmethod
    def of(cls, kinds: list[Kind], hyper: Any, groups: Any) -> Self:
        hyper = Fixed(as_python(hyper), "assign the attribute, as in opt.lr = 0.1")
        fixed = {p: Fixed(as_python(own), "assign opt.groups") for p, own in groups.items()}
        # Values that `groups` and `no_decay` replace for every parameter are checked as well.
        unmatched: Kind = ((), True)
        merged = by_kind(kinds if unmatched in kinds else [*kinds, unmatched], hyper, fixed)
        scheduled = {name for _, functions in merged for name in functions}
        return cls(hyper, Fixed(fixed, "assign opt.groups"), merged, scheduled)


class Switch(int):
    """The value of `zero_grad`; calling it, as PyTorch's method, raises an error that explains."""

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "zero_grad: a switch, not a method, because gradients are the caller's arrays: make "
            "the optimizer with zero_grad=True, or set them to zero with grad[...] = 0"
        )

    def __repr__(self) -> str:
        return repr(bool(self))


def override(
    name: str,
    groups: Mapping[str, Mapping[str, Any]],
    no_decay: tuple[str, ...],
    decay_mask: tuple[str, ...],
) -> Kind:
    """Which patterns of `groups` a parameter matches, and whether it decays."""

    def matched(patterns: Iterable[str]) -> tuple[str, ...]:
        return tuple(pattern for pattern in patterns if fnmatchcase(name, pattern))

    return matched(groups), bool(matched(decay_mask)) and not matched(no_decay)


def as_python(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of NumPy as Python's, which cannot change; everything else unchanged."""

    def number(value: Any) -> Any:
        if isinstance(value, np.bool_ | Switch):
            return bool(value)
        if value is None or callable(value) or isinstance(value, bool | str | tuple | Mapping):
            return value
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return value  # the check will refuse it

    return {name: number(value) for name, value in hyper.items()}


def by_kind(
    kinds: Iterable[Kind], hyper: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]
) -> Merged:
    """For each kind of parameter (see `override`) its numbers, and its functions of the step."""
    merged: Merged = []
    for patterns, decays in kinds:
        mine = dict(hyper)
        for pattern in patterns:
            mine |= groups[pattern]
        if not decays:
            mine["weight_decay"] = 0.0
        functions = {name: mine.pop(name) for name, v in tuple(mine.items()) if callable(v)}
        merged.append((mine, functions))
    return merged


def at_step(step: int, merged: Merged) -> list[dict[str, Any]]:
    """The hyper-parameters of each kind of parameter as numbers, for the step after `step`."""
    return [
        {**numbers, **{name: function(step) for name, function in functions.items()}}
        for numbers, functions in merged
    ]


def lrs_at_step(step: int, merged: Merged) -> list[float]:
    """The same for lr alone, the usual hyper-parameter of a schedule."""
    return [functions["lr"](step) if functions else numbers["lr"] for numbers, functions in merged]
