"""`Dropout`; the kernel is `dropout`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _checks, kernels
from .._bound import Array
from .._core import new_array
from .base import Layer, floats, gradient


class Dropout(Layer):
    """In training, an element becomes 0 with probability p, else it is divided by 1 - p.

    Srivastava et al. (2014). Each forward has a mask of its own, the same for any number of
    threads; `backward` computes it again.

    Parameters
    ----------
    p : float
        In [0, 1).
    seed : int, optional
        0..2**64-1, for the masks; drawn from `rng` by default.
    rng : numpy.random.Generator, optional

    Attributes
    ----------
    seed, dropout_calls : int
        On which the next mask depends; a part of `state_dict`.
    """

    def __init__(
        self, p: float, *, seed: int | None = None, rng: np.random.Generator | None = None
    ) -> None:
        _checks.check_rng(rng)
        self.p = _checks.check_fraction("p", p)
        super().__init__()
        rng = np.random.default_rng() if rng is None else rng
        drawn = int(rng.integers(2**64, dtype=np.uint64)) if seed is None else seed
        self.seed, self.dropout_calls = _checks.check_uint64("seed", drawn), 0

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y like x; x itself without `train`."""
        if not _checks.check_switch("train", train):
            return x
        x = floats("x", x)
        mask, y = (self.p, self.seed, self.dropout_calls), new_array(x.shape, x.dtype)
        _drop(x, y, *mask)
        # In one call, so that no exception comes between.
        self.__dict__.update(_kept=(mask, y), dropout_calls=(self.dropout_calls + 1) % 2**64)
        return y

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None."""
        _checks.check_switches(need_dx=need_dx, accumulate=accumulate)
        mask, y = self._due()
        dy = gradient(dy, y)
        dx = new_array(dy.shape, dy.dtype) if need_dx else None
        if dx is not None:
            _drop(dy, dx, *mask)
        self._kept = None
        return dx

    @property
    def _counters(self) -> dict[str, int]:
        return {"seed": self.seed, "dropout_calls": self.dropout_calls}

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape

    def __repr__(self) -> str:
        return f"Dropout({self.p})"


def _drop(x: Array, y: Array, p: float, seed: int, call: int) -> None:
    flat = (1, 1, -1)
    kernels.dropout(x.reshape(flat), y.reshape(flat), p, seed=seed, stream=call)
