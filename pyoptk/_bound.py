"""`Bound`, the base of every layer: its parameters and gradients, each in one buffer.

A model (pyoptk/layers/sequential.py) moves both into buffers of its own. Recurrent layers
(pyoptk/rnn/layer.py) and all others (pyoptk/layers) are subclasses.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from . import _checks
from .checkpoint import check_arrays, fill_arrays
from .params import Fixed

Array = NDArray[np.floating[Any]]
INSTEAD = "write into the arrays, as in params[name][...] = value"


def aligned(size: int, dtype: np.dtype[Any]) -> Array:
    """Zeros [size] that begin on a cache line."""
    n_bytes = size * dtype.itemsize
    if n_bytes > sys.maxsize - 64:
        raise MemoryError(f"parameters: expected less than 2**63 bytes, got {n_bytes:,}")
    raw = np.zeros(n_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes].view(dtype)


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many elements such arrays have."""
    return sum(math.prod(shape) for shape in shapes.values())


def views(flat: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Arrays of these shapes, one after the other in `flat`."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1]) if shapes else []
    return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}


class Bound:
    """Parameters and gradients of a layer, views into one buffer each."""

    dtype: Any
    flat_params: Array
    flat_grads: Array
    params: Mapping[str, Array]
    grads: Mapping[str, Any]

    if not TYPE_CHECKING:  # where an unknown attribute is an error at once

        def __getattr__(self, name):
            if name in self.__dict__.get("params", ()):
                raise AttributeError(f"{name}: an array of params; expected params[{name!r}]")
            raise _checks.no_attribute(self, name)

        def __call__(self, *_, **__):
            raise TypeError(f"{type(self).__name__} is not callable; did you mean forward?")

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every parameter by name."""
        raise NotImplementedError

    def _grad_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every gradient that is in the buffer."""
        return self._shapes()

    def _bind(self, params: Array, grads: Array) -> None:
        """Let these be the memory of the parameters and the gradients, whose values are there.

        The dicts stay the same objects: an optimizer that was made of them sees that its arrays
        were replaced, and says so.
        """
        put = self.__dict__
        shapes = {"params": self._shapes(), "grads": self._grad_shapes()}
        for name, flat in (("params", params), ("grads", grads)):
            arrays = views(flat, shapes[name])
            if put.get(name) is None:
                put[name] = Fixed(arrays, INSTEAD)
            dict.update(put[name], arrays)
            put[f"flat_{name}"] = flat

    def _bind_anew(self, params: Array | None, grads: Array | None) -> None:
        """Buffers of its own, with these values or zeros."""
        shapes = self._shapes(), self._grad_shapes()
        made = [aligned(size_of(each), np.dtype(self.dtype)) for each in shapes]
        for flat, given in zip(made, (params, grads), strict=True):
            if given is not None:
                flat[:] = given
        self._bind(*made)

    def shared(self) -> Self:
        """A layer with the same parameters and gradients, and memory of its own for the passes.

        A layer keeps what one forward leaves for one backward. To run it on several inputs before
        the backward calls, as a siamese network does, run a shared one on each, and add up:

            a, b = model.forward(x_a), other.forward(x_b)  # other = model.shared(), once
            model.backward(da)
            other.backward(db, accumulate=True)

        Masks of dropout are others. Make it after the model that the layer is a part of.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._forget()
        return other

    def _forget(self) -> None:
        """Memory of its own for the passes of one that shares parameters with another."""
        raise NotImplementedError

    @property
    def _counters(self) -> dict[str, int]:
        """The numbers on which masks of dropout depend; attributes of these names."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The parameters by name; PyTorch's names, the layer's own arrays.

        With dropout also the seed and the number of calls, on which its masks depend.
        """
        return dict(self.params) | self._counters

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters into this layer's; nothing changes if a name, shape or dtype is wrong."""
        self.check_state_dict(state)
        fill_arrays(dict(self.params), {name: state[name] for name in self.params})
        self.__dict__.update({name: int(state[name]) for name in self._counters})

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise."""
        check_arrays(dict(self.params) | self._counters, state, "state")
        for name in self._counters:
            _checks.check_uint64(f"state[{name!r}]", state[name])
