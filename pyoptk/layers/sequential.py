"""`Sequential`, a model of layers in a row. Its parameters and gradients lie in one buffer each."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _checks, checkpoint
from .._bound import INSTEAD, Array, aligned
from .._files import Path
from .._memory import apart
from .._sequences import check_lengths
from ..params import Fixed
from . import names
from .places import check_layers, padded, place
from .shape import Last


class Sequential:
    """A model of layers, each of which takes the output of the one before.

    All parameters lie in one buffer and all gradients in another: the arrays of the layers are
    moved there, so make optimizers afterwards. Names are those of PyTorch's ``nn.Sequential``:
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
        That of the layers that know steps, the same for all; None if there is none.
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
    params: Mapping[str, Array]
    grads: Mapping[str, Any]
    flat_params: Array
    flat_grads: Array

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
        self._due = False
        movable = [layer for layer in layers if hasattr(layer, "_bind")]
        dtypes = {layer.flat_params.dtype for layer in movable if layer.params}
        if len(dtypes) > 1:
            found = " and ".join(sorted(map(str, dtypes)))
            raise TypeError(f"layers: expected one dtype, got {found}")
        dtype = dtypes.pop() if dtypes else np.dtype(np.float32)
        sizes = [sum(padded(layer, name) for layer in movable) for name in ("params", "grads")]
        self._bind(aligned(sizes[0], dtype), aligned(sizes[1], dtype))

    def _bind(self, params: Array, grads: Array) -> None:
        """Let these be the memory of all layers; their values move there."""
        at = {"params": 0, "grads": 0}
        for layer in self.layers:
            if not (hasattr(layer, "_bind") and layer.params):
                continue
            parts = []
            for name, flat in (("params", params), ("grads", grads)):
                own = getattr(layer, f"flat_{name}")
                part = flat[at[name] : at[name] + own.size]
                part[:] = own
                parts.append(part)
                at[name] += padded(layer, name)
            layer._bind(*parts)
        for name in ("params", "grads"):
            arrays = {
                f"{i}.{key}": array
                for i, layer in enumerate(self.layers)
                for key, array in getattr(layer, name).items()
            }
            if not hasattr(self, name):
                setattr(self, name, Fixed(arrays, INSTEAD))
            dict.update(getattr(self, name), arrays)
        self.flat_params, self.flat_grads = params, grads

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
        if train:
            self._due = False  # until the last layer is through
        for layer, recurrent, nested, takes_lengths, _ in self._places:
            if recurrent:
                x, after = layer.forward(x, next(given), lengths=lengths, train=train)
                states.append(after)
            elif nested:
                x, after = layer.forward(
                    x, lengths=lengths, state=next(given), return_state=True, train=train
                )
                states.append(after)
            elif takes_lengths:
                x = layer.forward(x, lengths=lengths, train=train)
            else:
                x = layer.forward(x, train=train)
        if train:
            self._due = True
        return (x, states) if return_state else x

    def backward(self, dy: Any, *, need_dx: bool = True, accumulate: bool = False) -> Any:
        """The gradient of x, or None; fills `grads`, or adds to them if `accumulate`.

        If an exception comes from within, the gradients are those of some layers only: begin again
        with a forward.

        Raises
        ------
        RuntimeError
            Without a `forward` that trains and has come to its end before it.
        """
        if not self._due:
            raise RuntimeError(_checks.NO_FORWARD)
        places, first = self._places, 0 if need_dx else self._first
        for i in range(len(places) - 1, first - 1, -1):
            layer, recurrent, _, _, key = places[i]
            dy = layer.backward(dy, need_dx=need_dx or i > first, accumulate=accumulate)
            self._due = False
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
            As `forward` takes it; `batch_axis` says which axis is cut.
        lengths : integers, optional
            One for each sequence.
        batch_size : int
        """
        _checks.check_sizes(batch_size=batch_size)
        x, axis = np.asarray(x), self.batch_axis
        if x.ndim <= axis:
            raise ValueError(f"x: expected {axis + 1} axes or more, got {_checks.described(x)}")
        n = x.shape[axis]
        all_lengths = None if lengths is None else check_lengths(lengths, n, 2**62)
        parts = []
        for start in range(0, max(n, 1), batch_size):
            part = slice(start, start + batch_size)
            some = None if all_lengths is None else all_lengths[part]
            cut = x[:, part] if axis else x[part]
            parts.append(self.forward(cut, lengths=some, train=False))
        return np.concatenate(parts, axis=1 if axis and not self._picks else 0)

    @property
    def batch_axis(self) -> int:
        """Which axis of x counts sequences or rows."""
        return int(self.batch_first is False)

    @property
    def batch_first(self) -> bool | None:
        """That of the layers that know steps."""
        found = (getattr(layer, "batch_first", None) for layer in self._all())
        return next((order for order in found if order is not None), None)

    @property
    def _picks(self) -> bool:
        """Whether the output has no axis of time any more."""
        return any(isinstance(layer, Last) for layer in self._all())

    def _all(self) -> list[Any]:
        """The layers, also those of models in this model."""
        nested = [x._all() if isinstance(x, Sequential) else [x] for x in self.layers]
        return list(itertools.chain.from_iterable(nested))

    def shared(self) -> Self:
        """A model with the same parameters and gradients, and memory of its own for the passes.

        For several inputs before the backward calls, see `Layer.shared`.
        """
        for i, layer in enumerate(self.layers):
            if not hasattr(layer, "shared"):
                raise TypeError(f"layers[{i}]: expected a method shared, got {layer!r}")
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.layers = tuple(layer.shared() for layer in self.layers)
        other._places = [place(layer, f"{i}.") for i, layer in enumerate(other.layers)]
        other._due = False
        return other

    # ---- copies and files ------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """The layers, which hold all arrays."""
        left_out = ("params", "grads", "flat_params", "flat_grads", "_places", "_first", "_due")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
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

        Modules are taken in their order, whatever their names are: those in ``state`` belong to
        the layers with parameters. Within a module, names are PyTorch's.

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
