"""`Last` and `Flatten`: layers that select and reshape, without parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _checks
from .._bound import Array
from .._core import new_array
from .._sequences import check_lengths, plain
from ..rnn.cells import LSTM
from ..rnn.layer import Layer as Recurrent
from .base import FLOATS, Layer, gradient


class Last(Layer):
    """The last valid step of each sequence: y [B, H] for x [T, B, H]; by lengths where given.

    Parameters
    ----------
    batch_first : bool
        x is [B, T, H].
    bidirectional : bool
        The second half of the features is that of the first step, where the backward direction of
        a recurrent layer ends.
    """

    def __init__(self, *, batch_first: bool = False, bidirectional: bool = False) -> None:
        _checks.check_switches(batch_first=batch_first, bidirectional=bidirectional)
        super().__init__()
        self.batch_first, self.bidirectional = bool(batch_first), bool(bidirectional)

    def forward(self, x: Array, *, lengths: ArrayLike | None = None, train: bool = True) -> Array:
        """y [B, H]; 0 for a sequence of length 0."""
        _checks.check_switch("train", train)
        x = plain("x", x, "floats of 3 axes")
        if x.ndim != 3 or x.dtype not in FLOATS:
            raise ValueError(f"x: expected floats of 3 axes, got {_checks.described(x)}")
        steps = x.swapaxes(0, 1) if self.batch_first else x
        T, B, H = steps.shape
        if self.bidirectional and H % 2:
            raise ValueError(f"x: expected as many features each way, got shape {x.shape}")
        last = None if lengths is None else check_lengths(lengths, B, T)
        y = np.zeros((B, H), x.dtype)
        picked = self._picked(last, H) if T else []
        for steps_at, y_at in picked:
            y[y_at] = steps[steps_at]
        if train:
            self._kept = x.shape, self.batch_first, picked, y
        return y

    def _picked(self, last: NDArray[np.int64] | None, H: int) -> list[tuple[Any, Any]]:
        """Indices of the selected elements, in x [T, B, H] and in y, for each direction."""
        at: Any
        some: Any
        at, some, first = -1, slice(None), 0  # a view, where sequences have no lengths
        if last is not None:
            (some,) = np.nonzero(last)
            at = last[some] - 1
            first = 0 * at
        half = slice(H // 2 if self.bidirectional else H)
        places = [((at, some, half), (some, half))]
        if self.bidirectional:
            rest = slice(H // 2, None)
            places += [((first, some, rest), (some, rest))]
        return places

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None."""
        _checks.check_switches(need_dx=need_dx, accumulate=accumulate)
        shape, batch_first, picked, y = self._due()
        dy = gradient(dy, y)
        dx = new_array(shape, y.dtype) if need_dx else None
        if dx is not None:
            dx.fill(0)
            steps = dx.swapaxes(0, 1) if batch_first else dx
            for steps_at, y_at in picked:
                steps[steps_at] = dy[y_at]
        self._kept = None
        return dx

    def _to_state(self, dy: Array, before: Any) -> Any:
        """Instead of `backward`: dy as `dstate` of the recurrent layer before, or None.

        y is a state of that layer if all sequences have their last step in common. Then nobody
        makes and reads a gradient of all steps, zeros but for one.
        """
        usual = isinstance(before, Recurrent) and type(before).backward is Recurrent.backward
        if not usual or before.bidirectional or self.bidirectional:
            return None
        _, _, picked, y = self._due()
        if not picked or not isinstance(picked[0][0][0], int):
            return None
        dy = gradient(dy, y)
        dh = np.zeros((before.num_layers, *dy.shape), dy.dtype)
        dh[-1] = dy
        self._kept = None
        return (dh, None) if isinstance(before, LSTM) else dh

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return ("B", shape[-1]) if shape else ()

    def __repr__(self) -> str:
        given = [name for name in ("batch_first", "bidirectional") if getattr(self, name)]
        return f"Last({', '.join(f'{name}=True' for name in given)})"


class Flatten(Layer):
    """[B, ...] to [B, N], N the product of the other axes."""

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y [B, N], a view where possible."""
        _checks.check_switch("train", train)
        x = plain("x", x, "2 axes or more")
        if x.ndim < 2:
            raise ValueError(f"x: expected 2 axes or more, got {_checks.described(x)}")
        y = x.reshape(len(x), math.prod(x.shape[1:]))
        if train:
            self._kept = x.shape, y
        return y

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None."""
        _checks.check_switches(need_dx=need_dx, accumulate=accumulate)
        shape, y = self._due()
        dx = gradient(dy, y).reshape(shape)
        self._kept = None
        return dx if need_dx else None

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        known = shape and shape[0] is not ... and all(isinstance(n, int) for n in shape[1:])
        return ("B", math.prod(shape[1:]) if known else ...)
