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
Arrays = Array | Iterable["Arrays"] | Mapping[Any, "Arrays"]


class Path(str):
    """The key of an array in nested dicts or lists: its keys, joined by dots."""

    each: tuple[Any, ...]

    def __repr__(self) -> str:
        """As messages show a key in brackets: ``params['lower']['weight']``."""
        return "][".join(map(repr, self.each))


def listed(arrays: Any, name: str) -> tuple[list[Any] | None, list[Any]]:
    """The keys (None for a single array) and the arrays of what `name` is."""
    keys, found, tree = taken_apart(arrays, name)
    return None if isinstance(tree, int) else keys, found


def taken_apart(arrays: Any, name: str) -> tuple[list[Any], list[Any], Any]:
    """The keys, the arrays, and the structure: the dicts and lists with numbers for the arrays."""
    if isinstance(arrays, np.ndarray | str) or not isinstance(arrays, Iterable):
        return [""], [arrays], 0
    if not isinstance(arrays, list | tuple | Mapping) and (help_ := advice(arrays)):
        raise TypeError(f"{name}: expected arrays, got {described(arrays)}{help_}")
    keys: list[Any] = []
    found: list[Any] = []
    try:
        return keys, found, _branch((), arrays, keys, found)
    except RecursionError:
        raise ValueError(f"{name}: expected fewer dicts and lists inside each other") from None


def _branch(path: tuple[Any, ...], entry: Any, keys: list[Any], found: list[Any]) -> Any:
    """The structure of an entry, whose arrays and their keys are appended."""
    pairs = entry.items() if isinstance(entry, Mapping) else enumerate(entry)
    tree = {}
    for key, below in pairs:
        if not isinstance(below, np.ndarray) and _is_nested(below, isinstance(entry, Mapping)):
            tree[key] = _branch((*path, key), below, keys, found)
            continue
        tree[key] = len(found)
        found.append(below)
        if path:
            keys.append(Path(".".join(map(str, (*path, key)))))
            keys[-1].each = (*path, key)
        else:
            keys.append(key)
    return tree if isinstance(entry, Mapping) else list(tree.values())


def _is_nested(entry: Any, in_mapping: bool) -> bool:
    """Whether an entry contains arrays; false for lists of numbers and for PyTorch's groups."""
    if isinstance(entry, Mapping):
        return in_mapping or "params" not in entry
    return isinstance(entry, list | tuple) and not any(
        isinstance(one, str | bytes | int | float | complex | np.generic) for one in entry[:1]
    )


class Params:
    """The parameters: an array, or a sequence or dict of arrays, nested or not.

    `narrow` are the dtypes of 16 bits that they may have, see `Held`.

    Attributes
    ----------
    given : object
        The caller's argument.
    keys : list or None
        Its keys; 0..n-1 for a sequence, `Path` where they are nested, None for a single array.
    names : list of str
        The names of the arrays in patterns and checkpoints; "" for a single one.
    arrays : list of ndarray
    held : Held
        The memory of the arrays, checked again in every step.
    """

    def __init__(self, params: Any, narrow: Mapping[str, int] | None = None) -> None:
        self.given = params
        keys, arrays, self._tree = taken_apart(params, "params")
        self.keys = None if isinstance(self._tree, int) else keys
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
        below = self._tree.values() if isinstance(self._tree, dict) else self._tree
        nested = not isinstance(self._tree, int) and not all(isinstance(b, int) for b in below)
        self.held = Held(self.keys, arrays, params, self._tree if nested else None, narrow or {})
        self.arrays = [np.asarray(array) for array in arrays]

    def like(self, values: list[Any]) -> Any:
        """The values, one for each array, in the structure of `given`."""
        return _filled(self._tree, values)

    def named(self, what: str, values: list[Any]) -> dict[str, Any]:
        """The values by the names that checkpoints call them."""
        if self.keys is None:
            return {what: values[0]}
        return {f"{what}.{name}": v for name, v in zip(self.names, values, strict=True)}


def _filled(tree: Any, values: list[Any]) -> Any:
    if isinstance(tree, int):
        return values[tree]
    if isinstance(tree, dict):
        return {key: _filled(below, values) for key, below in tree.items()}
    return [_filled(below, values) for below in tree]


class Fixed(dict[str, Any]):
    """A dict whose entries cannot be replaced. Copies and pickles are ordinary dicts."""

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
