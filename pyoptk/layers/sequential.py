"""`Sequential`, a model of layers in a row. Its parameters and gradients lie in one buffer each."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _checks, checkpoint
from .._bound import MEMORY, Array, Movable, Moves, aligned
from .._elsewhere import Instead
from .._files import Path
from .._memory import apart, as_now
from .._products import put_all
from .._sequences import check_lengths, plain
from ..optim.stateful import Restoring, at_once
from . import names
from .places import check_layers, inside, joined, padded, place, told, uneven
from .shape import Last


class Sequential(Movable):
    """A model of layers, each of which takes the output of the one before.

    All parameters lie in one buffer and all gradients in another: the arrays of the layers are
    moved there, so make optimizers afterwards. A layer is in one model; what two models share is a
    model of its own, called before them. Names are those of PyTorch's ``nn.Sequential``:
    "0.weight", "0.bias", "1.weight_ih_l0". One thread at a time may use a model.

    Parameters
    ----------
    *layers
        Layers of this package, recurrent layers, models, or objects of your own with `params`,
        `grads`, ``forward(x, train=True)`` and ``backward(dy, need_dx=True, accumulate=False)``.
        If its forward takes `lengths`, it gets them. Arrays of one that is not derived from `Layer`
        stay where they are.

    Attributes
    ----------
    layers : tuple
    params, grads : dicts of arrays
        The gradient of an `Embedding` is `SparseRows`, after each backward a new one.
    flat_params, flat_grads : arrays
        All of them, with zeros between layers so that each begins on a cache line; without the
        gradients that are `SparseRows`.
    batch_first : bool or None
        That of the layers with an axis of time, the same for all; None if there is none.
    batch_axis : int
        Which axis of x counts sequences or rows: 1 if a layer takes x [T, B, ...], else 0.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> from pyoptk.layers import Last, Linear, Sequential
    >>> rng = np.random.default_rng(0)
    >>> model = Sequential(pyoptk.LSTM(1, 8, rng=rng), Last(), Linear(8, 1, rng=rng))
    >>> model
    Sequential(        output     parameters
      0  LSTM(1, 8)    (T, B, 8)         352
      1  Last()        (B, 8)              0
      2  Linear(8, 1)  (B, 1)              9
                                         361
    )
    >>> optimizer = pyoptk.Adam(model.params)
    >>> x, target = np.zeros((20, 4, 1), np.float32), np.ones((4, 1), np.float32)
    >>> y = model.forward(x)
    >>> loss, dy = pyoptk.losses.mse(y, target)
    >>> model.backward(dy, need_dx=False)
    >>> optimizer.step(model.grads)
    """

    layers: tuple[Any, ...]

    if not TYPE_CHECKING:  # where an unknown attribute is an error at once
        fit = Instead("pyoptk.fit(model, loss, optimizer, x, y) trains it")
        train = Instead("forward(x, train=True) does that, the default")
        eval = Instead("forward(x, train=False) does that")
        weights, parameters = Instead("see params"), Instead("see params")
        zero_grad = Instead("backward begins anew unless accumulate=True")
        summary = Instead("print(model) shows it")
        get_weights, set_weights = Instead("see state_dict"), Instead("see load_state_dict")

    def __init__(self, *layers: Any) -> None:
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        check_layers(layers)
        self._join(layers)

    def _join(self, layers: tuple[Any, ...]) -> None:
        """Make buffers for all parameters and gradients, and move those of the layers there."""
        self.layers = layers
        self._places = [place(layer, f"{i}.") for i, layer in enumerate(layers)]
        with_params = [i for i, layer in enumerate(layers) if layer.params]
        self._first = with_params[0] if with_params else len(layers)
        self._due = [False]  # whether backward may follow
        movable = [layer for layer in layers if hasattr(layer, "_moves")]
        dtypes = {layer.flat_params.dtype for layer in movable if layer.params}
        if len(dtypes) > 1:
            found = " and ".join(sorted(map(str, dtypes)))
            raise TypeError(f"layers: expected one dtype, got {found}")
        dtype = _checks.check_float_dtype(dtypes.pop() if dtypes else np.float32)
        sizes = [
            sum(padded(getattr(layer, name)) for layer in movable)
            for name in ("flat_params", "flat_grads")
        ]
        self._begin_memory()
        self._move(aligned(sizes[0], dtype), aligned(sizes[1], dtype))

    def _moves(self, params: Array, grads: Array) -> Moves:
        at, moves = [0, 0], list[Any]()
        arrays: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        for i, layer in enumerate(self.layers):
            found = [dict(layer.params), dict(layer.grads)]
            if hasattr(layer, "_moves") and layer.params:
                parts = []
                for k, flat in enumerate((params, grads)):
                    own = (layer.flat_params, layer.flat_grads)[k]
                    parts.append(flat[at[k] : at[k] + own.size])
                    parts[k][:] = own
                    at[k] += padded(own)
                theirs = layer._moves(*parts) + layer._put_in_all({"_owner": weakref.ref(self)})
                moves += theirs
                found = [old | new for old, (_, new) in zip(found, theirs[:2], strict=True)]
            for mine, each in zip(arrays, found, strict=True):
                mine.update({f"{i}.{name}": array for name, array in each.items()})
        own = [(getattr(self, name), each) for name, each in zip(MEMORY, arrays, strict=False)]
        return own + moves + self._put_in_all({"flat_params": params, "flat_grads": grads})

    def _left(self) -> list[Any]:
        inner = [layer._left() for layer in self.layers if hasattr(layer, "_left")]
        return super()._left() + list(itertools.chain.from_iterable(inner))

    # ---- the passes ------------------------------------------------------------------------------

    def forward(
        self,
        x: Any,
        *,
        lengths: ArrayLike | None = None,
        state: Sequence[Any] | None = None,
        return_state: bool = False,
        train: bool = True,
    ) -> Any:
        """The output of the last layer; keeps what `backward` needs.

        Parameters
        ----------
        x : array
            As the first layer takes it.
        lengths : integers [B], optional
            For the recurrent layers, `Last`, and whatever else takes them.
        state : list, optional
            As an earlier call returned it: the initial state of each recurrent layer in turn, for a
            model in this model its list. None for zeros.
        return_state : bool
            Return (y, the list of the last states) instead of y.
        train : bool
            False: keep nothing for backward, and no dropout. A `backward` of an earlier call with
            True is still possible.
        """
        given, states = self._states(state), []
        if train is not True or return_state is not False:
            _checks.check_switches(train=train, return_state=return_state)
        if lengths is not None and not self.takes_lengths:
            raise ValueError("lengths: expected None, as no layer of this model takes them")
        if train:
            self._due[0] = False  # until the last layer has run
        for layer, recurrent, nested, takes_lengths, _ in self._places:
            if recurrent:
                x, after = layer.forward(x, next(given), lengths=lengths, train=train)
                states.append(after)
            elif nested:
                some = lengths if takes_lengths else None
                x, after = layer.forward(
                    x, lengths=some, state=next(given), return_state=True, train=train
                )
                states.append(after)
            elif takes_lengths:
                x = layer.forward(x, lengths=lengths, train=train)
            else:
                x = layer.forward(x, train=train)
        if train:
            self._due[0] = True
        return (x, states) if return_state else x

    def backward(self, dy: Any, *, need_dx: bool = True, accumulate: bool = False) -> Any:
        """The gradient of x, or None; fills `grads`, or adds to them if `accumulate`.

        After an exception from within, begin again with a forward. With `accumulate` the gradients
        are then as before the call; without it those of some layers may be new.

        Raises
        ------
        RuntimeError
            Without a `forward` that trains and has come to its end before it.
        """
        if not self._due[0]:
            raise RuntimeError(_checks.NO_FORWARD)
        if not accumulate:
            return self._backward(dy, need_dx, accumulate)
        calls: list[Any] = [partial(at_once, as_now(one.grads for one in inside(self)))]
        with Restoring(calls):
            dx = self._backward(dy, need_dx, accumulate)
            calls.clear()
            return dx

    def _backward(self, dy: Any, need_dx: bool, accumulate: bool) -> Any:
        places, first = self._places, 0 if need_dx else self._first
        dstate: Any = None
        for i in range(len(places) - 1, first - 1, -1):
            layer, recurrent, _, _, key = places[i]
            if i > first and type(layer) is Last:
                dstate = layer._to_state(dy, places[i - 1].layer)
                if dstate is not None:
                    self._due[0] = False
                    continue
            given = (dy,) if dstate is None else (None, dstate)
            dy = layer.backward(*given, need_dx=need_dx or i > first, accumulate=accumulate)
            self._due[0], dstate = False, None
            if recurrent:
                dy = dy[0]
            if key is not None:
                dict.update(self.grads, {key + name: g for name, g in layer.grads.items()})
        return dy if need_dx else None

    def step(self, x: Any, state: Sequence[Any] | None = None) -> tuple[Any, list[Any]]:
        """One step of a stream, for inference: ``y, state = model.step(x, state)``.

        x [B, I] is a step of every sequence, `state` that which the last call, or `forward` with
        `return_state`, returned.
        """
        given, states = self._states(state), []
        for layer, recurrent, nested, _, _ in self._places:
            if recurrent or nested:
                x, after = layer.step(x, next(given))
                states.append(after)
            elif not isinstance(layer, Last):
                x = layer.forward(x, train=False)
        return x, states

    def _states(self, state: Sequence[Any] | None) -> Any:
        if state is None:
            return itertools.repeat(None)
        stateful = sum(place.recurrent or place.nested for place in self._places)
        if not isinstance(state, list | tuple) or len(state) != stateful:
            got = len(state) if isinstance(state, list | tuple) else _checks.described(state)
            raise ValueError(
                f"state: expected a list of {stateful}, one for each recurrent layer or model in "
                f"this model, got {got}"
            )
        return iter(state)

    def predict(
        self, x: Any, *, lengths: ArrayLike | None = None, batch_size: int = 256
    ) -> NDArray[Any]:
        """The output for many rows or sequences, `batch_size` at a time.

        Keeps nothing for backward, and no layer drops.

        Parameters
        ----------
        x : array
            As `forward` takes it; it is split along `batch_axis`.
        lengths : integers, optional
            One for each sequence.
        batch_size : int
        """
        _checks.check_sizes(batch_size=batch_size)
        x, axis = plain("x", x, "an array"), self.batch_axis
        if x.ndim <= axis:
            raise ValueError(f"x: expected {axis + 1} axes or more, got {_checks.described(x)}")
        n = x.shape[axis]
        all_lengths = None if lengths is None else check_lengths(lengths, n, 2**62)
        bounds, outs = [*range(0, max(n, 1), batch_size), n], list[Any]()
        while len(outs) < len(bounds) - 1:
            part = slice(*bounds[len(outs) :][:2])
            some = None if all_lengths is None else all_lengths[part]
            rows = x[:, part] if axis else x[part]
            outs.append(self.forward(rows, lengths=some, train=False))
            if len(outs) == 1 and not n % batch_size and not told(outs[0], batch_size, axis):
                uneven(bounds, batch_size)
        return joined(outs, np.diff(bounds).tolist(), axis)

    def __getitem__(self, index: int) -> Any:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def takes_lengths(self) -> bool:
        """Whether a layer takes lengths."""
        return any(place.takes_lengths for place in self._places)

    @property
    def batch_axis(self) -> int:
        """Which axis of x counts sequences or rows."""
        return int(self.batch_first is False)

    @property
    def batch_first(self) -> bool | None:
        """That of the layers with an axis of time."""
        found = (getattr(layer, "batch_first", None) for layer in self.layers)
        return next((order for order in found if order is not None), None)

    def shared(self) -> Self:
        """A model with the same parameters and gradients, and memory of its own for the passes.

        For several inputs before the backward calls, see `Layer.shared`.
        """
        for i, layer in enumerate(self.layers):
            if not hasattr(layer, "shared"):
                raise TypeError(f"layers[{i}]: expected a method shared, got {layer!r}")
        other = self._twin()
        other.layers = tuple(layer.shared() for layer in self.layers)
        other._places = [place(layer, f"{i}.") for i, layer in enumerate(other.layers)]
        other._due = [False]
        return other

    # ---- copies and files ------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """The layers, which hold all arrays."""
        left_out = (*MEMORY, "_places", "_first", "_due", "_kin", "_owner")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        put_all([(self, state)], [])
        self._join(self.layers)

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # a shallow one would take the layers away from this model

    def state_dict(self) -> dict[str, Any]:
        """All parameters by name, the model's own arrays, and what masks of dropout depend on."""
        return {
            f"{i}.{name}": value
            for i, layer in enumerate(self.layers)
            for name, value in names.state_of(layer).items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters into the model's; nothing changes if a name, shape or dtype is wrong."""
        self.check_state_dict(state)
        state = apart(state, self.state_dict().values())
        for layer, part in zip(self.layers, names.parts(self.layers, state), strict=True):
            if hasattr(layer, "load_state_dict"):
                layer.load_state_dict(part)
            else:
                checkpoint.fill_arrays(dict(layer.params), part)

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise."""
        checkpoint.check_arrays(self.state_dict(), state, "state")
        for layer, part in zip(self.layers, names.parts(self.layers, state), strict=True):
            if hasattr(layer, "check_state_dict"):
                layer.check_state_dict(part)

    def save(self, path: Path) -> None:
        """Write the model to a file, as `pyoptk.save(path, model=model)` does."""
        checkpoint.save(path, model=self)

    def load(self, path: Path) -> None:
        """Change the model in place to what `save` wrote, as `pyoptk.load(path, model=model)`."""
        checkpoint.load(path, model=self)

    def to_torch(self) -> dict[str, Array]:
        """Copies of the parameters by the names of the same model as ``torch.nn.Sequential``.

        There the activation of a `Linear` is a module of its own, and counts as one.
        """
        return {key: array.copy() for key, array in names.in_torch(self.layers)}

    def from_torch(self, state: Mapping[str, Any]) -> None:
        """Copy parameters of a PyTorch model into this one's, in place.

        Modules are taken by their names if all are those of `to_torch`, else in their order,
        numbers counting as such: those in ``state`` belong to the layers with parameters. Within a
        module, names are PyTorch's.

        Parameters
        ----------
        state : mapping of names to arrays
            Its ``state_dict()``.

        Raises
        ------
        TypeError, ValueError
            If there are other arrays, shapes or dtypes; nothing has changed.
        """
        names.fill_from_torch(self.layers, state)

    def __repr__(self) -> str:
        return names.summary(self.layers)
