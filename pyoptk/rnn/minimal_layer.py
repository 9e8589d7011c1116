"""The base of layers whose gates see the input alone: products, then a linear scan.

As no gate depends on the state, all products are made before the recurrence, which is
`pyoptk.linear_scan`. The gates between the two are NumPy.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, InitVar
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _checks, kernels
from .._arguments import Declared
from .._bound import Array, Bound, views
from .._scan import put_gradients
from .._sequences import check_lengths, check_resets
from ..scan import check_array, linear_scan, linear_scan_backward


class Attributes:
    """What a layer has besides its arguments."""

    parts: ClassVar[tuple[str, ...]]  # the suffixes of the parameters


class Minimal(Declared, Attributes, Bound):
    """Base of `minGRU` and `minLSTM`."""

    input_size: int
    hidden_size: int
    _: KW_ONLY
    bias: bool = True
    positive: bool = True
    dtype: DTypeLike = np.float32
    rng: InitVar[np.random.Generator | None] = None

    def _begin(self, given: dict[str, Any]) -> None:
        sizes = {name: given[name] for name in ("input_size", "hidden_size")}
        switches = {name: given[name] for name in ("bias", "positive")}
        rng = given.pop("rng")
        _checks.check_sizes(**sizes)
        _checks.check_switches(**switches)
        _checks.check_rng(rng)
        given |= {name: int(size) for name, size in sizes.items()}
        given |= {name: bool(on) for name, on in switches.items()}
        self.__setstate__(given | {"dtype": _checks.check_float_dtype(given["dtype"])})
        limit = 1 / math.sqrt(self.input_size)
        rng = np.random.default_rng() if rng is None else rng
        self.flat_params[:] = rng.uniform(-limit, limit, self.flat_params.size)

    # ---- the passes ------------------------------------------------------------------------------

    @np.errstate(all="ignore")
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
        x : array [T, B, I]
            `backward` reads it again; do not change it in between.
        state : array [1, B, H], optional
            Initial state; zeros by default.
        lengths : integers [B], optional
            Length of each sequence, 0..T; all T by default. After its end the state of a sequence
            does not change, and the output is 0.
        resets : bool array [T, B], optional
            Where True, the state before step t is zero.
        train : bool
            False: keep nothing for backward. That of an earlier call with True is still possible.

        Returns
        -------
        y : array [T, B, H]
        state : array [1, B, H]
            After the last step of each sequence. Both are new arrays.

        Raises
        ------
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        check_array("x", x, self.dtype, (None, None, self.input_size))
        T, B, _ = x.shape
        _checks.check_switch("train", train)
        h0 = self._state("state", state, B)
        reset = None if resets is None else check_resets(resets, T, B, False).view(np.bool_)
        past = None
        x = np.ascontiguousarray(x)
        if lengths is not None:
            past = np.arange(T)[:, None] >= check_lengths(lengths, B, T)
            reset = None if reset is None else reset & ~past
            x = x.copy()
            x[past] = 0  # so that nothing there counts, not even NaN
        a, b, saved = self._open(*(self._product(gate, x) for gate in self.parts))
        if past is not None:
            a[past], b[past] = 1, 0
        h = linear_scan(a, b, h0, resets=reset, out=b)
        y = h.copy()
        if past is not None:
            y[past] = 0
        last = np.zeros((1, B, self.hidden_size), self.dtype)
        last[0] = h[-1] if T else 0 if h0 is None else h0
        if train:
            self.__dict__["_kept"] = x, a, h, h0, reset, past, saved
        return y, last

    @np.errstate(all="ignore")
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
        dstate : array [1, B, H], optional
            Gradient with respect to the returned state.
        accumulate : bool
            Add to `grads` instead of overwriting them.
        need_dx : bool
            False: `dx` is None, and its products are not computed.

        Returns
        -------
        dx : array like `x`, or None
        dstate : array [1, B, H], or None
            Gradient with respect to the state that `forward` was given; None if it was given none.
            Both are new arrays.

        Raises
        ------
        RuntimeError
            Without a `forward` that trains before it: each allows one backward.
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        _checks.check_switches(accumulate=accumulate, need_dx=need_dx)
        kept = self.__dict__["_kept"]
        if kept is None:
            raise RuntimeError("backward: expected a forward with train=True before it")
        x, a, h, h0, resets, past, saved = kept
        if dy is not None:
            check_array("dy", dy, self.dtype, h.shape)
        of_last = self._state("dstate", dstate, h.shape[1])
        dh = np.zeros(h.shape, self.dtype) if dy is None else dy.copy("C")
        if past is not None:
            dh[past] = 0
        if of_last is not None and len(h):
            dh[-1] += of_last
        da, db, dh0 = linear_scan_backward(dh, a, h, h0, resets=resets, out=(np.empty_like(a), dh))
        if dh0 is not None and of_last is not None and not len(h):
            dh0[...] = of_last
        dk = self._close(da, db, a, *saved)
        if past is not None:
            for one in dk:
                one[past] = 0
        fresh, dx = self._gradients(x, dk, need_dx)
        put_gradients(self.__dict__, self.flat_grads, fresh, accumulate)
        return dx, None if dh0 is None else dh0[None]

    def step(self, x: Array, state: Array | None = None) -> tuple[Array, Array]:
        """One step of a stream, for inference: ``y, state = layer.step(x, state)``.

        Keeps nothing. The same bits as `forward`.

        Parameters
        ----------
        x : array [B, I]
        state : array [1, B, H], optional
            Zeros by default.

        Returns
        -------
        y : array [B, H]
        state : array [1, B, H]
            After this step. Both are new arrays.

        Raises
        ------
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        check_array("x", x, self.dtype, (None, self.input_size))
        y, last = self.forward(x[None], state, train=False)
        return y[0], last

    def _open(self, *k: Array) -> tuple[Array, Array, tuple[Array, ...]]:
        """a and b of the scan from the pre-activations, and what `_close` needs."""
        raise NotImplementedError

    def _close(self, da: Array, db: Array, a: Array, *saved: Array) -> list[Array]:
        """The gradients of the pre-activations."""
        raise NotImplementedError

    def _product(self, gate: str, x: Array) -> Array:
        """The pre-activations [T, B, H] of one gate."""
        k = np.empty((*x.shape[:2], self.hidden_size), self.dtype)
        weight = np.ascontiguousarray(self.params[f"weight_{gate}"].T)
        kernels.matmul(x.reshape(-1, x.shape[2]), weight, k.reshape(-1, k.shape[2]))
        if self.bias:
            k += self.params[f"bias_{gate}"]
        return k

    def _gradients(self, x: Array, dk: list[Array], need_dx: bool) -> tuple[Array, Array | None]:
        """All gradients of parameters in one array, and dx."""
        fresh = np.empty(self.flat_grads.size, self.dtype)
        of = views(fresh, self._shapes())
        dx = np.empty(x.shape, self.dtype) if need_dx else None
        x_t = np.ascontiguousarray(x.reshape(-1, x.shape[2]).T)
        for gate, one in zip(self.parts, dk, strict=True):
            rows = one.reshape(-1, one.shape[2])
            weight_t = np.empty((x.shape[2], rows.shape[1]), self.dtype)
            kernels.matmul(x_t, rows, weight_t)
            of[f"weight_{gate}"][...] = weight_t.T
            if self.bias:
                of[f"bias_{gate}"][...] = rows.sum(0)
            if dx is not None:
                weight, rows_of_dx = self.params[f"weight_{gate}"], dx.reshape(-1, x.shape[2])
                kernels.matmul(rows, weight, rows_of_dx, accumulate=gate != self.parts[0])
        return fresh, dx

    def _candidate(self, k: Array) -> Array:
        """What a gate lets in: k, or g(k) > 0."""
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
        H, I = self.hidden_size, self.input_size
        shapes: dict[str, tuple[int, ...]] = {f"weight_{gate}": (H, I) for gate in self.parts}
        return shapes | ({f"bias_{gate}": (H,) for gate in self.parts} if self.bias else {})

    def _state(self, name: str, state: Array | None, B: int) -> Array | None:
        if state is None:
            return None
        check_array(name, state, self.dtype, (1, B, self.hidden_size))
        found: Array = state[0].copy()
        return found

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy or pickle: sizes, parameters and gradients."""
        return {n: v for n, v in self.__dict__.items() if n not in ("params", "grads", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the buffers and the views into them again, so that a copy is a whole layer."""
        put = self.__dict__
        put.update(state, dtype=np.dtype(state["dtype"].name), _kept=None)
        self._bind_anew(state.get("flat_params"), state.get("flat_grads"))

    def _forget(self) -> None:
        self.__dict__["_kept"] = None

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of the output for one of the input, sizes or letters, for summaries."""
        return "T", "B", self.hidden_size

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not getattr(self, name, object()):
            raise AttributeError(
                f"{name}: cannot be assigned; weights are changed in place, as in "
                f"layer.params['weight_{self.parts[0]}'][...] = value"
            )

    def __repr__(self) -> str:
        settings = ", ".join(f"{n}={getattr(self, n)}" for n in ("bias", "positive", "dtype"))
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}, {settings})"
