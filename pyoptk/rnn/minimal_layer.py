"""The base of layers whose gates see the input alone: products, then a linear scan.

As no gate depends on the state, all products are made before the recurrence, which is
`pyoptk.linear_scan`. The gates between the two are NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _checks, kernels
from .._arguments import Declared
from .._bound import Array, Bound, views
from .._core import new_array
from .._held import quietly
from .._products import Guard, put_gradients
from .._sequences import check_lengths, check_resets, only_read
from ..scan import check_array, linear_scan, linear_scan_backward
from .weights import check_depth


class Attributes:
    """The attributes of a layer besides its arguments."""

    parts: ClassVar[tuple[str, ...]]  # the gates, in the names of the parameters
    _guard: Guard


class Minimal(Declared, Attributes, Bound):
    """Base of `minGRU` and `minLSTM`."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    _: KW_ONLY
    bias: bool = True
    batch_first: bool = False
    positive: bool = True
    dtype: DTypeLike = np.float32
    compute: str | None = None  # dtype of products; once made, None where that is `dtype`
    rng: InitVar[np.random.Generator | None] = None

    def _begin(self, given: dict[str, Any]) -> None:
        sizes = {name: given[name] for name in ("input_size", "hidden_size", "num_layers")}
        switches = {name: given[name] for name in ("bias", "batch_first", "positive")}
        rng = given.pop("rng")
        _checks.check_sizes(**sizes)
        _checks.check_switches(**switches)
        _checks.check_rng(rng)
        given |= {name: int(size) for name, size in sizes.items()}
        given |= {name: bool(on) for name, on in switches.items()}
        given["dtype"] = _checks.check_float_dtype(given["dtype"])
        given["compute"] = _checks.check_compute(given["compute"], given["dtype"])
        self.__setstate__(given)
        limit = 1 / math.sqrt(self.input_size)
        rng = np.random.default_rng() if rng is None else rng
        self.flat_params[:] = rng.uniform(-limit, limit, self.flat_params.size)

    # ---- the passes ------------------------------------------------------------------------------

    def forward(
        self,
        x: Array,
        state: Array | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: NDArray[np.bool_] | None = None,
        train: bool = True,
    ) -> tuple[Array, Array]:
        """The output for a batch of sequences; keeps what `backward` needs.

        Parameters
        ----------
        x : array [T, B, I], or [B, T, I] if `batch_first`
            `backward` reads it again; do not change it in between.
        state : array [L, B, H], optional
            Initial state; zeros by default. Layer by layer.
        lengths : integers [B], optional
            Length of each sequence, 0..T; all T by default. After its end the state of a sequence
            does not change, and the output is 0.
        resets : bool array [T, B], or [B, T] if `batch_first`, optional
            Where True, the state before step t is zero.
        train : bool
            False: keep nothing for backward. That of an earlier call with True is still possible.

        Returns
        -------
        y : array [T, B, H], or [B, T, H]
        state : array [L, B, H]
            After the last step of each sequence. Both are new arrays.

        Raises
        ------
        RuntimeError
            If another thread is in a call of this layer.
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        found: tuple[Array, Array] = self._guard.call(
            quietly, self._forward, x, state, lengths, resets, train
        )
        return found

    def _forward(
        self, x: Array, state: Array | None, lengths: Any, resets: Any, train: bool
    ) -> tuple[Array, Array]:
        x = only_read("x", x)
        check_array("x", x, self.dtype, (None, None, self.input_size))
        x = self._turned(x)
        T, B, _ = x.shape
        _checks.check_switch("train", train)
        initial = self._state("state", state, B)
        if resets is not None:
            resets = check_resets(resets, T, B, self.batch_first).view(np.bool_)
        past = None
        if lengths is not None:
            past = np.arange(T)[:, None] >= check_lengths(lengths, B, T)
            resets = None if resets is None else resets & ~past
            x = x.copy()
            x[past] = 0  # so that not even a NaN there has an effect
        last = np.zeros((self.num_layers, B, self.hidden_size), self.dtype)
        levels, y = [], np.ascontiguousarray(x)
        for level in range(self.num_layers):
            h0 = None if initial is None else initial[level]
            x = y
            a, b, saved = self._open(*(self._product(level, gate, x) for gate in self.parts))
            if past is not None:
                a[past], b[past] = 1, 0
            h = linear_scan(a, b, h0, resets=resets, out=b)
            last[level] = h[-1] if T else 0 if h0 is None else h0
            levels.append((x, a, h, h0, saved))
            y = h
            if past is not None and level + 1 < self.num_layers:
                y = h.copy()
                y[past] = 0
        y = self._turned(y).copy()
        if past is not None:
            self._turned(y)[past] = 0
        if train:
            self.__dict__["_kept"] = levels, resets, past
        return y, last

    def backward(
        self,
        dy: Array | None,
        dstate: Array | None = None,
        *,
        accumulate: bool = False,
        need_dx: bool = True,
    ) -> tuple[Array | None, Array | None]:
        """The gradients of the last `forward`; changes every array of `grads` in place.

        Parameters
        ----------
        dy : array like `y`, or None for zeros
            Gradient of the loss with respect to `y`.
        dstate : array [L, B, H], optional
            Gradient with respect to the returned state.
        accumulate : bool
            Add to `grads` instead of overwriting them.
        need_dx : bool
            False: `dx` is None, and its products are not computed.

        Returns
        -------
        dx : array like `x`, or None
        dstate : array [L, B, H], or None
            Gradient with respect to the state that `forward` was given; None if it was given none.
            Both are new arrays.

        Raises
        ------
        RuntimeError
            Without a `forward` that trains before it: each allows one backward. If another thread
            is in a call of this layer.
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        found: tuple[Array | None, Array | None] = self._guard.call(
            quietly, self._backward, dy, dstate, accumulate, need_dx
        )
        return found

    def _backward(
        self, dy: Array | None, dstate: Array | None, accumulate: bool, need_dx: bool
    ) -> tuple[Array | None, Array | None]:
        _checks.check_switches(accumulate=accumulate, need_dx=need_dx)
        kept = self.__dict__["_kept"]
        if kept is None:
            raise RuntimeError("backward: expected a forward with train=True before it")
        levels, resets, past = kept
        T, B, H = levels[-1][2].shape
        if dy is not None:
            dy = only_read("dy", dy)
            check_array("dy", dy, self.dtype, (B, T, H) if self.batch_first else (T, B, H))
        of_last = self._state("dstate", dstate, B)
        dh = np.zeros((T, B, H), self.dtype) if dy is None else self._turned(dy).copy("C")
        fresh = np.empty(self.flat_grads.size, self.dtype)
        grads, dx = views(fresh, self._shapes()), None
        of_first = None if levels[0][3] is None else np.zeros((len(levels), B, H), self.dtype)
        for level in reversed(range(self.num_layers)):
            x, a, h, h0, saved = levels[level]
            if past is not None:
                dh[past] = 0
            if of_last is not None and T:
                dh[-1] += of_last[level]
            out = np.empty_like(a), dh
            da, db, dh0 = linear_scan_backward(dh, a, h, h0, resets=resets, out=out)
            if of_first is not None:
                of_first[level] = dh0 if T or of_last is None else of_last[level]
            dk = self._close(da, db, a, *saved)
            if past is not None:
                for one in dk:
                    one[past] = 0
            dx = self._gradients(level, x, dk, grads, need_dx or level > 0)
            if dx is not None:
                dh = dx
        put_gradients(self.__dict__, self.flat_grads, fresh, accumulate)
        return None if dx is None else self._turned(dx).copy(), of_first

    def step(self, x: Array, state: Array | None = None) -> tuple[Array, Array]:
        """One step of a stream, for inference: ``y, state = layer.step(x, state)``.

        Keeps nothing, so several threads may step at once. The same bits as `forward`.

        Parameters
        ----------
        x : array [B, I]
        state : array [L, B, H], optional
            Zeros by default.

        Returns
        -------
        y : array [B, H]
        state : array [L, B, H]
            After this step. Both are new arrays.

        Raises
        ------
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        x = only_read("x", x)
        check_array("x", x, self.dtype, (None, self.input_size))
        y, last = quietly(self._forward, self._turned(x[None]), state, None, None, False)
        return self._turned(y)[0], last

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters into this layer's; nothing changes if a name, shape or dtype is wrong."""
        self._guard.call(super().load_state_dict, state)

    def _open(self, *k: Array) -> tuple[Array, Array, tuple[Array, ...]]:
        """a and b of the scan from the pre-activations, and what `_close` needs."""
        raise NotImplementedError

    def _close(self, da: Array, db: Array, a: Array, *saved: Array) -> list[Array]:
        """The gradients of the pre-activations."""
        raise NotImplementedError

    def _turned(self, x: Array) -> Array:
        """From the caller's order of axes to [T, B, .], or back."""
        return x.swapaxes(0, 1) if self.batch_first else x

    def _product(self, level: int, gate: str, x: Array) -> Array:
        """The pre-activations [T, B, H] of one gate."""
        H = self.hidden_size
        k: Array = new_array((*x.shape[:2], H), self.dtype)
        rows, of_k = x.reshape(-1, x.shape[2]), k.reshape(-1, H)
        weight = self._param(f"weight_{gate}_l{level}", (H, x.shape[2]))
        bias = self._param(f"bias_{gate}_l{level}", (H,)) if self.bias else None
        if self.compute:
            kernels.linear_forward(rows, weight, bias, of_k, compute=self.compute)
            return k
        kernels.matmul(rows, np.ascontiguousarray(weight.T), of_k)
        if bias is not None:
            k += bias
        return k

    def _gradients(
        self, level: int, x: Array, dk: list[Array], grads: Any, need_dx: bool
    ) -> Array | None:
        """Sets the gradients of a level; returns dx."""
        dx = np.empty(x.shape, self.dtype) if need_dx else None
        if self.compute:
            return self._rounded_gradients(level, x, dk, grads, dx)
        x_t = np.ascontiguousarray(x.reshape(-1, x.shape[2]).T)
        for gate, one in zip(self.parts, dk, strict=True):
            name, rows = f"{gate}_l{level}", one.reshape(-1, one.shape[2])
            weight_t = np.empty((x.shape[2], rows.shape[1]), self.dtype)
            kernels.matmul(x_t, rows, weight_t)
            grads[f"weight_{name}"][...] = weight_t.T
            if self.bias:
                grads[f"bias_{name}"][...] = rows.sum(0)
            if dx is not None:
                weight = self._param(f"weight_{name}", (self.hidden_size, x.shape[2]))
                rows_of_dx = dx.reshape(-1, x.shape[2])
                kernels.matmul(rows, weight, rows_of_dx, accumulate=gate != self.parts[0])
        return dx

    def _rounded_gradients(
        self, level: int, x: Array, dk: list[Array], grads: Any, dx: Array | None
    ) -> Array | None:
        """The same by products of rounded operands."""
        rows = x.reshape(-1, x.shape[2])
        of_gate = None if dx is None else np.empty_like(rows)
        for gate, one in zip(self.parts, dk, strict=True):
            weight, bias = (f"{kind}_{gate}_l{level}" for kind in ("weight", "bias"))
            kernels.linear_backward(
                one.reshape(-1, one.shape[2]), rows, self.params[weight],
                dx=of_gate, dw=grads[weight], db=grads.get(bias), compute=self.compute,
            )  # fmt: skip
            if dx is not None and of_gate is not None:
                before = 0 if gate == self.parts[0] else dx
                np.add(of_gate.reshape(dx.shape), before, out=dx)
        return dx

    def _candidate(self, k: Array) -> Array:
        """The candidate: k, or g(k) > 0."""
        if not self.positive:
            return k
        small = np.empty_like(k)
        kernels.sigmoid(k, small)
        found: Array = np.where(k >= 0, k + 0.5, small)
        return found

    def _of_candidate(self, dc: Array, c: Array) -> Array:
        """The gradient of k from that of `_candidate`."""
        if self.positive:
            dc *= np.where(c >= 0.5, 1, c * (1 - c))
        return dc

    # ---- weights and copies ----------------------------------------------------------------------

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        check_depth(self.num_layers)
        H, shapes = self.hidden_size, dict[str, tuple[int, ...]]()
        for level in range(self.num_layers):
            names = [f"{gate}_l{level}" for gate in self.parts]
            shapes |= {f"weight_{name}": (H, H if level else self.input_size) for name in names}
            shapes |= {f"bias_{name}": (H,) for name in names} if self.bias else {}
        return shapes

    def _state(self, name: str, state: Array | None, B: int) -> Array | None:
        if state is None:
            return None
        state = only_read(name, state)
        check_array(name, state, self.dtype, (self.num_layers, B, self.hidden_size))
        return state.copy("C")

    def _fresh(self) -> dict[str, Any]:
        return {"_kept": None, "_guard": Guard()}

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of the output for one of the input, sizes or letters, for summaries."""
        return *(("B", "T") if self.batch_first else ("T", "B")), self.hidden_size

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not getattr(self, name, object()):
            raise AttributeError(
                f"{name}: cannot be assigned; weights are changed in place, as in "
                f"layer.params['weight_{self.parts[0]}_l0'][...] = value"
            )

    def __repr__(self) -> str:
        names = ["num_layers", "bias", "batch_first", "positive", "dtype"]
        names += ["compute"] if self.compute else []
        settings = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}, {settings})"
