"""The recurrent layers, a class for each cell: `LSTM`, `GRU`, `RNN`. Their base is in layer.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .._checks import (
    check_choice,
    check_fraction,
    check_integer,
    check_sizes,
    check_switch,
    check_switches,
    number,
)
from .convert import ConvertedLayer, bare, check_like, lists, reordered
from .weights import PEEPHOLES, Array

if TYPE_CHECKING:
    from dataclasses import KW_ONLY


class LSTM(ConvertedLayer[tuple[Array, Array]]):
    """Long short-term memory layers (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    ``i, f, o = sigmoid(...), g = tanh(...)`` of ``w_ih x_t + b_ih + w_hh h_{t-1} + b_hh``, then
    ``c_t = f * c_{t-1} + i * g`` and ``h_t = o * tanh(c_t)``; each layer's input is the output of
    the one below. Weights, gate order (i, f, g, o) and names are PyTorch's.

    Only one thread may use a layer at a time; a second one gets an error. Copies and pickles are
    independent layers.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L, at least 1.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether sequences are [B, T, features] instead of [T, B, features]. Either way no array is
        transposed: kernels use strides.
    bidirectional : bool
        Whether each layer also runs from the end to the beginning, with weights of its own; the
        outputs of both directions are concatenated. D is then 2, else 1.
    dropout : float
        p in [0, 1): in training, an element between two layers becomes 0 with probability p, else
        it is divided by 1 - p (Srivastava et al. 2014). Backward computes the mask again.
    recurrent_dropout : float
        p in [0, 1): in training, a feature of the h that enters the products with ``weight_hh``
        becomes 0 with probability p, else it is divided by 1 - p. The mask is the same for all
        gates and all steps of a row (Gal & Ghahramani 2016).
    recurrent_dropout_of : {"state", "candidate"}
        "candidate": instead of h, g in ``i * g``, with a mask for each step (Semeniuta et al.
        2016).
    zoneout : pair of float
        (p_c, p_h), each in [0, 1): in training, an element of c or h keeps its value of the last
        step with probability p (Krueger et al. 2016). h is computed from the new c. In inference a
        state is the mean, ``p s_{t-1} + (1 - p) s_t``. With `peepholes` p_c is 0.
    seed : int, optional
        0..2**64-1, for the masks of dropout and zoneout. Each forward has masks of its own, the
        same for any number of threads. Drawn from `rng` by default.
    peepholes : bool
        Whether the gates also see c (Gers & Schmidhuber 2000): i and f that of the last step, o
        the new one, each unit its own, times ``weight_ch_l0`` [3H], in the order i, f, o.
    coupled : bool
        Whether the input gate is ``1 - f`` (Greff et al. 2017). There are then three gates, f, g,
        o, so that 4H is 3H below, and two peepholes, f, o.
    proj_size : int
        R, at least 1 and below H: ``h_t = w_hr (o * tanh(c_t))`` has R features, w_hr being
        ``weight_hr_l0`` [R, H] (Sak et al. 2014). h, its gradient and the output then have R for H
        below; c does not. 0: no projection.
    cell_clip : float, optional
        Above 0: c is bounded to +-cell_clip after each step (Sak et al. 2014), as in TensorFlow's
        LSTMCell. The gradient is 0 where the bound acts.
    layer_norm : bool
        Whether both products, and c on its way to h, are normalized over their units (Ba et al.
        2016, appendix), LN(a) being ``(a - mean) / sqrt(variance + 1e-5)``. The pre-activations are
        ``gain_ih LN(w_ih x_t) + b_ih + gain_hh LN(w_hh h_{t-1}) + b_hh``, over all 4H of them, and
        ``h_t = o * tanh(gain_c LN(c_t) + bias_c)``. It excludes the options above but dropout.
    save : {"full", "minimal"}
        What forward keeps for backward: everything, or the outputs and a few states, from which
        backward computes the rest again, in about a third more time.
    dtype : float32 or float64
        Of weights, inputs and outputs.
    compute : "bfloat16", optional
        With float32: both operands of every product are rounded to bfloat16, to the nearest,
        forward and backward; weights, gradients, states, sums and cells stay float32.
        Gradients are then within 0.4 % of their largest element (T 50, H 128). On processors with
        AMX (Linux) forward and backward take 0.25 to 0.45 of the time, but 1.6 for 10 steps of one
        row; with AVX512-BF16 0.5 to 0.7 and 0.8; with AVX-512 alone 1.01 to 1.04. With `coupled`,
        and for a GRU that resets before, numbers are rounded but no pairs of them multiplied: the
        time is that of float32. `step` multiplies float32, which is as near to `forward` as float32
        is. Not with `layer_norm`, nor for what needs exact sums, such as long integrations.
    init : {"torch", "keras"}
        The initial weights. torch: all uniform in +-1/sqrt(H). keras: input weights uniform in
        +-sqrt(6 / (I + 4H)) (Glorot & Bengio 2010), recurrent weights orthogonal (Saxe et al.
        2014), biases 0, or 1 for the forget gate. With `layer_norm` gains are 1, and the biases of
        torch 0.
    rng : numpy.random.Generator, optional
        Draws the weights.

    Attributes
    ----------
    params, grads : mappings of names to arrays
        weight_ih_l0 [4H, I] (in higher layers [4H, D * H]), weight_hh_l0 [4H, H], bias_ih_l0 and
        bias_hh_l0 [4H], with `peepholes` weight_ch_l0 [3H], with `proj_size` weight_hr_l0 [R, H],
        with `layer_norm` gain_ih_l0 and gain_hh_l0 [4H], gain_c_l0 and bias_c_l0 [H]; if
        bidirectional the same with the suffix _reverse; then those of layer 1, and so on. They are
        views into `flat_params` and `flat_grads`. The dicts are read-only; the arrays may be
        changed in place at any time, because every call reads them again. (Changed between a
        forward and its backward, the gradients are those of neither weights.)
    flat_params, flat_grads : arrays
        All parameters, and all gradients, in one array each.

    Notes
    -----
    Memory of a training step, in elements, with P = H rounded up to whole vectors: 6 L D (T+1) B P
    kept for backward; T B D H for the gradient between two layers, twice that from three layers on;
    as much for each layer but the last if bidirectional; as much again with dropout; and the packed
    weights of the largest layer. With ``save="minimal"`` the first is
    L D (T+1) B P + (L+5) D B P sqrt(T), or somewhat more with few rows. A projection needs
    D T B (P + R) more, R rounded up to a multiple of 64 at most, with "minimal" sqrt(T) instead
    of T. With `layer_norm` the first is 14 L D (T+1) B P, or with "minimal" 2 L D (T+1) B P +
    12 D B P sqrt(T), and its rows are an odd number of cache lines long. This memory stays for the
    next call with the same T and B; then only outputs are new arrays, and with `out` not even `y`
    and `dx`.

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

    A long sequence in pieces (truncated backpropagation): the state passes to the next piece, its
    gradient does not.

    >>> state = None
    >>> for piece in np.array_split(x, 2):
    ...     y, state = lstm.forward(piece, state)
    ...     dx, _ = lstm.backward(y - 0.5)
    ...     opt.step(lstm.grads)
    """

    cell = "lstm"
    gates = 4
    open_gate = 1  # f
    keras_gates = (0, 1, 2, 3)
    onnx_gates = (0, 3, 1, 2)
    torch_names = "(?:(?:weight|bias)_[ih]h|weight_hr)"
    not_in_torch = ("peepholes", "coupled", "cell_clip", "zoneout", "layer_norm")
    not_in_keras = (*not_in_torch, "proj_size")
    not_in_onnx = ("cell_clip", "proj_size", "zoneout", "layer_norm")
    not_normed = ("peepholes", "coupled", "cell_clip", "proj_size")
    _: KW_ONLY
    zoneout: tuple[float, float] = (0.0, 0.0)
    proj_size: int = 0
    peepholes: bool = False
    coupled: bool = False
    cell_clip: float | None = None
    layer_norm: bool = False

    def _begin(self, given: dict[str, Any]) -> None:
        switches = {name: given[name] for name in ("peepholes", "coupled", "layer_norm")}
        check_switches(**switches)
        given |= {name: bool(on) for name, on in switches.items()}
        check_sizes(hidden_size=given["hidden_size"])
        H = given["hidden_size"]
        given["proj_size"] = check_integer(
            "proj_size", given["proj_size"], 0, H, f"an integer in 0..{H - 1}"
        )
        if given["cell_clip"] is not None:
            least = float(np.finfo(np.float32).tiny)
            given["cell_clip"] = number(
                "cell_clip", given["cell_clip"], least, np.inf, "a number above 0 or None"
            )
        if given["coupled"]:
            self.__dict__.update(cell="lstm_coupled", gates=3, open_gate=0)
        rates = self._rates("zoneout", given["zoneout"])
        if given["peepholes"] and rates[0] > 0:
            raise ValueError(f"zoneout: expected 0 for c with peepholes, got {rates[0]}")
        super()._begin(given)

    def _rates(self, name: str, given: Any) -> Any:
        if name != "zoneout":
            return super()._rates(name, given)
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise TypeError(
                f"zoneout: expected a pair of probabilities, for c and h, got {given!r}"
            )
        return tuple(check_fraction(f"zoneout[{k}]", p) for k, p in enumerate(given))

    @property
    def zoneout_rates(self) -> tuple[float, float]:
        """Of c and of h."""
        return self.zoneout

    @classmethod
    def from_onnx(cls, W: Any, R: Any, B: Any = None, P: Any = None, **settings: Any) -> Self:
        """As of every layer; `P`, the peepholes, is [D, 3H], or a list.

        The operator's ``input_forget=1`` is the keyword ``coupled=True``: of i and f it uses the
        weights of i, which this makes those of f. Its `clip`, which bounds pre-activations, is not
        supported.
        """
        if "peepholes" in settings:
            raise TypeError(
                f"peepholes: expected none, as P says it, got {settings['peepholes']!r}"
            )
        layer = super().from_onnx(W, R, B, **settings, peepholes=P is not None)
        if P is not None:
            given = lists(W=W, P=P)
            check_like((W, layer.to_onnx()[3]), given)
            for i, own in enumerate(layer._peepholes()):
                level, direction = divmod(i, layer.directions)
                own[...] = layer._peepholes_of_onnx(given["P"][level][direction])
        return layer

    def to_onnx(self) -> tuple[Any, ...]:
        """(W, R, B) for ONNX, as `from_onnx` takes them, and P if there are peepholes."""
        if not self.peepholes:
            return super().to_onnx()
        parts, D = [self._peepholes_to_onnx(own) for own in self._peepholes()], self.directions
        P = [np.stack(parts[i : i + D]) for i in range(0, len(parts), D)]
        return *super().to_onnx(), bare(P)

    def _peepholes(self) -> list[Array]:
        return [array for name, array in self.params.items() if name.startswith(PEEPHOLES)]

    def _to_onnx(self, array: Array) -> Array:
        if not self.coupled:
            return super()._to_onnx(array)
        f, g, o = np.split(array, 3)  # ONNX keeps i, ours f: sigmoid(-a) is 1 - sigmoid(a)
        return np.concatenate([-f, o, np.zeros_like(f), g])

    def _of_onnx(self, array: Array) -> Array:
        if not self.coupled:
            return super()._of_onnx(array)
        i, o, _, g = np.split(array, 4)
        return np.concatenate([-i, g, o])

    def _peepholes_to_onnx(self, array: Array) -> Array:
        if self.coupled:
            f, o = np.split(array, 2)
            return np.concatenate([-f, o, np.zeros_like(f)])
        return reordered(array, (0, 2, 1))

    def _peepholes_of_onnx(self, array: Array) -> Array:
        i, o, f = np.split(array, 3)
        return np.concatenate([-i, o] if self.coupled else [i, f, o])


class GRU(ConvertedLayer[Array]):
    """Gated recurrent units (Cho et al. 2014).

    With ``x = w_ih x_t + b_ih`` and ``h = w_hh h_{t-1} + b_hh``, both in the order r, z, n of the
    gates: ``r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)``, ``n = tanh(x_n + r * h_n)`` and
    ``h_t = (1 - z) * n + z * h_{t-1}``. This is PyTorch's and cuDNN's form, Keras's by default,
    and ONNX's with ``linear_before_reset=1``. The form of the paper, ``reset_after=False``, has
    ``n = tanh(x_n + w_hn (r * h_{t-1}) + b_hn)``; it is ONNX's by default. Weights, gate order and
    names are PyTorch's. The state is one array, h. Everything else is documented in `LSTM`.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
        I, H and L, at least 1.
    reset_after : bool
        Whether the reset gate acts after the product with h. Without, each step has a second
        product, which has to wait for the first.
    layer_norm : bool
        Whether both products are normalized, as for `LSTM`, but over the 2H of r and z and over the
        H of n (Ba et al. 2016, appendix): ``x = gain_ih LN(w_ih x_t) + b_ih`` and
        ``h = gain_hh LN(w_hh h_{t-1}) + b_hh``. It excludes ``reset_after=False``, dropout within
        the layers and zoneout.
    recurrent_dropout_of : {"state", "candidate"}
        As for `LSTM`; the candidate is n in ``(1 - z) * n``.
    zoneout : float
        p of h, as for `LSTM`.
    bias, batch_first, bidirectional, dropout, recurrent_dropout, seed, save, dtype, compute, init,
    rng
        As for `LSTM`. With ``init="keras"`` all biases are 0.

    Attributes
    ----------
    params, grads : mappings of names to arrays
        weight_ih_l0 [3H, I] (in higher layers [3H, D * H]), weight_hh_l0 [3H, H], bias_ih_l0 and
        bias_hh_l0 [3H], with `layer_norm` gain_ih_l0 and gain_hh_l0 [3H], and so on as for `LSTM`.
    flat_params, flat_grads : arrays
        All parameters, and all gradients, in one array each.

    Notes
    -----
    A training step keeps 5 L D (T+1) B P elements for backward, with P = H rounded up to whole
    vectors; with ``save="minimal"`` L D (T+1) B P, and some 4 D B P sqrt(T) for the gates of a
    window of steps. Between layers it needs what an `LSTM` needs. With ``reset_after=False`` there
    is T B P more for backward, or with "minimal" B P sqrt(T). With `layer_norm` the first is
    11 L D (T+1) B P, or with "minimal" L D (T+1) B P + 10 D B P sqrt(T).

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> gru = pyoptk.GRU(3, 8, bidirectional=True, rng=np.random.default_rng(0))
    >>> x = np.random.default_rng(1).standard_normal((5, 4, 3), dtype=np.float32)
    >>> y, h = gru.forward(x)
    >>> dx, _ = gru.backward(y - 0.5)
    >>> y.shape, h.shape, dx.shape
    ((5, 4, 16), (2, 4, 8), (5, 4, 3))
    """

    cell = "gru"
    gates = 3
    keras_gates = (1, 0, 2)
    keras_biases = 2
    onnx_gates = (1, 0, 2)
    not_in_torch = ("reset_after", "zoneout", "layer_norm")
    not_in_keras = not_in_onnx = ("zoneout", "layer_norm")
    not_normed = ("reset_after",)
    _: KW_ONLY
    reset_after: bool = True
    layer_norm: bool = False

    def _begin(self, given: dict[str, Any]) -> None:
        for name in ("reset_after", "layer_norm"):
            given[name] = check_switch(name, given[name])
        if not given["reset_after"]:
            self.__dict__.update(cell="gru_before", keras_biases=1)
        super()._begin(given)


class RNN(ConvertedLayer[Array]):
    """Plain recurrent layers (Elman 1990).

    ``h_t = tanh(w_ih x_t + b_ih + w_hh h_{t-1} + b_hh)``, or relu instead of tanh; each layer's
    input is the output of the one below. Weights and names are PyTorch's. The state is one array,
    h. Everything except `nonlinearity` is documented in `LSTM`.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
        I, H and L, at least 1.
    nonlinearity : {"tanh", "relu"}
    zoneout : float
        p of h, as for `LSTM`.
    recurrent_dropout_of : {"state"}
        There is no candidate.
    bias, batch_first, bidirectional, dropout, recurrent_dropout, seed, save, dtype, compute, init,
    rng
        As for `LSTM`. With ``init="keras"`` all biases are 0. For a plain RNN, ``save="minimal"``
        is the same as "full".

    Attributes
    ----------
    params, grads : mappings of names to arrays
        weight_ih_l0 [H, I] (in higher layers [H, D * H]), weight_hh_l0 [H, H], bias_ih_l0 and
        bias_hh_l0 [H], and so on as for `LSTM`, with `flat_params` and `flat_grads`.

    Notes
    -----
    A training step needs, in numbers of 4 or 8 bytes and P being H rounded up to whole vectors,
    L D (T+1) B P that are kept for backward, some 4 D B P sqrt(T) for the gradients of a window
    of steps, and between layers what an `LSTM` needs.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> rnn = pyoptk.RNN(3, 8, nonlinearity="relu", rng=np.random.default_rng(0))
    >>> x = np.random.default_rng(1).standard_normal((5, 4, 3), dtype=np.float32)
    >>> y, h = rnn.forward(x)
    >>> dx, _ = rnn.backward(y - 0.5)
    >>> y.shape, h.shape, dx.shape
    ((5, 4, 8), (1, 4, 8), (5, 4, 3))
    """

    cell = "rnn"
    gates = 1
    droppable = ("state",)
    keras_gates = (0,)
    onnx_gates = (0,)
    nonlinearity: str = "tanh"

    def _begin(self, given: dict[str, Any]) -> None:
        check_choice("nonlinearity", given["nonlinearity"], ("tanh", "relu"))
        self.__dict__["relu"] = given["nonlinearity"] == "relu"
        super()._begin(given)
