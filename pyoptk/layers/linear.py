"""`Linear` and `Activation`; the kernels are `linear_forward` and `linear_backward`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _checks
from .._bound import Array
from .._core import new_array
from .._dense import ACTIVATIONS, NEED_Z, linear_backward, linear_forward, passes_of
from ..rnn.weights import INITIALIZERS
from .base import Elsewhere, Layer, floats, gradient

NEEDED = ("activation", "slope", "inputs", "outputs", "dtype", "params", "grads")


def _check_activation(activation: Any, slope: Any, choices: tuple[Any, ...]) -> float:
    _checks.check_choice("activation", activation, choices)
    return _checks.float32_number("slope", slope)


class Linear(Layer, quick=True):
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
    compute : "bfloat16", optional
        With float32: both operands of every product are rounded to bfloat16, forward and backward;
        parameters, gradients and sums stay float32. On processors with AVX512-BF16 large layers
        take 0.5 to 0.7 of the time; layers with few rows, or on other processors, take longer.
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

    compute: str | None = None  # of layers that were pickled without one
    _usual: Any = None  # of the compiled passes, see there

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: str | None = None,
        *,
        slope: float = 0.01,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        compute: str | None = None,
        init: str = "torch",
        rng: np.random.Generator | None = None,
    ) -> None:
        _checks.check_sizes(inputs=inputs, outputs=outputs)
        self.slope = _check_activation(activation, slope, (None, *ACTIVATIONS))
        _checks.check_choice("init", init, INITIALIZERS)
        _checks.check_switch("bias", bias)
        _checks.check_rng(rng)
        self.inputs, self.outputs = int(inputs), int(outputs)
        self.activation = activation or "none"
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.outputs, self.inputs)}
        super().__init__(shapes | ({"bias": (self.outputs,)} if bias else {}), dtype)
        self.compute = _checks.check_compute(compute, self.dtype)
        rng = np.random.default_rng() if rng is None else rng
        if init == "torch":
            self.flat_params[:] = rng.uniform(-1, 1, self.flat_params.size) / math.sqrt(inputs)
        else:
            limit = math.sqrt(6 / (inputs + outputs))
            self.params["weight"][...] = rng.uniform(-limit, limit, (outputs, inputs))

    def forward(self, x: Any, *, train: bool = True) -> Array:  # replaced below
        """y [..., O] for x [..., I], which is not copied: do not change it before `backward`.

        With `train` and an activation whose gradient is computed from y (all but "gelu",
        "gelu_tanh", "silu" and "softplus"), y is read-only.
        """
        raise NotImplementedError

    def backward(self, dy: Any, *, need_dx: bool = True, accumulate: bool = False) -> Array | None:
        """The gradient of x, or None; fills `grads`, or adds to them if `accumulate`."""
        raise NotImplementedError

    if not TYPE_CHECKING:

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            self.__dict__["_usual"] = None

        def __delattr__(self, name):
            if name in NEEDED:
                raise AttributeError(f"{name}: cannot be deleted, as every call needs it")
            super().__delattr__(name)
            self.__dict__["_usual"] = None

    def _fresh(self) -> dict[str, Any]:
        return super()._fresh() | {"_usual": None}

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return *(shape[:-1] if shape else (...,)), self.outputs

    def __repr__(self) -> str:
        activation = "" if self.activation == "none" else f", {self.activation!r}"
        bias = "" if "bias" in self.params else ", bias=False"
        compute = f", compute={self.compute!r}" if self.compute else ""
        return f"Linear({self.inputs}, {self.outputs}{activation}{bias}{compute})"


_BACKWARD = "backward($self, dy, *, need_dx=True, accumulate=False)\n--\n\n"
if not TYPE_CHECKING:
    Linear.forward, Linear.backward = passes_of(
        Linear,
        f"forward($self, x, *, train=True)\n--\n\n{Linear.forward.__doc__}".encode(),
        f"{_BACKWARD}{Linear.backward.__doc__}".encode(),
    )
    for _name in (
        "weight", "bias", "in_features", "out_features", "units", "use_bias", "negative_slope",
        "parameters", "named_parameters", "weights", "get_weights", "set_weights",
    ):  # fmt: skip
        setattr(Linear, _name, Elsewhere(_name))


class Activation(Layer):
    """``y = f(x)``, element by element; f as in `Linear`, where it is faster."""

    def __init__(self, activation: str, *, slope: float = 0.01) -> None:
        self.slope = _check_activation(activation, slope, ACTIVATIONS)
        super().__init__()
        self.activation = activation

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """y like x, which is not copied: do not change it before `backward`.

        y is read-only where that of a `Linear` would be.
        """
        _checks.check_switch("train", train)
        x = floats("x", x)
        y, one = new_array(x.shape, x.dtype), np.ones((1, 1), x.dtype)
        options: Any = {"activation": self.activation, "slope": self.slope}
        linear_forward(x.reshape(-1, 1), one, None, y.reshape(-1, 1), **options)
        if train:
            y.flags.writeable = self.activation in ("none", *NEED_Z)
            self._kept = x, y, options
        return y

    def backward(
        self, dy: Array, *, need_dx: bool = True, accumulate: bool = False
    ) -> Array | None:
        """The gradient of x, or None."""
        _checks.check_switches(need_dx=need_dx, accumulate=accumulate)
        x, y, options = self._due()
        dy = gradient(dy, y)
        if not need_dx:
            self._kept = None
            return None
        dx, z, one = new_array(x.shape, x.dtype), x.reshape(-1, 1), np.ones((1, 1), x.dtype)
        linear_backward(
            dy.reshape(-1, 1), z, one, y.reshape(-1, 1),
            z if options["activation"] in NEED_Z else None, dx=dx.reshape(-1, 1), **options,
        )  # fmt: skip
        self._kept = None
        return dx

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return shape

    def __repr__(self) -> str:
        return f"Activation({self.activation!r})"
