"""Twins of the layer-normalized LSTM and GRU: Ba et al. 2016, "Layer normalization", appendix.

Their arguments and results are those of `lstm_forward`, `gru_forward` and so on, and those named
here. Forward keeps the gates; backward normalizes again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import sigmoid, tanh
from .steps import (
    ended_of,
    from_da,
    new_of,
    of_output,
    state_before,
    states_before,
    stop_at_resets,
    turned,
)

__all__ = [
    "gru_normed_backward",
    "gru_normed_forward",
    "gru_normed_step",
    "lstm_normed_backward",
    "lstm_normed_forward",
    "lstm_normed_step",
]

Array = NDArray[np.floating]
Lengths = NDArray[np.integer] | None
Resets = NDArray[np.bool_] | None
EPS = 1e-5  # added to a variance


def _normalized(a: Array, *sizes: int) -> tuple[Array, Array]:
    """Each part of the last axis minus its mean, divided by its standard deviation; and the factor
    by which each element was multiplied."""
    normed, scales = np.empty_like(a), np.empty_like(a)
    end = 0
    for size in sizes:
        of, end = slice(end, end + size), end + size
        centred = a[..., of] - a[..., of].mean(-1, keepdims=True)
        scales[..., of] = 1 / np.sqrt(np.mean(centred**2, -1, keepdims=True) + EPS)
        normed[..., of] = centred * scales[..., of]
    return normed, scales


def _of_normalized(d: Array, normed: Array, scales: Array, *sizes: int) -> Array:
    """The gradient of a, from that of what `_normalized` makes of it."""
    da, end = np.empty_like(d), 0
    for size in sizes:
        of, end = slice(end, end + size), end + size
        mean = d[..., of].mean(-1, keepdims=True)
        slope = np.mean(d[..., of] * normed[..., of], -1, keepdims=True)
        da[..., of] = (d[..., of] - mean - normed[..., of] * slope) * scales[..., of]
    return da


def _with(normed: Array, gain: Array, bias: Array | None) -> Array:
    return normed * gain if bias is None else normed * gain + bias


# ---- LSTM ----------------------------------------------------------------------------------------


def _lstm_cell(
    a: Array, c: Array, gates: Array, gain_c: Array, bias_c: Array | None
) -> tuple[Array, Array]:
    """h and c after a step, from pre-activations [B, 4H] and c before it; sets `gates`."""
    i, f, g, o = (gates[:, k] for k in range(4))
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
    for a_k, gate in ((a_i, i), (a_f, f), (a_o, o)):
        sigmoid(a_k, gate)
    tanh(a_g, g)
    c = f * c + i * g
    return o * np.tanh(_with(_normalized(c, c.shape[1])[0], gain_c, bias_c)), c


def lstm_normed_step(
    x: Array,
    h: Array,
    c: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    gain_ih: Array,
    gain_hh: Array,
    gain_c: Array,
    bias_c: Array | None = None,
) -> tuple[Array, Array]:
    """h and c after one step of a layer, from x [B, I] and those before it."""
    N, H = w_hh.shape
    a = _with(_normalized(x @ w_ih.T, N)[0], gain_ih, b_ih)
    a += _with(_normalized(h @ w_hh.T, N)[0], gain_hh, b_hh)
    return _lstm_cell(a, c, np.empty((len(c), 4, H), c.dtype), gain_c, bias_c)


def lstm_normed_forward(
    x: Array,
    h0: Array,
    c0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    lengths: Lengths = None,
    *,
    gain_ih: Array,
    gain_hh: Array,
    gain_c: Array,
    bias_c: Array | None = None,
    resets: Resets = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """One direction of a layer: h, c and gates, as `lstm_forward` has them.

    gain_ih and gain_hh are [4H], gain_c and bias_c [H].
    """
    (T, B, _), (N, H) = x.shape, w_hh.shape
    h, c = np.empty((2, T + 1, B, H), x.dtype)
    gates = np.empty((T, B, 4, H), x.dtype)
    h[0], c[0] = h0, c0
    inputs = _with(_normalized(turned(x, reverse) @ w_ih.T, N)[0], gain_ih, b_ih)
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    for t in range(T):
        h_prev, c_prev = (state_before(s, t, new, reset_to_initial) for s in (h, c))
        a = inputs[t] + _with(_normalized(h_prev @ w_hh.T, N)[0], gain_hh, b_hh)
        h[t + 1], c[t + 1] = _lstm_cell(a, c_prev, gates[t], gain_c, bias_c)
        if ended is not None:
            past = ended[t]
            h[t + 1, past], c[t + 1, past] = h[t, past], c[t, past]
    return h, c, gates


def lstm_normed_backward(
    x: Array,
    h: Array,
    c: Array,
    gates: Array,
    w_ih: Array,
    w_hh: Array,
    dy: Array,
    dh: Array,
    dc: Array,
    lengths: Lengths = None,
    *,
    gain_ih: Array,
    gain_hh: Array,
    gain_c: Array,
    bias_c: Array | None = None,
    resets: Resets = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    repeat_last: bool = False,
    dgain_ih: Array,
    dgain_hh: Array,
    dgain_c: Array,
    dbias_c: Array | None = None,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The gradients of `lstm_normed_forward`, as `lstm_backward` returns them; sets dgain_ih,
    dgain_hh, dgain_c and dbias_c."""
    (T, B, H), N = dy.shape, len(w_hh)
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    dy = of_output(dy, ended, reverse, repeat_last)
    h_prev, c_prev = (states_before(s, new, reset_to_initial) for s in (h, c))
    x_n, x_scale = _normalized(_active(turned(x, reverse), ended) @ w_ih.T, N)
    h_n, h_scale = _normalized(_active(h_prev, ended) @ w_hh.T, N)
    c_n, c_scale = _normalized(_active(c[1:], ended), H)
    tanh_c = np.tanh(_with(c_n, gain_c, bias_c))
    da, d_h, of_c = (np.empty((T, B, *s), x.dtype) for s in ((4, H), (N,), (H,)))
    dh0, dc0 = np.zeros_like(dh), np.zeros_like(dc)
    for t in reversed(range(T)):
        i, f, g, o = (gates[t, :, k] for k in range(4))
        dh_t = dy[t] + dh
        of_c[t] = dh_t * o * (1 - tanh_c[t] ** 2)
        dc_t = dc + _of_normalized(of_c[t] * gain_c, c_n[t], c_scale[t], H)
        da[t, :, 0] = dc_t * g * i * (1 - i)
        da[t, :, 1] = dc_t * c_prev[t] * f * (1 - f)
        da[t, :, 2] = dc_t * i * (1 - g**2)
        da[t, :, 3] = dh_t * tanh_c[t] * o * (1 - o)
        d_h[t] = _of_normalized(da[t].reshape(B, N) * gain_hh, h_n[t], h_scale[t], N)
        dh, dc_t = d_h[t] @ w_hh, dc_t * f
        if ended is not None:
            past = ended[t]
            da[t, past], d_h[t, past], of_c[t, past] = 0, 0, 0
            dh[past], dc_t[past] = dh_t[past], dc[past]
        dc = dc_t
        if new is not None:
            stop_at_resets(dh, dh0, new[t], reset_to_initial)
            stop_at_resets(dc, dc0, new[t], reset_to_initial)
    rows = da.reshape(T, B, N)
    d_x = _of_normalized(rows * gain_ih, x_n, x_scale, N)
    dx, dw_ih, _, _ = from_da(d_x, x, h_prev, w_ih, ended, reverse)
    _, _, dw_hh, _ = from_da(d_h, x, h_prev, w_ih, ended, reverse)
    dgain_ih[...], dgain_hh[...] = np.sum(rows * x_n, (0, 1)), np.sum(rows * h_n, (0, 1))
    dgain_c[...] = np.sum(of_c * c_n, (0, 1))
    if dbias_c is not None:
        dbias_c[...] = of_c.sum((0, 1))
    return dx, dh0 + dh, dc0 + dc, dw_ih, dw_hh, rows.sum((0, 1))


def _active(x: Array, ended: NDArray[np.bool_] | None) -> Array:
    """x, with 0 where what stands there must not count, not even times 0."""
    return x if ended is None else np.where(ended[:, :, None], 0, x)


# ---- GRU -----------------------------------------------------------------------------------------


def _gru_cell(of_x: Array, of_h: Array, h: Array, gates: Array) -> Array:
    """h after a step, from the normalized products [B, 3H] with gain and bias, and h before it;
    sets `gates`: r, z, n and the part of h in n."""
    H = h.shape[1]
    r, z, n, n_h = (gates[:, k] for k in range(4))
    sigmoid(of_x[:, :H] + of_h[:, :H], r)
    sigmoid(of_x[:, H : 2 * H] + of_h[:, H : 2 * H], z)
    n_h[...] = of_h[:, 2 * H :]
    tanh(of_x[:, 2 * H :] + r * n_h, n)
    return (1 - z) * n + z * h


def gru_normed_step(
    x: Array,
    h: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    gain_ih: Array,
    gain_hh: Array,
) -> Array:
    """h after one step of a layer, from x [B, I] and h before it."""
    H = h.shape[1]
    of_x = _with(_normalized(x @ w_ih.T, 2 * H, H)[0], gain_ih, b_ih)
    of_h = _with(_normalized(h @ w_hh.T, 2 * H, H)[0], gain_hh, b_hh)
    return _gru_cell(of_x, of_h, h, np.empty((len(h), 4, H), h.dtype))


def gru_normed_forward(
    x: Array,
    h0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    lengths: Lengths = None,
    *,
    gain_ih: Array,
    gain_hh: Array,
    resets: Resets = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
) -> tuple[Array, Array]:
    """One direction of a layer: h and gates, as `gru_forward` has them.

    gain_ih and gain_hh are [3H].
    """
    (T, B, _), H = x.shape, h0.shape[1]
    h, gates = np.empty((T + 1, B, H), x.dtype), np.empty((T, B, 4, H), x.dtype)
    h[0] = h0
    inputs = _with(_normalized(turned(x, reverse) @ w_ih.T, 2 * H, H)[0], gain_ih, b_ih)
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    for t in range(T):
        h_prev = state_before(h, t, new, reset_to_initial)
        of_h = _with(_normalized(h_prev @ w_hh.T, 2 * H, H)[0], gain_hh, b_hh)
        h[t + 1] = _gru_cell(inputs[t], of_h, h_prev, gates[t])
        if ended is not None:
            h[t + 1, ended[t]] = h[t, ended[t]]
    return h, gates


def gru_normed_backward(
    x: Array,
    h: Array,
    gates: Array,
    w_ih: Array,
    w_hh: Array,
    dy: Array,
    dh: Array,
    lengths: Lengths = None,
    *,
    gain_ih: Array,
    gain_hh: Array,
    resets: Resets = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    repeat_last: bool = False,
    dgain_ih: Array,
    dgain_hh: Array,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The gradients of `gru_normed_forward`, as `gru_backward` returns them; sets dgain_ih and
    dgain_hh."""
    T, B, H = dy.shape
    sizes = 2 * H, H
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    dy = of_output(dy, ended, reverse, repeat_last)
    h_prev, dh0 = states_before(h, new, reset_to_initial), np.zeros_like(dh)
    x_n, x_scale = _normalized(_active(turned(x, reverse), ended) @ w_ih.T, *sizes)
    h_n, h_scale = _normalized(_active(h_prev, ended) @ w_hh.T, *sizes)
    of_x, of_h, d_h = np.empty((3, T, B, 3 * H), x.dtype)
    for t in reversed(range(T)):
        r, z, n, n_h = (gates[t, :, k] for k in range(4))
        dh_t = dy[t] + dh
        dn = dh_t * (1 - z) * (1 - n**2)
        dr, dz = dn * n_h * r * (1 - r), dh_t * (h_prev[t] - n) * z * (1 - z)
        of_x[t], of_h[t] = np.hstack([dr, dz, dn]), np.hstack([dr, dz, dn * r])
        d_h[t] = _of_normalized(of_h[t] * gain_hh, h_n[t], h_scale[t], *sizes)
        dh = d_h[t] @ w_hh + dh_t * z
        if ended is not None:
            past = ended[t]
            of_x[t, past], of_h[t, past], d_h[t, past], dh[past] = 0, 0, 0, dh_t[past]
        if new is not None:
            stop_at_resets(dh, dh0, new[t], reset_to_initial)
    d_x = _of_normalized(of_x * gain_ih, x_n, x_scale, *sizes)
    dx, dw_ih, _, _ = from_da(d_x, x, h_prev, w_ih, ended, reverse)
    _, _, dw_hh, _ = from_da(d_h, x, h_prev, w_ih, ended, reverse)
    dgain_ih[...], dgain_hh[...] = np.sum(of_x * x_n, (0, 1)), np.sum(of_h * h_n, (0, 1))
    return dx, dh0 + dh, dw_ih, dw_hh, of_x.sum((0, 1)), of_h.sum((0, 1))
