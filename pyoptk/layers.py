"""Layers of feed-forward models, and `Sequential`, which joins layers to a model.

A layer is an object with `params` and `grads`, dicts of arrays, and two methods: `forward` keeps
what `backward` needs, `backward` turns the gradient of the output into that of the input and fills
`grads`. There is no graph and no registry: whatever has these four is a layer (see `Sequential`).
The arithmetic is in csrc/kernels (linear.h, layer_norm.h, dropout.h).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _checks, kernels
from ._dense import ACTIVATIONS
from ._sparse import SparseRows
from .params import Fixed
from .rnn.layer import Layer as Recurrent
from .rnn.weights import INITIALIZERS, aligned, views

__all__ = [
    "Activation",
    "Dropout",
    "Embedding",
    "Flatten",
    "Last",
    "LayerNorm",
    "Linear",
    "Sequential",
]

Array = NDArray[np.floating[Any]]
_INSTEAD = "write into the arrays, as in params[name][...] = value"
_NEED_Z = ACTIVATIONS[5:]


class _Layer:
    """Base of the layers: their arrays, and what forward calls keep for the backward calls."""

    params: Mapping[str, Array]
    grads: Mapping[str, Any]
    dtype: np.dtype[Any]

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike) -> None:
        self.dtype = _checks.check_float_dtype(dtype)
        self._shapes = dict(shapes)
        self._kept: list[Any] = []
        size = sum(math.prod(shape) for shape in shapes.values())
        self._bind(np.zeros(size, self.dtype), np.zeros(size, self.dtype))

    def _bind(self, params: Array, grads: Array) -> None:
        """Let these be the memory of the parameters and the gradients."""
        self.flat_params, self.flat_grads = params, grads
        self.params = Fixed(views(params, self._shapes), _INSTEAD)
        self.grads = Fixed(views(grads, self._shapes), _INSTEAD)

    def _keep(self, train: bool, *values: Any) -> None:
        if train:
            self._kept.append(values)

    def _take(self) -> Any:
        """What the last forward kept that has had no backward yet."""
        if not self._kept:
            raise RuntimeError(
                "backward: expected a forward(..., train=True) before it; each allows one backward"
            )
        return self._kept.pop()

    def _checked(self, name: str, x: Any, *last: int) -> Array:
        """x as a contiguous array of the layer's dtype whose last axes have these sizes."""
        given = np.asarray(x)
        if given.dtype != self.dtype or given.shape[max(given.ndim - len(last), 0) :] != last:
            shape = ", ".join(["...", *map(str, last)])
            cast = f"; {name}.astype(np.{self.dtype})" if given.dtype.kind == "f" else ""
            cast = cast if given.dtype != self.dtype else ""
            raise (TypeError if cast or given.dtype != self.dtype else ValueError)(
                f"{name}: expected {self.dtype} ({shape}), got {given.dtype} {given.shape}{cast}"
            )
        return np.ascontiguousarray(given)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"params": None, "grads": None, "_kept": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind(self.flat_params, self.flat_grads)


class Linear(_Layer):
    """``y = f(x @ weight.T + bias)``, a dense layer with its activation.

    Parameters
    ----------
    inputs, outputs : int
        I and O, at least 1.
    activation : str, optional
        f: "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu" or "softplus"; see
        `pyoptk.kernels.linear_forward`. None: f(z) = z.
    slope : float
        Of "leaky_relu" below 0.
    bias : bool
        Whether there is a bias.
    dtype : float32 or float64
        Of weights, inputs and outputs.
    init : {"torch", "keras"}
        torch: all uniform in +-1/sqrt(I). keras: weight uniform in +-sqrt(6 / (I + O)) (Glorot &
        Bengio 2010), bias 0.
    rng : numpy.random.Generator, optional
        Draws the weights.

    Attributes
    ----------
    params, grads : dicts of arrays
        weight [O, I] and bias [O]; changed in place.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> layer = pyoptk.layers.Linear(3, 2, "relu", rng=np.random.default_rng(0))
    >>> layer.forward(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: str | None = None,
        *,
        slope: float = 0.01,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        init: str = "torch",
        rng: np.random.Generator | None = None,
    ) -> None:
        _checks.check_sizes(inputs=inputs, outputs=outputs)
        _checks.check_choice("activation", activation, (None, *ACTIVATIONS))
        _checks.check_choice("init", init, INITIALIZERS)
        _checks.check_switch("bias", bias)
        _checks.check_rng(rng)
        shapes = {"weight": (outputs, inputs), "bias": (outputs,)}
        super().__init__(dict(list(shapes.items())[: 2 if bias else 1]), dtype)
        self.inputs, self.outputs = int(inputs), int(outputs)
        self.activation, self.slope = activation or "none", float(slope)
        rng = np.random.default_rng() if rng is None else rng
        if init == "torch":
            self.flat_params[:] = rng.uniform(-1, 1, self.flat_params.size) / math.sqrt(inputs)
        else:
            limit = math.sqrt(6 / (inputs + outputs))
            self.params["weight"][...] = rng.uniform(-limit, limit, (outputs, inputs))

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y [..., O] for x [..., I], which is not copied: do not change it before `backward`."""
        x = self._checked("x", x, self.inputs)
        rows = x.reshape(-1, self.inputs)
        y = np.empty((len(rows), self.outputs), self.dtype)
        z = np.empty_like(y) if train and self.activation in _NEED_Z else None
        weight, bias = self.params["weight"], self.params.get("bias")
        options: Any = {"activation": self.activation, "slope": self.slope}
        kernels.linear_forward(rows, weight, bias, y, z, **options)
        self._keep(train, rows, y, z)
        return y.reshape(*x.shape[:-1], self.outputs)

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None; fills `grads`, or adds to them if `accumulate`."""
        dy = self._checked("dy", dy, self.outputs)
        rows, y, z = self._take()
        dx = np.empty_like(rows) if need_dx else None
        kernels.linear_backward(
            dy.reshape(len(rows), self.outputs), rows, self.params["weight"], y, z,
            dx=dx, dw=self.grads["weight"], db=self.grads.get("bias"),
            activation=self.activation, slope=self.slope, accumulate=accumulate,
        )  # fmt: skip
        return None if dx is None else dx.reshape(*dy.shape[:-1], self.inputs)

    def __repr__(self) -> str:
        bias = "" if "bias" in self.params else ", bias=False"
        return f"Linear({self.inputs}, {self.outputs}, {self.activation!r}{bias})"


class Activation(_Layer):
    """``y = f(x)``, element by element; f as in `Linear`, where it is faster."""

    def __init__(self, activation: str, *, slope: float = 0.01, dtype: DTypeLike = np.float32) -> None:
        _checks.check_choice("activation", activation, ACTIVATIONS)
        super().__init__({}, dtype)
        self.activation, self.slope = activation, float(slope)
        self._one = np.ones((1, 1), self.dtype)

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y like x, which is not copied: do not change it before `backward`."""
        x = self._checked("x", x)
        y = np.empty(x.shape, self.dtype)
        options: Any = {"activation": self.activation, "slope": self.slope}
        kernels.linear_forward(x.reshape(-1, 1), self._one, None, y.reshape(-1, 1), **options)
        self._keep(train, x, y)
        return y

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None."""
        dy = self._checked("dy", dy)
        x, y = self._take()
        if not need_dx:
            return None
        dx = np.empty_like(x)
        z = x.reshape(-1, 1)
        kernels.linear_backward(
            dy.reshape(-1, 1), z, self._one, y.reshape(-1, 1),
            z if self.activation in _NEED_Z else None,
            dx=dx.reshape(-1, 1), activation=self.activation, slope=self.slope,
        )  # fmt: skip
        return dx

    def __repr__(self) -> str:
        return f"Activation({self.activation!r})"


class Dropout(_Layer):
    """In training, an element becomes 0 with probability p, else it is divided by 1 - p.

    Srivastava et al. (2014). Each forward has a mask of its own, the same for any number of threads;
    `backward` computes it again.

    Parameters
    ----------
    p : float
        In [0, 1).
    seed : int, optional
        0..2**64-1, for the masks; drawn from `rng` by default.
    """

    def __init__(
        self,
        p: float,
        *,
        seed: int | None = None,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ) -> None:
        _checks.check_rng(rng)
        super().__init__({}, dtype)
        self.p = _checks.check_fraction("p", p)
        rng = np.random.default_rng() if rng is None else rng
        drawn = int(rng.integers(2**64, dtype=np.uint64)) if seed is None else seed
        self.seed, self.calls = _checks.check_uint64("seed", drawn), 0

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y like x; x itself without `train`."""
        if not train or self.p == 0:
            self._keep(train, None)
            return x
        x = self._checked("x", x)
        y = np.empty_like(x)
        kernels.dropout(_rows(x), _rows(y), self.p, seed=self.seed, stream=self.calls)
        self._keep(True, self.calls)
        self.calls += 1
        return y

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None."""
        (call,) = self._take()
        if call is None or not need_dx:
            return dy if need_dx else None
        dy = self._checked("dy", dy)
        dx = np.empty_like(dy)
        kernels.dropout(_rows(dy), _rows(dx), self.p, seed=self.seed, stream=call)
        return dx

    def __repr__(self) -> str:
        return f"Dropout({self.p})"


def _rows(x: Array) -> Array:
    return x.reshape(1, 1, -1)


class LayerNorm(_Layer):
    """``y = (x - mean) / sqrt(variance + eps) * weight + bias`` over the last axis.

    Ba et al. (2016); weight starts at 1, bias at 0. eps is PyTorch's; Keras has 1e-3.
    """

    def __init__(self, size: int, *, eps: float = 1e-5, dtype: DTypeLike = np.float32) -> None:
        _checks.check_sizes(size=size)
        super().__init__({"weight": (size,), "bias": (size,)}, dtype)
        self.params["weight"][...] = 1
        self.size, self.eps = int(size), float(eps)

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y like x [..., N], which is not copied: do not change it before `backward`."""
        x = self._checked("x", x, self.size)
        rows, y = x.reshape(-1, self.size), np.empty(x.shape, self.dtype)
        mean, scale = np.empty((2, len(rows)), self.dtype)
        weight, bias = self.params.values()
        kernels.layer_norm_forward(
            rows, weight, bias, y.reshape(rows.shape), mean, scale, eps=self.eps
        )
        self._keep(train, rows, mean, scale)
        return y

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None; fills `grads`, or adds to them if `accumulate`."""
        dy = self._checked("dy", dy, self.size)
        rows, mean, scale = self._take()
        dx = np.empty_like(rows) if need_dx else None
        dweight, dbias = self.grads.values()
        kernels.layer_norm_backward(
            dy.reshape(rows.shape), rows, self.params["weight"], mean, scale,
            dx=dx, dgain=dweight, dbias=dbias, accumulate=accumulate,
        )  # fmt: skip
        return None if dx is None else dx.reshape(dy.shape)

    def __repr__(self) -> str:
        return f"LayerNorm({self.size})"


class Embedding(_Layer):
    """Rows of a table: y [..., width] for integers [...].

    Its gradient is `SparseRows`: a step changes only the rows that were used.

    Parameters
    ----------
    rows, width : int
        Of the table, the parameter weight [rows, width], drawn from N(0, 1) as in PyTorch.
    padding_idx : int, optional
        A row that starts at 0 and never gets a gradient.
    """

    grads: dict[str, Any]

    def __init__(
        self,
        rows: int,
        width: int,
        *,
        padding_idx: int | None = None,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ) -> None:
        _checks.check_sizes(rows=rows, width=width)
        _checks.check_rng(rng)
        super().__init__({"weight": (rows, width)}, dtype)
        self.rows, self.width, self.padding_idx = int(rows), int(width), padding_idx
        rng = np.random.default_rng() if rng is None else rng
        self.params["weight"][...] = rng.standard_normal((rows, width))
        if padding_idx is not None:
            _checks.check_integer("padding_idx", padding_idx, 0, rows, f"a row in 0..{rows - 1}")
            self.params["weight"][padding_idx] = 0

    def _bind(self, params: Array, grads: Array) -> None:
        super()._bind(params, grads[:0])
        nothing = np.zeros((0, self.params["weight"].shape[1]), self.dtype)
        self.grads = {"weight": SparseRows([], nothing, self.params["weight"].shape)}

    def forward(self, x: ArrayLike, *, train: bool = True) -> Array:
        """y [..., width] for integers x [...] in 0..rows-1."""
        x = np.asarray(x)
        if x.dtype.kind not in "iu":
            raise TypeError(f"x: expected integers, got {_checks.described(x)}")
        if x.size and not (0 <= x.min() and x.max() < self.rows):
            raise ValueError(f"x: expected rows in 0..{self.rows - 1}, got {x.min()}..{x.max()}")
        self._keep(train, x)
        return self.params["weight"][x]

    def backward(self, dy: Array, *, need_dx: bool = False, accumulate: bool = False) -> None:
        """Sets ``grads["weight"]``, or adds to it if `accumulate`; there is no gradient of x."""
        dy = self._checked("dy", dy, self.width)
        (x,) = self._take()
        rows, values = x.ravel(), dy.reshape(-1, self.width)
        if self.padding_idx is not None:
            used = rows != self.padding_idx
            rows, values = rows[used], values[used]
        if accumulate:
            before = self.grads["weight"]
            rows = np.concatenate([before.indices, rows])
            values = np.concatenate([before.values, values])
        self.grads["weight"] = SparseRows(rows, values, self.params["weight"].shape)

    def __repr__(self) -> str:
        return f"Embedding({self.rows}, {self.width})"


class Last(_Layer):
    """The last valid step of each sequence: y [B, H] for x [T, B, H]; by lengths where given.

    Parameters
    ----------
    batch_first : bool
        x is [B, T, H].
    bidirectional : bool
        The second half of the features is that of the first step, where the backward direction of
        a recurrent layer ends.
    """

    def __init__(
        self, *, batch_first: bool = False, bidirectional: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        _checks.check_switches(batch_first=batch_first, bidirectional=bidirectional)
        super().__init__({}, dtype)
        self.batch_first, self.bidirectional = batch_first, bidirectional

    def forward(self, x: Array, *, lengths: ArrayLike | None = None, train: bool = True) -> Array:
        """y [B, H]; 0 for a sequence of length 0."""
        x = np.asarray(x)
        if x.ndim != 3 or x.dtype != self.dtype:
            raise ValueError(f"x: expected {self.dtype} of 3 axes, got {_checks.described(x)}")
        steps = x.swapaxes(0, 1) if self.batch_first else x
        T, B, H = steps.shape
        last = np.full(B, T) if lengths is None else _checks.check_lengths(lengths, B, T)
        y = np.zeros((B, H), self.dtype)
        self._copy(y, steps, last, to_y=True)
        self._keep(train, x.shape, last)
        return y

    def _copy(self, y: Array, steps: Array, last: NDArray[np.int64], *, to_y: bool) -> None:
        (some,) = np.nonzero(last)
        half = y.shape[1] // 2 if self.bidirectional else y.shape[1]
        for columns, at in ((slice(half), last[some] - 1), (slice(half, None), 0 * last[some])):
            if to_y:
                y[some, columns] = steps[at, some, columns]
            else:
                steps[at, some, columns] = y[some, columns]

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None."""
        shape, last = self._take()
        dy = self._checked("dy", dy, len(last), shape[2])
        if not need_dx:
            return None
        dx = np.zeros(shape, self.dtype)
        self._copy(dy, dx.swapaxes(0, 1) if self.batch_first else dx, last, to_y=False)
        return dx

    def __repr__(self) -> str:
        return "Last()"


class Flatten(_Layer):
    """[B, ...] to [B, product of the rest]."""

    def __init__(self, *, dtype: DTypeLike = np.float32) -> None:
        super().__init__({}, dtype)

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y [B, N], a view where possible."""
        self._keep(train, x.shape)
        return x.reshape(len(x), -1)

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None."""
        (shape,) = self._take()
        return dy.reshape(shape) if need_dx else None

    def __repr__(self) -> str:
        return "Flatten()"


class Sequential:
    """A model of layers, each of which takes the output of the one before.

    All parameters lie in one buffer and all gradients in another: the layers' arrays are moved
    there, so make optimizers afterwards. Names are those of PyTorch's ``nn.Sequential``:
    "0.weight", "0.bias", "1.weight_ih_l0".

    Parameters
    ----------
    *layers
        Layers of this module, recurrent layers, models, or objects of your own with `params`,
        `grads`, ``forward(x, train=True)`` and ``backward(dy, need_dx=True, accumulate=False)``;
        the arrays of the latter stay where they are.

    Attributes
    ----------
    params, grads : dicts of arrays
    flat_params, flat_grads : arrays
        All of them, 64-byte aligned, with zeros between the layers.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> from pyoptk.layers import Last, Linear, Sequential
    >>> model = Sequential(pyoptk.LSTM(1, 8), Last(), Linear(8, 1))
    >>> optimizer = pyoptk.Adam(model.params)
    >>> x, target = np.zeros((20, 4, 1), np.float32), np.ones((4, 1), np.float32)
    >>> y = model.forward(x)
    >>> loss, dy = pyoptk.losses.mse(y, target)
    >>> model.backward(dy, need_dx=False)
    >>> optimizer.step(model.grads)
    """

    params: Mapping[str, Array]
    grads: Mapping[str, Any]

    def __init__(self, *layers: Any) -> None:
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        for i, layer in enumerate(layers):
            for name in ("params", "grads", "forward", "backward"):
                if not hasattr(layer, name):
                    raise TypeError(
                        f"layers[{i}]: expected an object with {name}, got {type(layer).__name__}"
                    )
        self.layers: Sequence[Any] = layers
        movable = [layer for layer in layers if hasattr(layer, "flat_params")]
        dtypes = {layer.flat_params.dtype for layer in movable}
        if len(dtypes) > 1:
            raise TypeError(f"layers: expected one dtype, got {' and '.join(map(str, dtypes))}")
        dtype = dtypes.pop() if dtypes else np.dtype(np.float32)
        sizes = [-(-layer.flat_params.size // 16) * 16 for layer in movable]
        self._bind(aligned((sum(sizes),), dtype), aligned((sum(sizes),), dtype))

    def _bind(self, params: Array, grads: Array) -> None:
        """Move the parameters and the gradients of all layers there."""
        params[:], grads[:] = 0, 0
        self.flat_params, self.flat_grads = params, grads
        start = 0
        for layer in self.layers:
            if not hasattr(layer, "flat_params"):
                continue
            size = layer.flat_params.size
            part = slice(start, start + size)
            params[part] = layer.flat_params
            layer._bind(params[part], grads[part])
            start += -(-size // 16) * 16
        self.params = Fixed(self._gathered("params"), _INSTEAD)
        self.grads = Fixed(self._gathered("grads"), _INSTEAD)

    def _gathered(self, which: str) -> dict[str, Any]:
        return {
            f"{i}.{name}": array
            for i, layer in enumerate(self.layers)
            for name, array in getattr(layer, which).items()
        }

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
            For the recurrent layers and `Last`.
        state : list, optional
            The initial state of each recurrent layer in turn, as an earlier call returned them.
        return_state : bool
            Return (y, the list of their last states) instead of y.
        train : bool
            False: keep nothing for backward, and no dropout.
        """
        given = list(state or [])
        states: list[Any] = []
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                before = given.pop(0) if given else None
                x, after = layer.forward(x, before, lengths=lengths, train=train)
                states.append(after)
            elif isinstance(layer, Last | Sequential):
                x = layer.forward(x, lengths=lengths, train=train)
            else:
                x = layer.forward(x, train=train)
        return (x, states) if return_state else x

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None; fills `grads`, or adds to them if `accumulate`."""
        d: Any = dy
        for i, layer in reversed(list(enumerate(self.layers))):
            wanted = need_dx or i > 0
            d = layer.backward(d, need_dx=wanted, accumulate=accumulate)
            if isinstance(layer, Recurrent):
                d = d[0]
            if isinstance(layer, Embedding | Sequential):
                for name, grad in layer.grads.items():
                    dict.__setitem__(self.grads, f"{i}.{name}", grad)  # type: ignore[type-var]
        return d  # type: ignore[no-any-return]

    def step(self, x: Any, state: Sequence[Any] | None = None) -> tuple[Array, list[Any]]:
        """One step of a stream, for inference: ``y, state = model.step(x, state)``."""
        given, states = list(state or []), []
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                x, after = layer.step(x, given.pop(0) if given else None)
                states.append(after)
            elif not isinstance(layer, Last):
                x = layer.forward(x, train=False)
        return x, states

    def predict(self, x: Any, *, batch_size: int = 256, batch_axis: int = 0, **options: Any) -> Array:
        """The output for many rows, `batch_size` at a time; keeps nothing for backward."""
        _checks.check_sizes(batch_size=batch_size)
        x = np.asarray(x)
        parts = [
            self.forward(x.take(range(i, min(i + batch_size, x.shape[batch_axis])), batch_axis),
                         train=False, **options)
            for i in range(0, x.shape[batch_axis], batch_size)
        ]  # fmt: skip
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, Any]:
        """All parameters by name, the model's own arrays, and what the masks of dropout need."""
        found: dict[str, Any] = dict(self.params)
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Dropout):
                found |= {f"{i}.seed": layer.seed, f"{i}.calls": layer.calls}
            elif hasattr(layer, "state_dict"):
                found |= {f"{i}.{name}": value for name, value in layer.state_dict().items()}
        return found

    def __repr__(self) -> str:
        rows = [
            (str(i), repr(layer).split("\n")[0], sum(p.size for p in layer.params.values()))
            for i, layer in enumerate(self.layers)
        ]
        width = max(len(text) for _, text, _ in rows)
        lines = [f"  {i:>2}  {text:<{width}}  {count:>12,}" for i, text, count in rows]
        total = sum(count for *_, count in rows)
        return "\n".join(["Sequential(", *lines, f"  {'':>2}  {'parameters':<{width}}  {total:>12,}", ")"])
