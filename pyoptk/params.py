"""The parameters of a model as optimizers, averages and checkpoints see them: `Params`.

Also `Fixed`, the dict in which layers show their arrays and optimizers their hyper-parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ._checks import advice, described
from ._held import Held

Array = NDArray[np.floating[Any]]
Arrays = Array | Iterable[Array] | Mapping[Any, Array]


def listed(arrays: Any, name: str) -> tuple[list[Any] | None, list[Any]]:
    """The keys (None for a single array) and the arrays of what `name` is."""
    if isinstance(arrays, np.ndarray):
        return None, [arrays]
    if not isinstance(arrays, list | tuple):
        if isinstance(arrays, Mapping):
            return list(arrays), list(arrays.values())
        if not isinstance(arrays, Iterable):
            return None, [arrays]
        if help_ := advice(arrays):
            raise TypeError(f"{name}: expected arrays, got {described(arrays)}{help_}")
    found = list(arrays)
    return list(range(len(found))), found


class Params:
    """A single array, a sequence or a dict of arrays, which are changed in place for ever after.

    Attributes
    ----------
    given : object
        What the caller handed in.
    keys : list or None
        Its keys; 0..n-1 for a sequence, None for a single array.
    names : list of str
        What patterns and checkpoints call the arrays; "" for a single one.
    arrays : list of ndarray
    held : Held
        The memory of the arrays; looked at again at every step.
    """

    def __init__(self, params: Any) -> None:
        self.given = params
        self.keys, arrays = listed(params, "params")
        if not arrays:
            raise ValueError(
                f"params: expected at least one array, got none in {described(params)} (a "
                "generator can be used once)"
            )
        self.names = [""] if self.keys is None else [str(key) for key in self.keys]
        if len(set(self.names)) != len(self.names):
            same = [key for key in self.keys or [] if self.names.count(str(key)) > 1]
            raise ValueError(
                f"params: expected keys that differ as str, got {same[0]!r} and {same[1]!r}"
            )
        self.held = Held(self.keys, arrays, params)
        self.arrays = [np.asarray(array) for array in arrays]

    def like(self, values: list[Any]) -> Any:
        """The values, one for each array, in the structure of `given`."""
        if isinstance(self.given, Mapping):
            return dict(zip(self.keys or [], values, strict=True))
        return values[0] if self.keys is None else list(values)

    def named(self, what: str, values: list[Any]) -> dict[str, Any]:
        """The values by the names that checkpoints call them."""
        if self.keys is None:
            return {what: values[0]}
        return {f"{what}.{name}": v for name, v in zip(self.names, values, strict=True)}


class Fixed(dict[str, Any]):
    """A dict whose entries stay; what is in them may be changed. Copies and pickles are dicts."""

    def __init__(self, entries: Mapping[str, Any], instead: str) -> None:
        super().__init__(entries)
        self._instead = instead

    def __setitem__(self, name: str, value: Any) -> None:
        if self.get(name) is not value:  # `params[name] -= x` sets the same array again
            self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"this dict does not support item assignment; {self._instead}")

    __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __repr__(self) -> str:
        """Arrays by dtype and shape: their elements would fill pages."""
        shown = [
            f"{name!r}: {described(value) if isinstance(value, np.ndarray) else repr(value)}"
            for name, value in self.items()
        ]
        return f"{{{', '.join(shown)}}}"

    def __reduce__(self) -> Any:
        return dict, (dict(self),)
