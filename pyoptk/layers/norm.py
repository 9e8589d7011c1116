"""`LayerNorm`; the kernels are `layer_norm_forward` and `layer_norm_backward`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _checks, kernels
from .._bound import Array
from .._core import new_like
from .._losses import rows_of
from .._products import finish
from .base import Layer


class LayerNorm(Layer):
    """``y = (x - mean) / sqrt(variance + eps) * weight + bias`` over the last axis.

    Ba et al. (2016).

    Parameters
    ----------
    size : int
        N, that of the last axis.
    eps : float
        At least 0. The default is PyTorch's; Keras has 1e-3.
    dtype : float32 or float64
        Of weights, inputs and outputs.

    Attributes
    ----------
    params, grads : dicts of arrays
        weight [N], which starts at 1, and bias [N], which starts at 0; changed in place.
    """

    def __init__(self, size: int, *, eps: float = 1e-5, dtype: DTypeLike = np.float32) -> None:
        _checks.check_sizes(size=size)
        self.size = int(size)
        self.eps = _checks.float32_number("eps", eps)
        super().__init__({"weight": (self.size,), "bias": (self.size,)}, dtype)
        self.params["weight"][...] = 1

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y like x [..., N], which is not copied: do not change it before `backward`."""
        _checks.check_switch("train", train)
        rows = rows_of("x", x, self.dtype, self.size)
        y = new_like(rows)
        mean, scale = np.empty((2, len(rows)), self.dtype)
        params = self.params
        kernels.layer_norm_forward(
            rows, params["weight"], params["bias"], y, mean, scale, eps=self.eps
        )
        y = y if rows is x else y.reshape(np.shape(x))
        if train:
            self._kept = rows, mean, scale, y.shape
        return y

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None; fills `grads`, or adds to them if `accumulate`."""
        dy_rows = rows_of("dy", dy, self.dtype, self.size)
        rows, mean, scale, shape = self._due()
        if (given := np.shape(dy)) != shape:
            raise ValueError(f"dy: expected shape {shape} as y has, got {given}")
        dx = new_like(rows) if _checks.check_switch("need_dx", need_dx) else None
        grads = self.grads
        finish(
            self.__dict__, kernels.layer_norm_backward,
            dy_rows, rows, self.params["weight"], mean, scale,
            dx=dx, dgain=grads["weight"], dbias=grads["bias"], accumulate=accumulate,
        )  # fmt: skip
        return dx if dx is None or dy_rows is dy else dx.reshape(shape)

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape

    def __repr__(self) -> str:
        return f"LayerNorm({self.size})"
