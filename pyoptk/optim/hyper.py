"""The words of the optimizers' signatures: types, arguments, and how they are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple, NoReturn, Self, dataclass_transform

import numpy as np

from .._checks import check_names
from .._sparse import SparseRows
from ..params import Array, Fixed

Value = float | Callable[[int], float]
Grad = Array | SparseRows | None
Grads = Grad | Sequence[Grad] | Mapping[Any, Grad]
Kind = tuple[tuple[str, ...], bool]  # which patterns of `groups`, and whether it decays
Merged = list[tuple[dict[str, Any], dict[str, Callable[[int], Any]]]]  # see `by_kind`


@dataclass_transform(eq_default=False)
class Declared:
    """Base of classes whose constructor takes what they annotate, so that each name is said once.

    As in a dataclass, a value is a default, what follows ``_: KW_ONLY`` is a keyword, and a class
    adds to the arguments of its base or changes their defaults. All values go to `_begin`. The
    defaults are in `_arguments`, not attributes of the class.
    """

    _arguments: ClassVar[dict[str, inspect.Parameter]] = {}  # in the order of the signature
    __signature__: ClassVar[inspect.Signature | None]

    def __init_subclass__(cls) -> None:
        if cls.__init__ is not Declared.__init__:  # of a user's class, with arguments of its own
            cls.__signature__ = None
            return
        own: dict[str, inspect.Parameter] = {}
        kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
        for name, annotation in inspect.get_annotations(cls).items():
            if name == "_":
                kind = inspect.Parameter.KEYWORD_ONLY
            elif "ClassVar" not in str(annotation):
                default = vars(cls).get(name, inspect.Parameter.empty)
                own[name] = inspect.Parameter(name, kind, default=default, annotation=annotation)
                if name in vars(cls):
                    delattr(cls, name)
        old = [own.pop(name, argument) for name, argument in cls._arguments.items()]
        n = [argument.kind for argument in old].count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        cls.__signature__ = inspect.Signature([*old[:n], *own.values(), *old[n:]])
        cls._arguments = dict(cls.__signature__.parameters)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        first, *others = self._arguments
        check_names([name for name in keywords if name != first], others)
        given = inspect.Signature(list(self._arguments.values())).bind(*args, **keywords)
        given.apply_defaults()
        self._begin(given.arguments)

    def _begin(self, given: dict[str, Any]) -> None:
        raise NotImplementedError


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
        # What no parameter has, because `groups` and `no_decay` set it for all, is checked as well.
        plain: Kind = ((), True)
        merged = by_kind(kinds if plain in kinds else [*kinds, plain], hyper, fixed)
        scheduled = {name for _, functions in merged for name in functions}
        return cls(hyper, Fixed(fixed, "assign opt.groups"), merged, scheduled)


class Switch(int):
    """The value of `zero_grad`, for those who call it as the method it is in PyTorch."""

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
    """Numbers of any kind as Python's, so that nobody else can change them; the rest as it is."""

    def number(value: Any) -> Any:
        if isinstance(value, np.bool_ | Switch):
            return bool(value)
        if value is None or callable(value) or isinstance(value, bool | str | tuple | Mapping):
            return value
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return value  # for the check to refuse

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
    """The same of lr alone, which is what schedules are mostly for."""
    return [functions["lr"](step) if functions else numbers["lr"] for numbers, functions in merged]
