"""Weights from PyTorch, Keras and ONNX, and back: names, order of gates, order of axes.

Names and the order of gates are PyTorch's. In Keras weights are transposed, and there is one bias
but for a GRU; in ONNX an array holds both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from .._checks import check_switch
from ..checkpoint import check_arrays, check_keys, check_value, fill_arrays
from .layer import Layer, State
from .weights import PEEPHOLES, PROJECTION, Array, names_of


class ConvertedLayer(Layer[State]):
    """A layer whose weights come from other libraries and go there, as plain arrays.

    Weights are copied, and may be whatever `numpy.asarray` takes. `settings` are the keywords of
    the layer that do not follow from them: batch_first, dropout, seed, save, nonlinearity,
    reset_after.
    """

    keras_gates: ClassVar[tuple[int, ...]]  # Keras's k-th gate is ours of this number
    keras_biases: ClassVar[int] = 1
    onnx_gates: ClassVar[tuple[int, ...]]
    torch_names: ClassVar[str] = "(?:weight|bias)_[ih]h"  # a pattern
    # Options of which the library has only the default value.
    not_in_torch: ClassVar[tuple[str, ...]] = ("zoneout",)
    not_in_keras: ClassVar[tuple[str, ...]] = ("zoneout",)
    not_in_onnx: ClassVar[tuple[str, ...]] = ("zoneout",)

    @classmethod
    def from_torch(cls, state: Mapping[str, Any], *, prefix: str = "", **settings: Any) -> Self:
        """A layer with the weights of the one of the same name in ``torch.nn``.

        Parameters
        ----------
        state : mapping of names to arrays
            Its ``state_dict()``, or that of a model in which its names begin with `prefix`.

        Raises
        ------
        TypeError, ValueError
            If names, shapes or dtypes are not those of such a layer; the message names the array.

        Examples
        --------
        >>> import pyoptk
        >>> lstm = pyoptk.LSTM(3, 8, num_layers=2)
        >>> model = {f"rnn.{name}": array for name, array in lstm.to_torch().items()}
        >>> pyoptk.LSTM.from_torch(model, prefix="rnn.").num_layers
        2
        """
        check_keys(state, "state")
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: expected a str, got {prefix!r}")
        arrays = {
            name.removeprefix(prefix): array_of(array, f"state[{name!r}]")
            for name, array in state.items()
            if name.startswith(prefix)
        }
        numbers = [re.fullmatch(cls.torch_names + r"_l(\d+)(?:_reverse)?", n) for n in arrays]
        w_ih, w_hh = (arrays.get(name, np.empty(0)) for name in names_of(0)[:2])
        projects = f"{PROJECTION}_l0" in arrays
        fits = all(numbers) and w_ih.ndim == w_hh.ndim == 2
        if not fits or (projects and w_hh.shape[1] >= len(w_hh) // cls.gates):
            raise ValueError(
                f"state: expected weight_ih_l0 [{cls._rows()}, I], weight_hh_l0 [{cls._rows()}, H] "
                "and the like, got "
                + ", ".join(f"{prefix}{name} {array.shape}" for name, array in arrays.items())
            )
        I, H, L = w_ih.shape[1], w_hh.shape[1], 1 + max(int(n[1]) for n in numbers if n)
        bias, both = names_of(0)[2] in arrays, names_of(0, backward=True)[0] in arrays
        own = {"proj_size": H if projects else 0} if "proj_size" in cls._arguments else {}
        H = len(w_hh) // cls.gates if projects else H
        layer = cls._of(w_ih, I, H, L, bias, both, settings, **own)
        layer.check_default("PyTorch", layer.not_in_torch)
        check_arrays(layer.params, arrays, "state")
        fill_arrays(dict(layer.params), arrays)
        return layer

    def to_torch(self) -> dict[str, Array]:
        """The weights by PyTorch's names."""
        self.check_default("PyTorch", self.not_in_torch)
        return {name: array.copy() for name, array in self.params.items()}

    @classmethod
    def from_keras(
        cls,
        kernel: Any,
        recurrent: Any,
        bias: Any = None,
        *,
        bidirectional: bool = False,
        **settings: Any,
    ) -> Self:
        """A layer with the weights of one of Keras's, or of several on top of each other.

        G * H are 4H for an LSTM, 3H for a GRU; H for an RNN, which is Keras's SimpleRNN.

        Parameters
        ----------
        kernel, recurrent, bias : arrays [I, G * H], [H, G * H], [G * H], or lists of such
            As ``get_weights()`` returns them; the bias of a GRU is [2, 3H], but [3H] with the
            keyword ``reset_after=False``, which is also Keras's. A list has an array for each layer
            or, if `bidirectional`, two: forward, backward. Without bias None. A bias [8H], or [6H]
            of a GRU, is that of CuDNNLSTM or CuDNNGRU; all three are then taken as those have them.

        Raises
        ------
        TypeError, ValueError
            If an array has another dtype or shape, or a list another length; the message names it.
        """
        biases = {} if bias is None else {"bias": bias}
        given = lists(kernel=kernel, recurrent=recurrent, **biases)
        I, H = _axes(given, "kernel", 2)[0], _axes(given, "recurrent", 2)[0]
        L, rest = divmod(len(given["kernel"]), 1 + check_switch("bidirectional", bidirectional))
        if rest:
            raise ValueError(f"kernel: expected two arrays for each layer, got {2 * L + rest}")
        layer = cls._of(given["kernel"][0], I, H, L, bool(biases), bidirectional, settings)
        layer._unpack_cudnn(given)
        check_like(layer.to_keras(), given)
        layer.flat_params[:] = 0  # there is no second bias
        for i, part in enumerate(layer._parts()):
            theirs = [arrays[i] for arrays in given.values()]
            theirs[2:] = [half for b in theirs[2:] for half in np.atleast_2d(b)]
            for own, array in zip(part, theirs, strict=False):
                own[...] = reordered(array.T, np.argsort(cls.keras_gates))
        return layer

    def to_keras(self) -> tuple[Any, Any, Any]:
        """(kernel, recurrent, bias) for Keras, as `from_keras` takes them.

        Arrays, or lists if there are several layers or directions. The bias is the sum of both
        (both, [2, 3H], for a GRU), and None if there is none.
        """
        self.check_default("Keras", self.not_in_keras)
        parts = [[reordered(array, self.keras_gates) for array in part] for part in self._parts()]
        kernels, recurrents = ([part[i].T.copy() for part in parts] for i in range(2))
        biases: list[Array] = [
            np.stack(part[2:]) if self.keras_biases == 2 else part[2] + part[3]
            for part in parts
            if self.bias
        ]
        return bare(kernels), bare(recurrents), bare(biases)

    @classmethod
    def from_onnx(cls, W: Any, R: Any, B: Any = None, **settings: Any) -> Self:
        """A layer with the weights of ONNX's operator of this name, or of several on top of each
        other.

        G * H are 4H for an LSTM, 3H for a GRU, H for an RNN. A GRU with ``linear_before_reset=0``,
        the operator's default, needs the keyword ``reset_after=False``.

        Parameters
        ----------
        W, R, B : arrays [D, G * H, I], [D, G * H, H], [D, 2 * G * H], or lists, one for each layer
            The operator's inputs of these names; D is 2 if bidirectional, else 1. Without biases B
            is None.

        Raises
        ------
        TypeError, ValueError
            If an array has another dtype or shape, or a list another length; the message names it.
        """
        given = lists(W=W, R=R, **({} if B is None else {"B": B}))
        (D, _, I), (_, _, H) = _axes(given, "W", 3), _axes(given, "R", 3)
        if D not in (1, 2):
            raise ValueError(f"W: expected 1 or 2 directions, got shape {given['W'][0].shape}")
        layer = cls._of(given["W"][0], I, H, len(given["W"]), "B" in given, D == 2, settings)
        check_like(layer.to_onnx(), given)
        for i, part in enumerate(layer._parts()):
            theirs = [arrays[i // D][i % D] for arrays in given.values()]
            theirs[2:] = [half for b in theirs[2:] for half in np.split(b, 2)]
            for own, array in zip(part, theirs, strict=True):
                own[...] = layer._of_onnx(array)
        return layer

    def to_onnx(self) -> tuple[Any, ...]:
        """(W, R, B) for ONNX, as `from_onnx` takes them: arrays, or lists if there are layers."""
        self.check_default("ONNX", self.not_in_onnx)
        parts = [[self._to_onnx(array) for array in part] for part in self._parts()]
        D = self.directions
        layers = [parts[i : i + D] for i in range(0, len(parts), D)]
        Ws, Rs = ([np.stack([part[k] for part in layer]) for layer in layers] for k in range(2))
        Bs = [
            np.stack([np.concatenate(part[2:]) for part in layer]) for layer in layers if self.bias
        ]
        return bare(Ws), bare(Rs), bare(Bs)

    def _unpack_cudnn(self, given: dict[str, list[Array]]) -> None:
        """Change weights of CuDNNLSTM or CuDNNGRU, which their bias tells, to those of LSTM or GRU.

        Keras does the same when it loads a file: cuDNN has a gate as [H, I] in memory.
        """
        H, G, biases = self.hidden_size, self.gates, given.get("bias", [])
        for i, bias in enumerate(biases if self.cell in ("lstm", "gru") else []):
            kernel, recurrent = given["kernel"][i], given["recurrent"][i]
            shapes = kernel.shape[1:], recurrent.shape, bias.shape
            if shapes == ((G * H,), (H, G * H), (2 * G * H,)):
                turned = [k.reshape(H, len(k)).T for k in np.hsplit(kernel, G)]
                given["kernel"][i] = np.hstack(turned)
                given["recurrent"][i] = np.hstack([k.T for k in np.hsplit(recurrent, G)])
                both = bias.reshape(2, G * H)
                biases[i] = both if self.keras_biases == 2 else both.sum(0)

    def check_default(self, library: str, names: tuple[str, ...]) -> None:
        for name in names:
            default, value = type(self)._arguments[name].default, getattr(self, name)
            if value != default:
                raise ValueError(
                    f"{name}: expected {default}, as {library} has nothing else, got {value}"
                )

    def _to_onnx(self, array: Array) -> Array:
        """A copy of a weight with its gates in ONNX's order."""
        return reordered(array, self.onnx_gates)

    def _of_onnx(self, array: Array) -> Array:
        return reordered(array, np.argsort(self.onnx_gates))

    @classmethod
    def _of(
        cls,
        w: Array,
        I: int,
        H: int,
        L: int,
        bias: bool,
        both: bool,
        settings: dict[str, Any],
        **own: int,
    ) -> Self:
        """A layer with the caller's settings and those that follow from weights such as `w`."""
        found: dict[str, Any] = {"input_size": I, "hidden_size": H, "num_layers": L, "bias": bias}
        # An array of another dtype than these two will be refused.
        dtype = np.float64 if w.dtype == np.float64 else np.float32
        found |= {"bidirectional": both, "dtype": dtype, **own}
        for name in settings.keys() & found.keys():
            raise TypeError(f"{name}: expected none, as the weights say it, got {settings[name]!r}")
        return cls(**found, **settings)

    @classmethod
    def _rows(cls) -> str:
        return f"{cls.gates}H" if cls.gates > 1 else "H"

    def _parts(self) -> list[list[Array]]:
        """The weights of every direction of every layer, in the order of `KINDS`."""
        kinds = 4 if self.bias else 2
        others = PEEPHOLES, PROJECTION
        arrays = [a for name, a in self.params.items() if not name.startswith(others)]
        return [arrays[i : i + kinds] for i in range(0, len(arrays), kinds)]


def reordered(array: Array, gates: ArrayLike) -> Array:
    """A copy of [G * H, ...] with its gates in this order."""
    order = np.asarray(gates)
    gates_of: Array = array.reshape(order.size, -1)
    reordered: Array = gates_of[order].reshape(array.shape)
    return reordered


def bare(arrays: list[Array]) -> Any:
    """None, an array, or several in a list, as users pass them."""
    return arrays if len(arrays) > 1 else arrays[0] if arrays else None


def array_of(weight: Any, name: str) -> Array:
    """A weight as an array; also a parameter of PyTorch's."""
    try:
        return np.asarray(weight.detach() if hasattr(weight, "detach") else weight)
    except (RuntimeError, TypeError, ValueError) as error:  # such as a tensor of bfloat16
        got = f"{getattr(weight, 'dtype', type(weight).__name__)} ({error})"
        raise TypeError(f"{name}: expected what numpy.asarray takes, got {got}") from None


def lists(**given: Any) -> dict[str, list[Array]]:
    """Lists of arrays, equally many of each."""
    lists = {
        name: [array_of(a, name) for a in (some if isinstance(some, list | tuple) else [some])]
        for name, some in given.items()
    }
    first, count = next((name, len(arrays)) for name, arrays in lists.items())
    for name, arrays in lists.items():
        if not count:
            raise ValueError(f"{name}: expected at least one array, got none")
        if len(arrays) != count:
            raise ValueError(
                f"{name}: expected as many arrays as {first}, {count}, got {len(arrays)}"
            )
    return lists


def _axes(given: Mapping[str, list[Array]], name: str, axes: int) -> tuple[int, ...]:
    """The shape of the first array, which gives the size of the layer."""
    shape = given[name][0].shape
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"{name}: expected an array of {axes} axes, got shape {shape}")
    return shape


def check_like(expected: tuple[Any, ...], given: Mapping[str, list[Array]]) -> None:
    for of_kind, (name, arrays) in zip(expected, given.items(), strict=False):
        several = isinstance(of_kind, list)
        for i, array in enumerate(arrays):
            one = of_kind[i] if several else of_kind
            check_value(one, array, f"{name}[{i}]" if several else name)
