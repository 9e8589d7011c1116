"""Twins of the recurrent kernels: the same results within rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "dropout",
    "exp",
    "lstm_backward",
    "lstm_cell",
    "lstm_forward",
    "lstm_step",
    "matmul",
    "output",
    "philox",
    "rnn_backward",
    "rnn_cell",
    "rnn_forward",
    "rnn_step",
    "sigmoid",
    "tanh",
]

Array = NDArray[np.floating]


def sigmoid(x: Array, y: Array) -> None:
    """y = 1 / (1 + exp(-x)), without overflow for large negative x."""
    small = np.exp(-np.abs(x))
    y[...] = np.where(x < 0, small, x.dtype.type(1)) / (1 + small)


def exp(x: Array, y: Array) -> None:
    """y = e**x."""
    np.exp(x, out=y)


def tanh(x: Array, y: Array) -> None:
    """y = tanh(x)."""
    np.tanh(x, out=y)


def matmul(a: Array, b: Array, c: Array, *, accumulate: bool = False) -> None:
    """c = a @ b, or c += a @ b."""
    c[...] = c + a @ b if accumulate else a @ b


def philox(counters: NDArray[np.uint64], stream: int, seed: int) -> NDArray[np.uint32]:
    """Philox4x32-10 (Salmon et al. 2011): the four words [n, 4] of each of n counters.

    A counter's four words are the number, low word first, then `stream`; the key is `seed`.
    """
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1 = counters & low, counters >> shift
    c2, c3 = (np.full_like(counters, half) for half in (stream & 0xFFFFFFFF, stream >> 32))
    key0, key1 = (np.full_like(counters, half) for half in (seed & 0xFFFFFFFF, seed >> 32))
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = p1 >> shift ^ c1 ^ key0, p0 >> shift ^ c3 ^ key1
        c1, c3 = p1 & low, p0 & low
        key0, key1 = (key0 + np.uint64(0x9E3779B9)) & low, (key1 + np.uint64(0xBB67AE85)) & low
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def dropout(x: Array, y: Array, p: float, *, seed: int, stream: int = 0) -> None:
    """y = x / (1 - p), or 0 with probability p (Srivastava et al. 2014); p in steps of 2**-16.

    Of each 512 elements, which take 64 counters, the e-th one takes counter e % 64, of it word
    e / 64 % 4, of it the low half if e < 256, else the high one.
    """
    real = x.dtype.type
    words = philox(np.arange(-(-x.size // 512) * 64, dtype=np.uint64), stream, seed)
    words = words.reshape(-1, 64, 4).swapaxes(1, 2)
    numbers = np.stack([words & 0xFFFF, words >> 16], axis=1).ravel()[: x.size].reshape(x.shape)
    least = int(p * 2**16 + 0.5)
    y[...] = np.where(numbers >= least, x * real(2**16 / (2**16 - least)), real(0))


def lstm_cell(a: Array, c: Array, gates: Array) -> tuple[Array, Array]:
    """h, c [B, H] after a step, from pre-activations [B, 4H] and c before it; changes `gates`."""
    a = a.reshape(gates.shape)  # [B, 4, H]
    i, f, g, o = (gates[:, k] for k in range(4))
    sigmoid(a[:, 0], i)
    sigmoid(a[:, 1], f)
    tanh(a[:, 2], g)
    sigmoid(a[:, 3], o)
    c = f * c + i * g
    return o * np.tanh(c), c


def rnn_cell(a: Array, *, relu: bool = False) -> Array:
    """h [B, H] of a plain RNN from pre-activations."""
    return np.maximum(a, 0) if relu else np.tanh(a)


def lstm_step(
    x: Array,
    h: Array,
    c: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> tuple[Array, Array]:
    """h and c [B, H] after one step of a layer, from x [B, I] and those before it."""
    a = _inputs(x, w_ih, b_ih, b_hh) + h @ w_hh.T
    return lstm_cell(a, c, np.empty((len(c), 4, c.shape[1]), c.dtype))


def rnn_step(
    x: Array,
    h: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    relu: bool = False,
) -> Array:
    """h [B, H] after one step of a layer, from x [B, I] and h before it."""
    return rnn_cell(_inputs(x, w_ih, b_ih, b_hh) + h @ w_hh.T, relu=relu)


def lstm_forward(
    x: Array,
    h0: Array,
    c0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    lengths: NDArray[np.integer] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """One direction of an LSTM layer (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    Parameters
    ----------
    x : array [T, B, I]
    h0, c0 : arrays [B, H]
    w_ih, w_hh : arrays [4H, I], [4H, H]
        Gates in the order i, f, g, o.
    b_ih, b_hh : arrays [4H], optional
    lengths : integers [B], optional
        At steps from lengths[b] on, sequence b keeps its state.
    reverse : bool
        Steps are taken from T-1 to 0.

    Returns
    -------
    h, c : arrays [T+1, B, H]
        States in the order of the steps, the initial one first; `output` makes the output of h.
    gates : array [T, B, 4, H]
        In the order of the steps.
    """
    T, B, _ = x.shape
    H = h0.shape[1]
    h, c = np.empty((2, T + 1, B, H), x.dtype)
    gates = np.empty((T, B, 4, H), x.dtype)
    h[0], c[0] = h0, c0
    inputs = _inputs(_turned(x, reverse), w_ih, b_ih, b_hh)
    ended = _ended(T, lengths, reverse)
    for t in range(T):
        h[t + 1], c[t + 1] = lstm_cell(inputs[t] + h[t] @ w_hh.T, c[t], gates[t])
        if ended is not None:
            past = ended[t]
            h[t + 1, past], c[t + 1, past] = h[t, past], c[t, past]
    return h, c, gates


def rnn_forward(
    x: Array,
    h0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    lengths: NDArray[np.integer] | None = None,
    *,
    reverse: bool = False,
    relu: bool = False,
) -> Array:
    """One direction of a plain RNN layer (Elman 1990): h [T+1, B, H], as `lstm_forward` has it."""
    T, B, _ = x.shape
    h = np.empty((T + 1, B, h0.shape[1]), x.dtype)
    h[0] = h0
    inputs = _inputs(_turned(x, reverse), w_ih, b_ih, b_hh)
    ended = _ended(T, lengths, reverse)
    for t in range(T):
        h[t + 1] = rnn_cell(inputs[t] + h[t] @ w_hh.T, relu=relu)
        if ended is not None:
            h[t + 1, ended[t]] = h[t, ended[t]]
    return h


def output(
    h: Array,
    lengths: NDArray[np.integer] | None = None,
    *,
    reverse: bool = False,
    repeat_last: bool = False,
) -> Array:
    """The output [T, B, H] of a layer with these states: past the end 0, or the state it keeps."""
    y, ended = h[1:], _ended(len(h) - 1, lengths, reverse)
    if ended is not None and not repeat_last:
        y = np.where(ended[:, :, None], 0, y)
    return _turned(y, reverse)


def lstm_backward(
    x: Array,
    h: Array,
    c: Array,
    gates: Array,
    w_ih: Array,
    w_hh: Array,
    dy: Array,
    dh: Array,
    dc: Array,
    lengths: NDArray[np.integer] | None = None,
    *,
    reverse: bool = False,
    repeat_last: bool = False,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The gradients of `lstm_forward`.

    Parameters
    ----------
    x, h, c, gates, w_ih, w_hh, lengths, reverse, repeat_last
        As given to and returned by `lstm_forward` and `output`.
    dy : array [T, B, H]
        Gradient of the output.
    dh, dc : arrays [B, H]
        Gradients of the last state.

    Returns
    -------
    dx, dh0, dc0, dw_ih, dw_hh, db
        db is that of either bias.
    """
    T, B, H = dy.shape
    ended = _ended(T, lengths, reverse)
    dy = _of_output(dy, ended, reverse, repeat_last)
    da = np.empty((T, B, 4, H), x.dtype)
    for t in reversed(range(T)):
        i, f, g, o = (gates[t, :, k] for k in range(4))
        dh_t = dy[t] + dh
        tanh_c = np.tanh(c[t + 1])
        dc_t = dc + dh_t * o * (1 - tanh_c**2)
        da[t, :, 0] = dc_t * g * i * (1 - i)
        da[t, :, 1] = dc_t * c[t] * f * (1 - f)
        da[t, :, 2] = dc_t * i * (1 - g**2)
        da[t, :, 3] = dh_t * tanh_c * o * (1 - o)
        dh_prev, dc_prev = da[t].reshape(B, 4 * H) @ w_hh, dc_t * f
        if ended is not None:  # past the end everything passes through
            past = ended[t]
            da[t, past], dh_prev[past], dc_prev[past] = 0, dh_t[past], dc[past]
        dh, dc = dh_prev, dc_prev
    dx, dw_ih, dw_hh, db = _from_da(da, x, h, w_ih, ended, reverse)
    return dx, dh, dc, dw_ih, dw_hh, db


def rnn_backward(
    x: Array,
    h: Array,
    w_ih: Array,
    w_hh: Array,
    dy: Array,
    dh: Array,
    lengths: NDArray[np.integer] | None = None,
    *,
    reverse: bool = False,
    repeat_last: bool = False,
    relu: bool = False,
) -> tuple[Array, Array, Array, Array, Array]:
    """The gradients of `rnn_forward`, as `lstm_backward`: dx, dh0, dw_ih, dw_hh, db."""
    ended = _ended(len(dy), lengths, reverse)
    dy = _of_output(dy, ended, reverse, repeat_last)
    da = np.empty_like(dy)
    for t in reversed(range(len(dy))):
        dh_t = dy[t] + dh
        da[t] = np.where(h[t + 1] <= 0, 0, dh_t) if relu else dh_t * (1 - h[t + 1] ** 2)
        dh = da[t] @ w_hh
        if ended is not None:
            da[t, ended[t]], dh[ended[t]] = 0, dh_t[ended[t]]
    dx, dw_ih, dw_hh, db = _from_da(da, x, h, w_ih, ended, reverse)
    return dx, dh, dw_ih, dw_hh, db


def _inputs(x: Array, w_ih: Array, *biases: Array | None) -> Array:
    """What the pre-activations have of x and of the biases."""
    a = x @ w_ih.T
    for bias in biases:
        if bias is not None:
            a += bias
    return a


def _of_output(
    dy: Array, ended: NDArray[np.bool] | None, reverse: bool, repeat_last: bool
) -> Array:
    """dy in the order of the steps, 0 where the output is constant."""
    dy = _turned(dy, reverse)
    return dy if ended is None or repeat_last else np.where(ended[:, :, None], 0, dy)


def _from_da(
    da: Array, x: Array, h: Array, w_ih: Array, ended: NDArray[np.bool] | None, reverse: bool
) -> tuple[Array, Array, Array, Array]:
    """dx, dw_ih, dw_hh and db from the gradient of the pre-activations."""
    T, B, I = x.shape
    rows = da.reshape(T * B, len(w_ih))
    dx = _turned((rows @ w_ih).reshape(x.shape), reverse)
    x, h_prev = _turned(x, reverse), h[:-1]
    if ended is not None:  # what is past an end must not count, not even times 0
        x, h_prev = (np.where(ended[:, :, None], 0, a) for a in (x, h_prev))
    dw_ih = rows.T @ x.reshape(T * B, I)
    return dx, dw_ih, rows.T @ h_prev.reshape(T * B, h.shape[2]), rows.sum(0)


def _turned(x: Array, reverse: bool) -> Array:
    """From the order of time to that of the steps, or back."""
    return x[::-1] if reverse else x


def _ended(T: int, lengths: NDArray[np.integer] | None, reverse: bool) -> NDArray[np.bool] | None:
    """Whether sequence b is past its end, [T, B] in the order of the steps; None: never."""
    if lengths is None:
        return None
    steps = np.arange(T - 1, -1, -1) if reverse else np.arange(T)
    return steps[:, None] >= lengths
