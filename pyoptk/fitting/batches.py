"""Sources of batches: arrays (`Rows`), or batches of the caller (`Given`).

Both are called once for each epoch and yield `Batch`. The loop and the range test use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _checks
from .._sequences import plain


class Batch(NamedTuple):
    """Inputs, targets, lengths or None, and the number of rows (sequences)."""

    x: Any
    y: Any
    lengths: Any
    rows: int


class Rows:
    """Batches of arrays: x is copied into the same memory, so it is valid until the next one.

    Each batch of y has memory of its own, because a loss or a metric may keep it.

    Parameters
    ----------
    what : str
        What errors call the arrays: "" or "validation".
    x, y : arrays
        The batch axis of `x` is `axis`. That of `y` is `axis`, too, if `y` has the first two axes
        of `x`, a target for every step; else the first.
    lengths : integers [N] or None
    axis : int
        0 or 1.
    size : int
        Rows in a batch; the last one may be smaller.
    """

    def __init__(self, what: str, x: Any, y: Any, lengths: Any, axis: int, size: int) -> None:
        name = f"{what}.".lstrip(".")
        x, y = plain(f"{name}x", x, "an array"), plain(f"{name}y", y, "an array")
        if x.ndim <= axis:
            raise ValueError(f"{name}x: expected at least {axis + 1} axes, got shape {x.shape}")
        self.count = x.shape[axis]
        y_axis = axis if y.shape[:2] == x.shape[:2] else 0
        if self.count == 0 or y.ndim == 0 or y.shape[y_axis] != self.count:
            rows = f"{self.count} rows like x {x.shape}" if self.count else "at least one row"
            raise ValueError(f"{name}y: expected {rows}, got shape {y.shape}")
        self.arrays = [(x, axis), (y, y_axis)]
        if lengths is not None:
            lengths = plain(f"{name}lengths", lengths, "integers")
            if lengths.shape != (self.count,):
                raise ValueError(
                    f"{name}lengths: expected shape ({self.count},), got {lengths.shape}"
                )
            self.arrays.append((lengths, 0))
        self.size = min(size, self.count)
        self.steps: int | None = -(-self.count // self.size)

    def split(self, share: float) -> tuple[Rows, Rows]:
        """All but the last `share` of the rows, and these; views."""
        kept = self.count - max(1, round(self.count * share))
        if kept < 1:
            raise ValueError(f"validation: expected to leave rows to train on, got {share}")
        return self._part(slice(kept)), self._part(slice(kept, None))

    def _part(self, rows: slice) -> Rows:
        parts = [a[:, rows] if axis else a[rows] for a, axis in self.arrays]
        x, y, lengths = [*parts, None][:3]
        part = Rows("validation", x, y, lengths, self.arrays[0][1], self.size)
        part.arrays = [(a, axis) for a, (_, axis) in zip(parts, self.arrays, strict=True)]
        return part

    def __call__(self, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        """The batches of an epoch; in the order of `rng`."""
        order = np.arange(self.count) if rng is None else rng.permutation(self.count)
        (x, x_axis), (y, y_axis), *lengths = self.arrays
        room: dict[int, Any] = {}
        for start in range(0, self.count, self.size):
            rows = order[start : start + self.size]
            n = len(rows)
            if n not in room:
                room = {n: _like(x, x_axis, n)}
            x.take(rows, x_axis, room[n], "clip")
            target = y.take(rows, y_axis, None, "clip")
            yield Batch(room[n], target, lengths[0][0][rows] if lengths else None, n)


def _like(array: Any, axis: int, rows: int) -> Any:
    return np.empty((*array.shape[:axis], rows, *array.shape[axis + 1 :]), array.dtype)


def _rows(x: Any, axis: int) -> int:
    """The number of rows of a batch of the caller: an array, lists, or an object of its own."""
    x = tuple(x.values()) if isinstance(x, dict) else x
    if isinstance(x, tuple) and x and hasattr(x[0], "shape"):  # several inputs
        x = x[0]
    try:
        shape = x.shape if hasattr(x, "shape") else np.shape(x)
    except ValueError:  # sequences of different lengths
        return len(x)
    return int(shape[axis]) if len(shape) > axis else 1


class Given:
    """Batches of the caller: tuples (x, y) or (x, y, lengths), from an iterable or a function.

    A function is called with nothing and returns the iterable of an epoch.
    """

    def __init__(self, what: str, source: Any, axis: int, epochs: int) -> None:
        self.make: Callable[[], Iterable[Any]] = source if callable(source) else lambda: source
        one = not isinstance(source, Iterable) or getattr(source, "ndim", 1) == 0
        if one and not callable(source):
            raise TypeError(
                f"{what}: expected arrays, an iterable of batches or a function that returns one, "
                f"got {_checks.described(source)}"
            )
        if isinstance(source, Iterator) and epochs > 1:
            raise ValueError(
                f"{what}: expected a list or a function that returns an iterator, because there "
                f"are {epochs} epochs, got an iterator, which is used once"
            )
        self.what, self.axis = what, axis
        self.steps: int | None = len(source) if hasattr(source, "__len__") else None
        if isinstance(source, list | tuple):
            next(self())  # so that errors are raised before any training

    def __call__(self, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        found = 0
        for found, batch in enumerate(self.make(), 1):  # noqa: B007
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                raise TypeError(
                    f"{self.what}: expected batches (x, y) or (x, y, lengths), got "
                    f"{_checks.described(batch)}"
                )
            x, y, lengths = (*batch, None)[:3]
            yield Batch(x, y, lengths, _rows(x, self.axis))
        if not found:
            raise ValueError(f"{self.what}: expected at least one batch in an epoch, got none")


Source = Rows | Given


def source_of(
    model: Any, x: Any, y: Any, lengths: Any, axis: int, size: int, epochs: int
) -> Source:
    """The batches to train on, from the arguments of `training`."""
    _checks.check_choice("batch_axis", axis, (0, 1))
    batch_first = getattr(model, "batch_first", None)
    if batch_first is not None and axis != (0 if batch_first else 1):
        raise ValueError(
            f"batch_axis: expected {1 - axis}, as the model has batch_first={batch_first}, "
            f"got {axis}"
        )
    _checks.check_sizes(batch_size=size)
    if y is not None:
        return Rows("", x, y, lengths, axis, size)
    if lengths is not None:
        raise ValueError("lengths: expected None for batches, which bring them as (x, y, lengths)")
    if isinstance(x, np.ndarray):
        raise TypeError("y: expected targets for the array x, got None")
    return Given("x", x, axis, epochs)


def with_validation(
    train: Source, validation: Any, axis: int, size: int
) -> tuple[Source, Source | None]:
    """What to train on, and what to validate on, from the argument `validation`."""
    if validation is None:
        return train, None
    if isinstance(validation, float | np.floating):
        if not isinstance(train, Rows):
            raise TypeError(
                f"validation: expected (x, y) or batches, because x is batches, got {validation}"
            )
        if not 0 < validation < 1:
            raise ValueError(f"validation: expected a share in (0, 1), got {validation}")
        return train.split(float(validation))
    if isinstance(validation, tuple) and len(validation) in (2, 3):
        x, y, lengths = (*validation, None)[:3]
        return train, Rows("validation", x, y, lengths, axis, size)
    return train, Given("validation", validation, axis, 2)
