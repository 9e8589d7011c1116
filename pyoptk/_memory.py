"""The memory of the arrays in a state: which arrays loading changes, and which overlap them.

checkpoint.py and every `load_state_dict` use it; models and their loop put arrays back with it.
Private.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray


def apart(got: Mapping[str, Any], targets: Iterable[Any]) -> dict[str, Any]:
    """`got`, with copies of its arrays that share memory with some of `targets`.

    Without copies these would change before they are read, as when a state dict contains its own
    arrays in another order.
    """
    bounds = sorted(_bounds(a) for a in targets if isinstance(a, np.ndarray) and a.size)
    reach = list(itertools.accumulate((end for _, end in bounds), max))
    found = dict(got)
    for name, value in found.items():
        if isinstance(value, np.ndarray) and value.size:
            start, end = _bounds(value)
            before = bisect.bisect_left(bounds, (end, 0))  # the number that start before the end
            if before and reach[before - 1] > start:
                found[name] = value.copy()
    return found


def _bounds(array: NDArray[Any]) -> tuple[int, int]:
    """The first byte of the elements, and the one after the last."""
    start, reach = array.__array_interface__["data"][0], array.itemsize
    for stride, n in zip(array.strides, array.shape, strict=True):
        start += min(stride, 0) * (n - 1)
        reach += abs(stride) * (n - 1)
    return start, start + reach


def _spans(key: str, part: Any) -> Iterator[tuple[int, int, str, NDArray[Any]]]:
    """First byte, end, name and array of all that is filled; refuses what would be ignored."""
    if isinstance(part, Mapping):
        if isinstance(part.get("bit_generator"), str):
            raise TypeError(f"{key}: expected the Generator itself, got its state, which is a copy")
        for name, value in part.items():
            yield from _spans(f"{key}.{name}", value)
    elif isinstance(part, np.ndarray) and part.size:
        reach = part.itemsize
        for size, n in sorted((abs(s), n) for s, n in zip(part.strides, part.shape, strict=True)):
            if n > 1 and size < reach:
                raise ValueError(f"{key}: expected elements of their own, got some that overlap")
            reach += size * (n - 1)
        yield *_bounds(part), key, part


def filled(part: Any) -> Any:
    """The arrays that loading a part changes, as far as they can be found."""
    if not hasattr(part, "load_state_dict"):
        return part
    own = getattr(part, "_own", None)  # of a wrapper, whose state_dict fails within a step
    own = part.state_dict() if own is None and hasattr(part, "state_dict") else own
    return {k: v for k, v in (own or {}).items() if isinstance(v, np.ndarray)}


def check_targets(parts: Mapping[str, Any]) -> None:
    """Raise if two of the arrays in `parts` share memory, or two elements of one do."""
    near: list[tuple[int, int, str, NDArray[Any]]] = []
    spans = [span for key, part in parts.items() for span in _spans(key, part)]
    for span in sorted(spans, key=lambda span: span[:3]):
        near = [other for other in near if other[1] > span[0]]
        for other in near:
            if np.shares_memory(span[3], other[3]):
                raise ValueError(
                    f"{span[2]}: expected memory of its own, got an array that overlaps {other[2]}"
                )
        near.append(span)


def copies(pairs: Iterable[tuple[Any, Any]]) -> list[Callable[[], None]]:
    """The calls that change each first array to the second, unless it is frozen (read-only)."""
    return [partial(to.__setitem__, ..., value) for to, value in pairs if to.flags.writeable]


def as_now(dicts: Iterable[Mapping[str, Any]]) -> list[Callable[[], None]]:
    """The calls that restore the present values of these dicts, and of the arrays in them.

    An array in several of the dicts counts once.
    """
    dicts = list(dicts)
    arrays = {id(v): v for each in dicts for v in each.values() if isinstance(v, np.ndarray)}
    calls = copies([(array, array.copy()) for array in arrays.values()])
    return calls + [partial(dict.update, d, dict(d)) for d in dicts if isinstance(d, dict)]
