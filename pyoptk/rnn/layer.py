"""`Layer`, the base class of the recurrent layers: weights, both passes, steps, copies.

The classes of cells.py are its subclasses. The passes are in _rnn.pyx, the arithmetic is in
csrc/kernels (lstm.c, gru.c, rnn.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import _checks
from .._arguments import Declared
from .._bound import Bound
from .._rnn import Passes, Stepper
from .stats import Stats, stats_of
from .weights import INITIALIZERS, Array, initialize, shapes_of

if TYPE_CHECKING:
    from dataclasses import KW_ONLY, InitVar

# Of some layers.
OWN_ARGUMENTS = (
    "nonlinearity", "reset_after", "proj_size", "peepholes", "coupled", "cell_clip", "compute",
    "recurrent_dropout", "recurrent_dropout_of", "zoneout", "layer_norm",
)  # fmt: skip
State = TypeVar("State")  # an array for each state of the cell: h, or the pair (h, c)


class Attributes:
    """The attributes of a layer besides its arguments."""

    cell: ClassVar[str]
    gates: ClassVar[int]
    open_gate: ClassVar[int | None] = None  # the gate whose bias Keras starts at 1
    droppable: ClassVar[tuple[str, ...]] = ("state", "candidate")  # by recurrent dropout
    not_normed: ClassVar[tuple[str, ...]] = ()  # options that layer_norm excludes
    relu: bool = False
    proj_size: int = 0
    peepholes: bool = False
    cell_clip: float | None = None
    layer_norm: bool = False
    compute: str | None = None
    dropout_calls: int  # which mask of dropout is next
    _passes: Passes
    _stepper: Stepper | None


class Layer(Declared, Attributes, Bound, Generic[State]):
    """Base of the recurrent layers."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    _: KW_ONLY
    bias: bool = True
    batch_first: bool = False
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    recurrent_dropout_of: str = "state"
    zoneout: Any = 0.0
    seed: int | None = None  # an int in a constructed layer
    save: str = "full"
    dtype: DTypeLike = np.float32  # a numpy.dtype, once made
    compute: str | None = None  # dtype of products; once made, None where that is `dtype`
    init: InitVar[str] = "torch"
    rng: InitVar[np.random.Generator | None] = None

    def _begin(self, given: dict[str, Any]) -> None:
        sizes = {name: given[name] for name in ("input_size", "hidden_size", "num_layers")}
        switches = {name: given[name] for name in ("bias", "batch_first", "bidirectional")}
        init, rng, seed = given.pop("init"), given.pop("rng"), given["seed"]
        _checks.check_sizes(**sizes)
        _checks.check_switches(**switches)
        _checks.check_choice("save", given["save"], ("full", "minimal"))
        _checks.check_choice("init", init, INITIALIZERS)
        _checks.check_rng(rng)
        dropout = _checks.check_dropout(given["dropout"], seed, sizes["num_layers"])
        _checks.check_choice("recurrent_dropout_of", given["recurrent_dropout_of"], self.droppable)
        for name in ("recurrent_dropout", "zoneout"):
            given[name] = self._rates(name, given[name])
        rng = np.random.default_rng() if rng is None else rng
        given |= {name: int(size) for name, size in sizes.items()}
        given |= {name: bool(on) for name, on in switches.items()}
        given |= {"dropout": dropout, "seed": int(seed or 0), "dropout_calls": 0}
        given["dtype"] = _checks.check_float_dtype(given["dtype"])
        given["compute"] = _checks.check_compute(given["compute"], given["dtype"])
        if given.get("layer_norm"):
            self._check_normed(given)
            self.__dict__["cell"] = f"{self.cell}_normed"
        self.__setstate__(given)
        initialize(self.flat_params, self.params, init, self.hidden_size, self.open_gate, rng)
        if (dropout or self.is_noisy) and seed is None:
            self.__dict__["seed"] = int(rng.integers(2**64, dtype=np.uint64))

    def _rates(self, name: str, given: Any) -> Any:
        """A probability, as a float."""
        return _checks.check_fraction(name, given)

    def _check_normed(self, given: dict[str, Any]) -> None:
        for name in ("recurrent_dropout", "zoneout", "compute", *self.not_normed):
            default = self._arguments[name].default
            if given[name] != default:
                raise ValueError(f"{name}: expected {default} with layer_norm, got {given[name]}")

    @property
    def zoneout_rates(self) -> tuple[float, float]:
        """Of c and of h."""
        return 0.0, self.zoneout

    @property
    def is_noisy(self) -> bool:
        """Whether training draws masks within the layers."""
        return self.recurrent_dropout > 0 or any(self.zoneout_rates)

    @property
    def directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    # ---- the passes ------------------------------------------------------------------------------

    def forward(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        past_end: str = "zeros",
        resets: ArrayLike | None = None,
        reset_to: str = "zeros",
        train: bool = True,
        out: Array | None = None,
    ) -> tuple[Array, State]:
        """The output for a batch of sequences; keeps what `backward` needs.

        Parameters
        ----------
        x : array [T, B, I], or [B, T, I] if `batch_first`
            `backward` reads it again; it is not copied, so do not change it in between.
        state : h, or (h, c) of an LSTM; arrays [L * D, B, H], optional
            Initial state; zeros by default. Layer by layer, forward before backward direction.
        lengths : integers [B], optional
            Length of each sequence, 0..T, in any order; all T by default. After its end the state
            of a sequence does not change, and the backward direction begins there. If the batch is
            sorted by length, all steps past an end are skipped, otherwise some.
        past_end : {"zeros", "repeat"}
            The output past the end: 0, as in PyTorch's packed sequences, or the last state, as in
            Keras. With "zeros" its gradient is ignored.
        resets : array of bool [T, B], or [B, T] if `batch_first`, optional
            True at the steps at which another sequence begins, such as an episode of reinforcement
            learning: the state before that step is 0 instead of the last one, and no gradient
            passes. Nothing passes in the backward direction either: it begins anew at the step
            before. The first step may be one; past the end of a sequence they have no effect.
        reset_to : {"zeros", "initial"}
            With which state a sequence begins at a reset. "initial": `state`, in either direction,
            and the gradient of it is the sum over all beginnings.
        train : bool
            False: keep nothing for backward, and no dropout. A `backward` of an earlier call with
            True is still possible.
        out : array like `y`, optional
            Gets the output, and is returned. Changed in place; it may be strided, but features must
            be adjacent.

        Returns
        -------
        y : array [T, B, D * H] or [B, T, D * H]
            Output of the last layer; a new array, or `out`.
        state : as the initial one
            After the last step of each sequence; new arrays.

        Raises
        ------
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        MemoryError
            If there is not enough memory for T and B.
        """
        results: tuple[Array, State] = self._passes.forward(
            self, x, state, lengths, past_end, resets, reset_to, train, out
        )
        return results

    @overload
    def backward(
        self,
        dy: Array | None,
        dstate: Any = None,
        *,
        accumulate: bool = False,
        need_dx: Literal[True] = True,
        out: Array | None = None,
    ) -> tuple[Array, State | None]: ...
    @overload
    def backward(
        self,
        dy: Array | None,
        dstate: Any = None,
        *,
        accumulate: bool = False,
        need_dx: Literal[False],
        out: None = None,
    ) -> tuple[None, State | None]: ...
    def backward(
        self,
        dy: Array | None,
        dstate: Any = None,
        *,
        accumulate: bool = False,
        need_dx: bool = True,
        out: Array | None = None,
    ) -> tuple[Array | None, State | None]:
        """The gradients of the last `forward`; changes every array of `grads` in place.

        Parameters
        ----------
        dy : array like `y`, or None for zeros
            Gradient of the loss with respect to `y`.
        dstate : dh, or (dh, dc) of an LSTM; arrays [L * D, B, H], optional
            Gradients with respect to the returned state; None is zeros, for one of a pair, too.
        accumulate : bool
            Add to `grads` instead of overwriting them.
        need_dx : bool
            False: `dx` is None, and its product is not computed.
        out : array like `x`, optional
            Gets `dx`, and is returned. Changed in place.

        Returns
        -------
        dx : array like `x`
            A new array, or `out`.
        dstate : as the initial state, or None
            Gradients with respect to the state that `forward` was given; new arrays. None if it was
            given none: their product is then not computed.

        Raises
        ------
        RuntimeError
            Without a `forward` that trains before it: each allows one backward.
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        results: tuple[Array | None, State | None] = self._passes.backward(
            dy, dstate, accumulate, need_dx, out
        )
        return results

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """One step of a stream, for inference: ``y, state = layer.step(x, state)``.

        Reads each weight once and keeps nothing, so several threads may step at once, and a change
        of a weight has effect from the next step on. Adds sums in another order than `forward`, and
        rounds nothing with ``compute="bfloat16"``, either. No dropout.

        Parameters
        ----------
        x : array [B, I]
        state : h, or (h, c) of an LSTM; arrays [L, B, H], optional
            Zeros by default.

        Returns
        -------
        y : array [B, H]
        state : arrays [L, B, H]
            After this step. All are new arrays.

        Raises
        ------
        RuntimeError
            If bidirectional: that direction begins at the end.
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        stepper = self._stepper
        if stepper is None:
            stepper = self.__dict__["_stepper"] = Stepper(self)
        results: tuple[Array, State] = stepper.step(x, state)
        return results

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters into this layer's; nothing changes if a name, shape or dtype is wrong."""
        self._passes.alone(super().load_state_dict, state)  # not while another thread is in a pass

    def stats(self) -> Stats:
        """States, gates and gradients over time, of the last pass that trained.

        After `forward`: how large the states are, and which share of each gate is at a bound; after
        `backward`: how large the gradient is at each step. `Stats` describes them; it prints as a
        dict and has a `plot`. Copies what the passes keep.

        Raises
        ------
        RuntimeError
            Without a `forward` that trains before it, and with ``save="minimal"``.
        """
        return stats_of(self)

    # ---- weights and copies ----------------------------------------------------------------------

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return shapes_of(self)

    def _fresh(self) -> dict[str, Any]:
        return {"_passes": Passes(), "_stepper": None}

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of the output for one of the input, sizes or letters, for summaries."""
        lead = ("B", "T") if self.batch_first else ("T", "B")
        return *lead, self.directions * (self.proj_size or self.hidden_size)

    def __setattr__(self, name: str, value: Any) -> None:
        if value is getattr(self, name, object()):
            return  # `lstm.flat_params += 1` has changed the array, then sets the same one again
        raise AttributeError(
            f"{name}: cannot be assigned; weights are changed in place, as in "
            "layer.params['weight_ih_l0'][...] = value"
        )

    def __repr__(self) -> str:
        names = ["num_layers", "bias", "batch_first", "bidirectional", "dropout", "save", "dtype"]
        names[1:1] = [name for name in OWN_ARGUMENTS if self._differs(name)]
        settings = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}, {settings})"

    def _short(self) -> str:
        """The repr, with the arguments that differ from their defaults."""
        names = [n for n in [*self._arguments][2:] if n not in ("seed", "init", "rng")]
        changed = [f"{name}={getattr(self, name)}" for name in names if self._differs(name)]
        sizes = [str(self.input_size), str(self.hidden_size)]
        return f"{type(self).__name__}({', '.join(sizes + changed)})"

    def _differs(self, name: str) -> bool:
        """Whether the layer takes this argument, and has another value than its default."""
        argument = self._arguments.get(name)
        return argument is not None and getattr(self, name) != argument.default

    @property
    def _counters(self) -> dict[str, int]:
        """The state of dropout, without which resumed training would use other masks."""
        return (
            {n: getattr(self, n) for n in ("seed", "dropout_calls")}
            if self.dropout or self.is_noisy
            else {}
        )
