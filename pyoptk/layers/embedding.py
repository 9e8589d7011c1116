"""`Embedding`, whose gradient is `SparseRows`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import _checks
from .._bound import Array
from .._core import new_array
from .._losses import rows_of
from .._products import put_all
from .._sequences import plain
from .._sparse import SparseRows
from .base import Layer


class Embedding(Layer):
    """Rows of a table: y [..., width] for integers [...].

    Its gradient is `SparseRows`, a new object at each backward: a step changes only the rows that
    were used. There is no memory for a dense one, so `flat_grads` is empty.

    Parameters
    ----------
    rows, width : int
        Of the table, the parameter weight [rows, width].
    padding_idx : int, optional
        A row that starts at 0 and never gets a gradient.
    dtype : float32 or float64
        Of the table.
    init : {"torch", "keras"}
        torch: from N(0, 1). keras: uniform in +-0.05.
    rng : numpy.random.Generator, optional
        Draws the table.
    """

    grads: dict[str, Any]

    def __init__(
        self,
        rows: int,
        width: int,
        *,
        padding_idx: int | None = None,
        dtype: DTypeLike = np.float32,
        init: str = "torch",
        rng: np.random.Generator | None = None,
    ) -> None:
        _checks.check_sizes(rows=rows, width=width)
        _checks.check_choice("init", init, ("torch", "keras"))
        _checks.check_rng(rng)
        self.rows, self.width = int(rows), int(width)
        self.padding_idx = padding_idx
        if padding_idx is not None:
            _checks.check_integer("padding_idx", padding_idx, 0, rows, f"a row in 0..{rows - 1}")
        super().__init__({"weight": (self.rows, self.width)}, dtype)
        rng = np.random.default_rng() if rng is None else rng
        shape, table = (rows, width), self.params["weight"]
        table[...] = (
            rng.standard_normal(shape) if init == "torch" else rng.uniform(-0.05, 0.05, shape)
        )
        if padding_idx is not None:
            table[padding_idx] = 0

    def forward(self, x: ArrayLike, *, train: bool = True) -> Array:
        """y [..., width] for integers x [...] in 0..rows-1, which are not copied."""
        x = plain("x", x, "integers")
        if x.dtype.kind not in "iu":
            raise TypeError(f"x: expected integers, got {_checks.described(x)}")
        table = self._param("weight", (self.rows, self.width))
        y: Array = new_array((*x.shape, self.width), self.dtype)  # may raise MemoryError
        if x.size and (x.min() < 0 or x.max() >= self.rows):
            raise ValueError(f"x: expected rows in 0..{self.rows - 1}, got {x.min()}..{x.max()}")
        table.take(x, 0, y, "clip")
        if _checks.check_switch("train", train):
            self._kept = (x,)
        return y

    def backward(self, dy: Array, *, need_dx: bool = False, accumulate: bool = False) -> None:
        """Replaces ``grads["weight"]``, or adds to it if `accumulate`; there is no gradient of x.

        The new one refers to dy: do not change it before the step.
        """
        _checks.check_switches(need_dx=need_dx, accumulate=accumulate)
        values = rows_of("dy", dy, self.dtype, self.width)
        (x,) = self._due()
        if np.shape(dy)[:-1] != x.shape:
            raise ValueError(f"dy: expected shape {(*x.shape, self.width)}, got {np.shape(dy)}")
        shape, indices = (self.rows, self.width), x.ravel()
        grad = SparseRows(indices, values, shape, padding_idx=self.padding_idx)
        before = self.grads["weight"]
        if accumulate and before.indices.size:
            indices = np.concatenate([before.indices, grad.indices])
            grad = SparseRows(indices, np.concatenate([before.values, grad.values]), shape)
        put_all([(self.grads, {"weight": grad}), (self.__dict__, {"_kept": None})], [])

    def _grad_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def _bind_anew(self, params: Array | None, grads: Array | None) -> None:
        super()._bind_anew(params, grads)
        nothing = SparseRows([], np.zeros((0, self.width), self.dtype), (self.rows, self.width))
        dict.update(self.grads, weight=nothing)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"grads": dict(self.grads)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        dict.update(self.grads, state["grads"])

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return *(shape or (...,)), self.width

    def __repr__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"Embedding({self.rows}, {self.width}{padding})"
