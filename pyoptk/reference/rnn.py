"""Twins of recurrent cells and layers: the same results within rounding. The LSTM is in lstm.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import product, sigmoid, tanh
from .noise import at, kept, masked, parted
from .steps import (
    ended_of,
    from_da,
    new_of,
    of_output,
    pre_activations,
    state_before,
    states_before,
    stop_at_resets,
    turned,
)

__all__ = [
    "gru_backward",
    "gru_cell",
    "gru_forward",
    "gru_step",
    "output",
    "rnn_backward",
    "rnn_cell",
    "rnn_forward",
    "rnn_step",
]

Array = NDArray[np.floating]


def gru_cell(
    x: Array,
    h: Array,
    w_hh: Array,
    b_hh: Array | None,
    gates: Array,
    *,
    reset_after: bool = True,
    h_mask: Array | None = None,
    g_mask: Array | None = None,
    compute: str | None = None,
) -> Array:
    """h [B, H] after a step, from the pre-activations of x [B, 3H] and h before it; sets `gates`.

    They are r, z, n and, for n, the pre-activation of h, or without `reset_after` r * h.
    """
    H = h.shape[1]
    biases = [None, None] if b_hh is None else np.split(b_hh, [2 * H])
    r, z, n, of_n = (gates[:, k] for k in range(4))
    h_d = masked(h, h_mask)
    of_h = pre_activations(h_d, w_hh[: 2 * H], biases[0], compute=compute)
    sigmoid(x[:, :H] + of_h[:, :H], r)
    sigmoid(x[:, H : 2 * H] + of_h[:, H:], z)
    if reset_after:
        of_n[:] = pre_activations(h_d, w_hh[2 * H :], biases[1], compute=compute)
        tanh(x[:, 2 * H :] + r * of_n, n)
    else:
        of_n[:] = r * h_d
        of_s = pre_activations(of_n, w_hh[2 * H :], biases[1], compute=compute)
        tanh(x[:, 2 * H :] + of_s, n)
    return (1 - z) * masked(n, g_mask) + z * h


def rnn_cell(a: Array, *, relu: bool = False) -> Array:
    """h [B, H] of a plain RNN from pre-activations."""
    return np.maximum(a, 0) if relu else np.tanh(a)


def gru_step(
    x: Array,
    h: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    reset_after: bool = True,
    zoneout: float = 0.0,
) -> Array:
    """h [B, H] after one step of a layer, from x [B, I] and h before it; in inference, so that
    zoneout takes the mean."""
    gates = np.empty((len(h), 4, h.shape[1]), h.dtype)
    a = pre_activations(x, w_ih, b_ih)
    new = gru_cell(a, h, w_hh, b_hh, gates, reset_after=reset_after)
    return new + zoneout * (h - new)


def rnn_step(
    x: Array,
    h: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    relu: bool = False,
    zoneout: float = 0.0,
) -> Array:
    """h [B, H] after one step of a layer, from x [B, I] and h before it; in inference, so that
    zoneout takes the mean."""
    new = rnn_cell(pre_activations(x, w_ih, b_ih, b_hh) + h @ w_hh.T, relu=relu)
    return new + zoneout * (h - new)


def gru_forward(
    x: Array,
    h0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    lengths: NDArray[np.integer] | None = None,
    *,
    resets: NDArray[np.bool_] | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    reset_after: bool = True,
    compute: str | None = None,
    h_mask: Array | None = None,
    g_mask: Array | None = None,
    zoned_h: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array]:
    """One direction of a GRU layer (Cho et al. 2014), the reset gate after the product with h or
    before it.

    As `lstm_forward`: h [T+1, B, H] and gates [T, B, 4, H], which are those of `gru_cell`.
    """
    T, B, _ = x.shape
    H = h0.shape[1]
    h, gates = np.empty((T + 1, B, H), x.dtype), np.empty((T, B, 4, H), x.dtype)
    h[0] = h0
    inputs = pre_activations(turned(x, reverse), w_ih, b_ih, compute=compute)
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    for t in range(T):
        h_prev = state_before(h, t, new, reset_to_initial)
        new_h = gru_cell(
            inputs[t], h_prev, w_hh, b_hh, gates[t], reset_after=reset_after, h_mask=h_mask,
            g_mask=at(g_mask, t, reverse), compute=compute,
        )  # fmt: skip
        h[t + 1] = kept(new_h, h_prev, at(zoned_h, t, reverse))
        if ended is not None:
            h[t + 1, ended[t]] = h[t, ended[t]]
    return h, gates


def rnn_forward(
    x: Array,
    h0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    lengths: NDArray[np.integer] | None = None,
    *,
    resets: NDArray[np.bool_] | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    relu: bool = False,
    compute: str | None = None,
    h_mask: Array | None = None,
    zoned_h: NDArray[np.bool_] | None = None,
) -> Array:
    """One direction of a plain RNN layer (Elman 1990): h [T+1, B, H], as `lstm_forward` has it."""
    T, B, _ = x.shape
    h = np.empty((T + 1, B, h0.shape[1]), x.dtype)
    h[0] = h0
    inputs = pre_activations(turned(x, reverse), w_ih, b_ih, b_hh, compute=compute)
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    for t in range(T):
        h_prev = state_before(h, t, new, reset_to_initial)
        new_h = rnn_cell(inputs[t] + product(masked(h_prev, h_mask), w_hh.T, compute), relu=relu)
        h[t + 1] = kept(new_h, h_prev, at(zoned_h, t, reverse))
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
    y, ended = h[1:], ended_of(len(h) - 1, lengths, reverse)
    if ended is not None and not repeat_last:
        y = np.where(ended[:, :, None], 0, y)
    return turned(y, reverse)


def gru_backward(
    x: Array,
    h: Array,
    gates: Array,
    w_ih: Array,
    w_hh: Array,
    dy: Array,
    dh: Array,
    lengths: NDArray[np.integer] | None = None,
    *,
    resets: NDArray[np.bool_] | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    repeat_last: bool = False,
    reset_after: bool = True,
    compute: str | None = None,
    h_mask: Array | None = None,
    g_mask: Array | None = None,
    zoned_h: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The gradients of `gru_forward`: dx, dh0, dw_ih, dw_hh, db_ih, db_hh."""
    T, B, H = dy.shape
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    dy = of_output(dy, ended, reverse, repeat_last)
    dx_a, dh_a = np.empty((2, T, B, 3, H), x.dtype)  # of the pre-activations
    h_prev, dh0 = states_before(h, new, reset_to_initial), np.zeros((B, H), x.dtype)
    for t in reversed(range(T)):
        r, z, n, of_n = (gates[t, :, k] for k in range(4))
        dh_t, mask = dy[t] + dh, at(g_mask, t, reverse)
        d_new, past = parted(dh_t, at(zoned_h, t, reverse))
        dx_a[t, :, 2] = masked(d_new * (1 - z), mask) * (1 - n**2)
        dx_a[t, :, 1] = d_new * (h_prev[t] - masked(n, mask)) * z * (1 - z)
        ds = product(dx_a[t, :, 2], w_hh[2 * H :], compute)  # of r * h
        dr = dx_a[t, :, 2] * of_n if reset_after else ds * masked(h_prev[t], h_mask)
        dx_a[t, :, 0] = dr * r * (1 - r)
        dh_a[t] = dx_a[t]
        if reset_after:
            dh_a[t, :, 2] *= r
        from_n = product(dh_a[t, :, 2], w_hh[2 * H :], compute) if reset_after else ds * r
        of_gates = product(dh_a[t, :, :2].reshape(B, 2 * H), w_hh[: 2 * H], compute)
        dh = masked(of_gates + from_n, h_mask) + d_new * z + past
        if ended is not None:
            past = ended[t]
            dx_a[t, past], dh_a[t, past], dh[past] = 0, 0, dh_t[past]
        if new is not None:
            stop_at_resets(dh, dh0, new[t], reset_to_initial)
    dx, dw_ih, _, db_ih = from_da(dx_a, x, h_prev, w_ih, ended, reverse, compute)
    h_d = masked(h_prev, h_mask)
    _, _, dw_hh, db_hh = from_da(dh_a, x, h_d, w_ih, ended, reverse, compute)
    if not reset_after:
        dw_hh[2 * H :] = from_da(dh_a, x, gates[:, :, 3], w_ih, ended, reverse, compute)[2][2 * H :]
    return dx, dh0 + dh, dw_ih, dw_hh, db_ih, db_hh


def rnn_backward(
    x: Array,
    h: Array,
    w_ih: Array,
    w_hh: Array,
    dy: Array,
    dh: Array,
    lengths: NDArray[np.integer] | None = None,
    *,
    resets: NDArray[np.bool_] | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    repeat_last: bool = False,
    relu: bool = False,
    compute: str | None = None,
    h_mask: Array | None = None,
    zoned_h: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """The gradients of `rnn_forward`, as `lstm_backward`: dx, dh0, dw_ih, dw_hh, db."""
    ended, new = ended_of(len(dy), lengths, reverse), new_of(len(dy), lengths, reverse, resets)
    dy = of_output(dy, ended, reverse, repeat_last)
    da, dh0 = np.empty_like(dy), np.zeros_like(dh)
    for t in reversed(range(len(dy))):
        dh_t = dy[t] + dh
        d_new, past = parted(dh_t, at(zoned_h, t, reverse))
        da[t] = np.where(h[t + 1] <= 0, 0, d_new) if relu else d_new * (1 - h[t + 1] ** 2)
        dh = masked(product(da[t], w_hh, compute), h_mask) + past
        if ended is not None:
            da[t, ended[t]], dh[ended[t]] = 0, dh_t[ended[t]]
        if new is not None:
            stop_at_resets(dh, dh0, new[t], reset_to_initial)
    h_prev = states_before(h, new, reset_to_initial)
    h_d = masked(h_prev, h_mask)
    dx, dw_ih, dw_hh, db = from_da(da, x, h_d, w_ih, ended, reverse, compute)
    return dx, dh0 + dh, dw_ih, dw_hh, db
