"""Recurrent layers: weights, forward, backward. The arithmetic is compiled (csrc/kernels/rnn.h)."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _core
from .checkpoint import check_arrays, fill_arrays

Array = NDArray[np.floating[Any]]
State = tuple[Array, Array]


@dataclass
class _Memory:
    """What a layer stack needs for one shape of input; used again while the shape stays."""

    key: tuple[int, int, str]  # T, B, instruction set
    plan: _core.LSTMPlan
    x: Array | None = None  # the last input, until its backward
    lengths: NDArray[np.int64] | None = None


class LSTM:
    """Long short-term memory layers (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    ``i, f, o = sigmoid(...), g = tanh(...)`` of ``w_ih x_t + b_ih + w_hh h_{t-1} + b_hh``, then
    ``c_t = f * c_{t-1} + i * g`` and ``h_t = o * tanh(c_t)``; each layer's input is the output of
    the one below. Weights, gate order (i, f, g, o) and names are PyTorch's.

    One thread at a time: a second one in the same layer is refused. Copies and pickles are whole
    layers of their own.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L, at least 1.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether sequences are [B, T, features] instead of [T, B, features]. Strides do it: nothing
        is transposed.
    dtype : float32 or float64
        Of weights, inputs and outputs.
    rng : numpy.random.Generator, optional
        Draws the weights, uniformly from [-1/sqrt(H), 1/sqrt(H)] as PyTorch does.

    Attributes
    ----------
    params, grads : mappings of names to arrays
        weight_ih_l0 [4H, I] (in higher layers [4H, H]), weight_hh_l0 [4H, H], bias_ih_l0 and
        bias_hh_l0 [4H], then those of layer 1, ...: views into `flat_params` and `flat_grads`.
        Read-only dicts; the arrays may be changed in place, between a backward and the next
        forward: every call reads them anew.
    flat_params, flat_grads : arrays
        All parameters, and all gradients, in one piece.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> lstm = pyoptk.LSTM(3, 8, rng=np.random.default_rng(0))
    >>> opt = pyoptk.Adam(lstm.params, lr=0.02)
    >>> x = np.random.default_rng(1).standard_normal((5, 4, 3), dtype=np.float32)
    >>> for _ in range(100):  # teach it to output 0.5 at the last step
    ...     y, (h, c) = lstm.forward(x)
    ...     dy = np.zeros_like(y)
    ...     dy[-1] = y[-1] - 0.5
    ...     dx, _ = lstm.backward(dy)
    ...     opt.step(lstm.grads)
    >>> bool(np.abs(lstm.forward(x)[0][-1] - 0.5).max() < 0.1)
    True
    """

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dtype: np.dtype[Any]
    flat_params: Array
    flat_grads: Array
    params: Mapping[str, Array]
    grads: Mapping[str, Array]
    _memory: _Memory | None
    _lock: threading.Lock

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ) -> None:
        _core.check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        _core.check_switches(bias=bias, batch_first=batch_first)
        _core.check_rng(rng)
        self.__setstate__(
            {
                "input_size": int(input_size),
                "hidden_size": int(hidden_size),
                "num_layers": int(num_layers),
                "bias": bool(bias),
                "batch_first": bool(batch_first),
                "dtype": _core.check_float_dtype(dtype),
            }
        )
        bound = 1 / math.sqrt(hidden_size)
        rng = np.random.default_rng() if rng is None else rng
        self.flat_params[:] = rng.uniform(-bound, bound, self.flat_params.size)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along: sizes, parameters and gradients."""
        left_out = ("params", "grads", "_memory", "_lock")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the buffers and the views into them, so that a copy is as whole as the original."""
        put = self.__dict__
        put.update(state)
        shapes = self._shapes()
        size = sum(math.prod(shape) for shape in shapes.values())
        for flat, views in (("flat_params", "params"), ("flat_grads", "grads")):
            put[flat] = _aligned((size,), self.dtype)
            put[flat][:] = state.get(flat, 0)
            put[views] = MappingProxyType(_views(put[flat], shapes))
        put.update(_memory=None, _lock=threading.Lock())

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"{name}: cannot be assigned; weights are changed in place, as in "
            "lstm.params['weight_ih_l0'][...] = value"
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two threads in one layer would share its memory."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("this layer is in use in another thread already")
        try:
            yield
        finally:
            self._lock.release()

    def forward(
        self, x: Array, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """The output for a batch of sequences; remembers what `backward` needs.

        Parameters
        ----------
        x : array [T, B, I], or [B, T, I] if `batch_first`
            Kept, not copied, until `backward`: do not change it in between.
        state : (h, c), arrays [L, B, H], optional
            Initial state; zeros by default.
        lengths : integers [B], optional
            Length of each sequence, 0..T, in any order; all T by default. Behind its end a
            sequence's output is 0 and its state stays.

        Returns
        -------
        y : array [T, B, H] or [B, T, H]
            Output of the last layer; a new array.
        (h, c) : arrays [L, B, H]
            State after the last step of each sequence; new arrays.

        Raises
        ------
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        with self._alone():
            return self._forward(x, state, lengths)

    def _forward(
        self, x: Array, state: State | None, lengths: ArrayLike | None
    ) -> tuple[Array, State]:
        L, H = self.num_layers, self.hidden_size
        x = self._time_major("x", x, self.input_size)
        T, B, _ = x.shape
        if lengths is not None:
            lengths = _core.check_lengths(lengths, B, T)
        if state is not None:
            _core.check_pair("state", state, (L, B, H), self.flat_params)
            state = (np.ascontiguousarray(state[0]), np.ascontiguousarray(state[1]))
        memory = self._memory_for(T, B)
        memory.x, memory.lengths = None, lengths
        y = np.empty((B, T, H) if self.batch_first else (T, B, H), self.dtype)
        last = (np.empty((L, B, H), self.dtype), np.empty((L, B, H), self.dtype))
        out = y.swapaxes(0, 1) if self.batch_first else y
        memory.plan.forward(x, out, state, last, lengths, False)
        memory.x = x
        return y, last

    def backward(
        self, dy: Array | None, dstate: State | None = None, *, accumulate: bool = False
    ) -> tuple[Array, State]:
        """The gradients of the last `forward`; changes every array of `grads` in place.

        Parameters
        ----------
        dy : array like `y`, or None for zeros
            Gradient of the loss with respect to `y`.
        dstate : (dh, dc), arrays [L, B, H], optional
            Gradients with respect to the returned state; zeros by default.
        accumulate : bool
            Add to `grads` instead of overwriting them.

        Returns
        -------
        dx : array like `x`
        (dh0, dc0) : arrays [L, B, H]
            Gradients with respect to the initial state. All are new arrays.

        Raises
        ------
        RuntimeError
            Without a `forward` before it: each forward allows one backward.
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        with self._alone():
            return self._backward(dy, dstate, accumulate)

    def _backward(
        self, dy: Array | None, dstate: State | None, accumulate: bool
    ) -> tuple[Array, State]:
        _core.check_switches(accumulate=accumulate)
        memory = self._memory
        if memory is None or memory.x is None:
            raise RuntimeError(
                "backward: expected a forward before it, got none since the last backward"
            )
        L, H, x = self.num_layers, self.hidden_size, memory.x
        T, B, I = x.shape
        if dy is not None:
            dy = self._time_major("dy", dy, H, (T, B))
        if dstate is not None:
            _core.check_pair("dstate", dstate, (L, B, H), self.flat_params)
            dstate = (np.ascontiguousarray(dstate[0]), np.ascontiguousarray(dstate[1]))
        dx = np.empty((B, T, I) if self.batch_first else (T, B, I), self.dtype)
        dfirst = (np.empty((L, B, H), self.dtype), np.empty((L, B, H), self.dtype))
        memory.x = None  # the gates are about to be overwritten
        out = dx.swapaxes(0, 1) if self.batch_first else dx
        memory.plan.backward(x, dy, dstate, out, dfirst, accumulate)
        return dx, dfirst

    def state_dict(self) -> dict[str, Array]:
        """The parameters by name; PyTorch's names, the layer's own arrays."""
        return dict(self.params)

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy parameters into this layer's; nothing changes if a name, shape or dtype is wrong."""
        self.check_state_dict(state)
        fill_arrays(dict(self.params), state)

    def check_state_dict(self, state: Mapping[str, Array]) -> None:
        """Raise what `load_state_dict` would."""
        check_arrays(self.params, state, "state")

    def __repr__(self) -> str:
        return (
            f"LSTM({self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"bias={self.bias}, batch_first={self.batch_first}, dtype={self.dtype})"
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        H = self.hidden_size
        for layer in range(self.num_layers):
            shapes[f"weight_ih_l{layer}"] = (4 * H, H if layer else self.input_size)
            shapes[f"weight_hh_l{layer}"] = (4 * H, H)
            if self.bias:
                shapes[f"bias_ih_l{layer}"] = shapes[f"bias_hh_l{layer}"] = (4 * H,)
        return shapes

    def _time_major(
        self, name: str, x: Array, features: int, expected: Sequence[int | None] = (None, None)
    ) -> Array:
        """`x` as a view [T, B, features]; a copy only where its last axis is not adjacent."""
        steps, rows = expected
        axes = (rows, steps, features) if self.batch_first else (steps, rows, features)
        _core.check_sequence(name, x, axes, self.flat_params)
        x = np.asarray(x)
        if x.shape[2] > 1 and x.strides[2] != x.itemsize:
            x = np.ascontiguousarray(x)
        return x.swapaxes(0, 1) if self.batch_first else x

    def _memory_for(self, T: int, B: int) -> _Memory:
        """Memory for T steps of B sequences: the last one if the shape is still the same."""
        key = (T, B, _core.isa())
        memory = self._memory
        if memory is None or memory.key != key:
            sizes = (self.input_size, self.hidden_size, self.num_layers, 1)
            plan = _core.LSTMPlan(self.flat_params, self.flat_grads, sizes, self.bias, T, B, "full")
            memory = self.__dict__["_memory"] = _Memory(key, plan)
        return memory


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialized array that begins on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _views(flat: Array, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    views, start = {}, 0
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        views[name] = flat[start:end].reshape(shape)
        start = end
    return views
