"""`minGRU` and `minLSTM`: the gates see the input alone. Their base is in minimal_layer.py."""

from __future__ import annotations

import numpy as np

from .. import kernels
from .minimal_layer import Minimal
from .weights import Array


class minGRU(Minimal):
    """A minimal GRU (Feng et al. 2024, "Were RNNs all we needed?", section 3.1).

    ``z_t = sigmoid(w_z x_t + b_z)``, ``c_t = g(w_h x_t + b_h)`` and
    ``h_t = (1 - z_t) h_{t-1} + z_t c_t``. g(k) is k + 0.5 if k >= 0, else sigmoid(k), as in the
    paper's experiments (appendix B); k itself if not `positive`.

    The paper computes logarithms of states, to run all steps at once; hence the positive g. Here
    the steps run one after another, which is exact for any h, needs no logarithm and may start
    from any state.

    Each layer's input is the output of the one below. Only one thread may use a layer at a time; a
    second one gets an error. Copies and pickles are independent layers.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
        I, H and L, at least 1.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether sequences are [B, T, features] instead of [T, B, features].
    positive : bool
        Whether g is that of the paper's experiments, or the identity.
    dtype : float32 or float64
        Of weights, inputs and outputs.
    compute : "bfloat16", optional
        As for `LSTM`; the recurrence has no products and stays float32. Also that of `step`.
    rng : numpy.random.Generator, optional
        Draws the parameters, uniform in +-1/sqrt(I) as those of PyTorch's Linear.

    Attributes
    ----------
    params, grads : mappings of names to arrays
        weight_z_l0, weight_h_l0 [H, I] (in higher layers [H, H]), bias_z_l0, bias_h_l0 [H]; then
        those of layer 1, and so on: views into `flat_params` and `flat_grads`.
    flat_params, flat_grads : arrays
        All parameters, and all gradients, in one array each.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> layer = pyoptk.minGRU(3, 8, rng=np.random.default_rng(0))
    >>> y, state = layer.forward(np.ones((5, 4, 3), np.float32))
    >>> dx, _ = layer.backward(y - 1)
    >>> y.shape, state.shape, dx.shape, layer.grads["weight_z_l0"].shape
    ((5, 4, 8), (1, 4, 8), (5, 4, 3), (8, 3))
    """

    parts = ("z", "h")

    def _open(self, *k: Array) -> tuple[Array, Array, tuple[Array, ...]]:
        z, c = k[0], self._candidate(k[1])
        kernels.sigmoid(z, z)
        return 1 - z, z * c, (z, c)

    def _close(self, da: Array, db: Array, a: Array, *saved: Array) -> list[Array]:
        z, c = saved
        return [(db * c - da) * z * a, self._of_candidate(db * z, c)]


class minLSTM(Minimal):
    """A minimal LSTM (Feng et al. 2024, "Were RNNs all we needed?", section 3.2).

    ``f_t, i_t = sigmoid(...)`` of ``w x_t + b``, ``c_t = g(w_h x_t + b_h)`` and
    ``h_t = (f_t h_{t-1} + i_t c_t) / (f_t + i_t)``. g, parameters and methods are as in `minGRU`;
    weight_f_l0, weight_i_l0, weight_h_l0 [H, I] and bias_f_l0, bias_i_l0, bias_h_l0 [H], and so on.

    Both gates may be 0 in floating point; their shares f / (f + i) and i / (f + i) are computed
    without that division of 0 by 0.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> layer = pyoptk.minLSTM(3, 8, rng=np.random.default_rng(0))
    >>> y, state = layer.forward(np.ones((5, 4, 3), np.float32))
    >>> more, state = layer.forward(np.ones((2, 4, 3), np.float32), state)  # continued
    >>> list(layer.params)
    ['weight_f_l0', 'weight_i_l0', 'weight_h_l0', 'bias_f_l0', 'bias_i_l0', 'bias_h_l0']
    """

    parts = ("f", "i", "h")

    def _open(self, *k: Array) -> tuple[Array, Array, tuple[Array, ...]]:
        f, i, c = k[0], k[1], self._candidate(k[2])
        # 1 / f = 1 + exp(-k_f), and so on, all times exp(-most) so that none is infinite.
        most = np.maximum(np.maximum(-f, -i), 0)
        one, of_f, of_i = -most, -f - most, -i - most
        for power in (one, of_f, of_i):
            kernels.exp(power, power)
        of_f, of_i = of_f + one, of_i + one
        total = of_f + of_i
        a, share = of_i / total, of_f / total
        for gate in (f, i):
            kernels.sigmoid(gate, gate)
        return a, share * c, (f, i, share, c)

    def _close(self, da: Array, db: Array, a: Array, *saved: Array) -> list[Array]:
        f, i, share, c = saved
        slope = (da - db * c) * a * share
        return [slope * (1 - f), slope * (i - 1), self._of_candidate(db * share, c)]
