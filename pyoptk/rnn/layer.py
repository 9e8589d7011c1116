"""What all recurrent layers have: weights in one piece, copies, state dicts."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from .. import _checks
from ..checkpoint import check_arrays, fill_arrays
from ..params import Fixed
from .weights import INITIALIZERS, Array, aligned, initialize, views


class Layer:
    """Base of the recurrent layers: their attributes, and what does not depend on the cell."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    dropout: float
    seed: int  # of the masks of dropout
    dropout_calls: int  # which mask is next
    save: str
    dtype: np.dtype[Any]
    flat_params: Array
    flat_grads: Array
    params: Mapping[str, Array]
    grads: Mapping[str, Array]
    _lock: threading.Lock
    _kept: dict[str, Any]  # made when it is needed, and again in a copy

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        seed: int | None = None,
        save: str = "full",
        dtype: DTypeLike = np.float32,
        init: str = "torch",
        rng: np.random.Generator | None = None,
    ) -> None:
        _checks.check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        _checks.check_switches(bias=bias, batch_first=batch_first, bidirectional=bidirectional)
        _checks.check_choice("save", save, ("full", "minimal"))
        _checks.check_choice("init", init, INITIALIZERS)
        _checks.check_rng(rng)
        dropout = _checks.check_dropout(dropout, seed, num_layers)
        rng = np.random.default_rng() if rng is None else rng
        self.__setstate__(
            {
                "input_size": int(input_size),
                "hidden_size": int(hidden_size),
                "num_layers": int(num_layers),
                "bias": bool(bias),
                "batch_first": bool(batch_first),
                "bidirectional": bool(bidirectional),
                "dropout": dropout,
                "seed": int(seed or 0),
                "dropout_calls": 0,
                "save": save,
                "dtype": _checks.check_float_dtype(dtype),
            }
        )
        initialize(self.flat_params, self.params, init, rng)
        if dropout and seed is None:
            self.__dict__["seed"] = int(rng.integers(2**64, dtype=np.uint64))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along: sizes, parameters and gradients."""
        left_out = ("params", "grads", "_kept", "_lock")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the buffers and the views into them, so that a copy is as whole as the original."""
        put = self.__dict__
        put.update(state)
        shapes = self._shapes()
        size = sum(math.prod(shape) for shape in shapes.values())
        instead = "write into the arrays, as in params[name][...] = value"
        for flat, name in (("flat_params", "params"), ("flat_grads", "grads")):
            put[flat] = aligned((size,), self.dtype)
            put[flat][:] = state.get(flat, 0)
            put[name] = Fixed(views(put[flat], shapes), instead)
        put.update(_kept={}, _lock=threading.Lock())

    def __setattr__(self, name: str, value: Any) -> None:
        if value is getattr(self, name, object()):
            return  # `lstm.flat_params += 1` has changed the array, then sets the same one again
        raise AttributeError(
            f"{name}: cannot be assigned; weights are changed in place, as in "
            "lstm.params['weight_ih_l0'][...] = value"
        )

    def _refuse(self) -> NoReturn:
        """Two threads in one layer would share its memory."""
        raise RuntimeError("this layer is in use in another thread already")

    @property
    def _counters(self) -> dict[str, int]:
        """Where dropout stands: without it, a resumed training would go on with other masks."""
        return {n: getattr(self, n) for n in ("seed", "dropout_calls")} if self.dropout else {}

    def state_dict(self) -> dict[str, Any]:
        """The parameters by name; PyTorch's names, the layer's own arrays.

        With dropout also `seed` and `dropout_calls`, on which its masks depend.
        """
        return dict(self.params) | self._counters

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters into this layer's; nothing changes if a name, shape or dtype is wrong."""
        self.check_state_dict(state)
        fill_arrays(dict(self.params), {name: state[name] for name in self.params})
        self.__dict__.update({name: int(state[name]) for name in self._counters})

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would."""
        check_arrays(dict(self.params) | self._counters, state, "state")
        for name in self._counters:
            _checks.check_uint64(f"state[{name!r}]", state[name])
