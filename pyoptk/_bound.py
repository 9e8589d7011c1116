"""`Bound`, the base of every layer: its parameters and gradients, each in one buffer.

A model (pyoptk/layers/sequential.py) moves both into buffers of its own. Recurrent layers
(pyoptk/rnn/layer.py) and all others (pyoptk/layers) are subclasses. `Movable` is what layers and
models have in common.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from . import _checks
from ._elsewhere import no_attribute
from ._products import put_all
from .checkpoint import check_arrays, fill_arrays
from .params import Fixed

Array = NDArray[np.floating[Any]]
INSTEAD = "write into the arrays, as in params[name][...] = value"
MEMORY = ("params", "grads", "flat_params", "flat_grads")
Moves = list[tuple[Any, dict[str, Any]]]  # dicts or objects, and their new entries


def aligned(size: int, dtype: np.dtype[Any]) -> Array:
    """Zeros [size] that begin on a cache line."""
    n_bytes = size * dtype.itemsize
    if n_bytes > sys.maxsize - 64:
        raise MemoryError(f"parameters: expected less than 2**63 bytes, got {n_bytes:,}")
    raw = np.zeros(n_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes].view(dtype)


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of elements of arrays of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def views(flat: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Arrays of these shapes, one after the other in `flat`."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1]) if shapes else []
    return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}


def check_dtype(flat: Array, dtype: np.dtype[Any]) -> None:
    """Raise if somebody has set the dtype of a buffer in place."""
    if flat.dtype != dtype:
        raise TypeError(f"flat_params: expected {dtype} as it was made, got {flat.dtype}")


class Kin(weakref.WeakSet[Any]):
    """Layers or models that share parameters: all move at once."""

    made = 0  # by `shared`


class Movable:
    """Base of layers and models: their buffers of parameters and gradients can move."""

    flat_params: Array
    flat_grads: Array
    params: Mapping[str, Array] = MappingProxyType({})
    grads: Mapping[str, Any] = MappingProxyType({})
    _kin: Any = None  # the `Kin` of a shared layer or model
    _places: Any = None  # those of its layers, if it is a model
    _owner: Any = None  # a weak reference to the model whose buffers they are in

    if not TYPE_CHECKING:  # where this is an error at once

        def __call__(self, *_, **__):
            raise TypeError(f"{type(self).__name__} is not callable; did you mean forward?")

        def __setattr__(self, name, value):
            # `layer.flat_params *= 2` sets the same array again. Asking for the __dict__ of a
            # model would make Python slower at finding its attributes from then on.
            other = name in MEMORY and getattr(self, name, None) is not value
            if other or name in self.params:
                raise AttributeError(f"{name}: cannot be assigned; {INSTEAD}")
            object.__setattr__(self, name, value)

    def _moves(self, params: Array, grads: Array) -> Moves:
        """The moves to these buffers, which already hold the values; the first two are the dicts.

        The dicts stay the same objects, so that an optimizer that was made from them notices that
        its arrays were replaced.
        """
        raise NotImplementedError

    def _begin_memory(self) -> None:
        put_all([(self, {name: Fixed({}, INSTEAD) for name in ("params", "grads")})], [])

    def _move(self, params: Array, grads: Array) -> None:
        """Move parameters and gradients to these buffers, which already hold the values.

        The old arrays become read-only, so that a step that would change them is refused.
        """
        put_all(self._moves(params, grads), self._left())

    def _left(self) -> list[Any]:
        """The arrays that a move replaces."""
        return [getattr(self, name) for name in MEMORY[2:]] if self.params else []

    def _put_in_all(self, entries: dict[str, Any]) -> Moves:
        """The moves that set attributes of this object and of all that share its parameters."""
        return [(one, entries) for one in self._kin or (self,)]

    def _twin(self) -> Self:
        """Another object with the same attributes, which moves with this one."""
        if self._kin is None:
            put_all([(self, {"_kin": Kin([self])})], [])
        self._kin.made += 1
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        self._kin.add(other)
        return other


def unknown(of: Any, name: str) -> Any:
    """Raise the error for an attribute that a layer lacks."""
    if name in of.__dict__.get("params", ()):
        raise AttributeError(f"{name}: an array of params; expected params[{name!r}]")
    raise no_attribute(of, name)


class Bound(Movable):
    """Parameters and gradients of a layer, views into one buffer each."""

    dtype: Any

    def __init_subclass__(cls, *, quick: bool = False, **others: Any) -> None:
        """Let errors for unknown attributes say what is meant.

        `quick`: not so, because such a class makes Python slower at finding all its attributes.
        """
        super().__init_subclass__(**others)
        if not quick and not hasattr(cls, "__getattr__"):
            cls.__getattr__ = unknown  # type: ignore[attr-defined]

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every parameter by name."""
        raise NotImplementedError

    def _grad_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every gradient that is in the buffer."""
        return self._shapes()

    def _moves(self, params: Array, grads: Array) -> Moves:
        moves: Moves = []
        shapes = self._shapes(), self._grad_shapes()
        for kind, flat, each in zip(MEMORY, (params, grads), shapes, strict=False):
            own, arrays = getattr(self, kind), views(flat, each)
            for name in own.keys() & arrays.keys():  # a frozen one stays so
                arrays[name].flags.writeable = own[name].flags.writeable
            moves.append((own, arrays))
        entries = {"flat_params": params, "flat_grads": grads, **self._fresh()}
        return moves + self._put_in_all(entries)

    def _left(self) -> list[Any]:
        arrays = (*self.params.values(), *self.grads.values())
        return super()._left() + [array for array in arrays if isinstance(array, np.ndarray)]

    def _bind_anew(self, params: Array | None, grads: Array | None) -> None:
        """Buffers of its own, with these values or zeros."""
        shapes, dtype = (self._shapes(), self._grad_shapes()), np.dtype(self.dtype)
        made = [aligned(size_of(each), dtype) for each in shapes]
        for flat, given in zip(made, (params, grads), strict=True):
            if given is not None:
                check_dtype(given, dtype)
                flat[:] = given
        self._begin_memory()
        self._move(*made)

    def shared(self) -> Self:
        """A layer with the same parameters and gradients, and memory of its own for the passes.

        A layer keeps one forward for one backward. To run it on several inputs before the backward
        calls, as a siamese network does, run a shared layer on each, and add the gradients:

            a, b = model.forward(x_a), other.forward(x_b)  # other = model.shared(), once
            model.backward(da)
            other.backward(db, accumulate=True)

        Its masks of dropout are different.
        """
        other = self._twin()
        other.__dict__.update(other._fresh())
        if "seed" in other.__dict__:
            drawn = np.random.SeedSequence((other.__dict__["seed"] or 0, other._kin.made))
            other.__dict__["seed"] = int(drawn.generate_state(1, np.uint64)[0])
        return other

    def _param(self, name: str, shape: tuple[int, ...]) -> Array:
        """A parameter; raise if somebody has set its dtype, shape or strides in place."""
        array = self.params[name]
        if array.dtype != self.dtype or array.shape != shape or not array.flags.c_contiguous:
            raise ValueError(
                f"params[{name!r}]: expected C-contiguous {self.dtype} {shape} as it was made, got "
                f"{_checks.described(array)} with strides {array.strides}"
            )
        return array

    def _fresh(self) -> dict[str, Any]:
        """New memory for the passes, as attributes."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy or pickle: attributes, parameters and gradients."""
        left_out = ("params", "grads", "_kin", "_owner", *self._fresh())
        state = {name: value for name, value in self.__dict__.items() if name not in left_out}
        return state | {"frozen": [n for n, a in self.params.items() if not a.flags.writeable]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the buffers and the views into them again, so that a copy is a whole layer."""
        state = dict(state)
        frozen = state.pop("frozen", ())
        # NumPy's own dtype, which that of a copy is not
        self.__dict__.update(state, dtype=np.dtype(state["dtype"].name), **self._fresh())
        self._bind_anew(state.get("flat_params"), state.get("flat_grads"))
        for name in frozen:
            self.params[name].flags.writeable = False

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
