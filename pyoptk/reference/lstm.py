"""Twins of the LSTM: the same results within rounding. Those of other cells are in rnn.py."""

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

__all__ = ["lstm_backward", "lstm_cell", "lstm_forward", "lstm_step"]

Array = NDArray[np.floating]


def lstm_cell(
    a: Array,
    c: Array,
    gates: Array,
    *,
    peepholes: Array | None = None,
    coupled: bool = False,
    cell_clip: float | None = None,
    g_mask: Array | None = None,
) -> tuple[Array, Array]:
    """h, before a projection, and c [B, H] after a step; sets `gates`.

    From pre-activations [B, 4H] and c before it. The other arguments are those of `lstm_forward`.
    """
    i, f, g, o = (gates[:, k] for k in range(4))
    *a_i, a_f, a_g, a_o = np.split(a, 3 if coupled else 4, axis=1)
    *p_i, p_f, p_o = _peepholes(peepholes, coupled, c)
    sigmoid(a_f + p_f * c, f)
    if coupled:
        i[...] = 1 - f
    else:
        sigmoid(a_i[0] + p_i[0] * c, i)
    tanh(a_g, g)
    c = _new_c(gates, c, cell_clip, g_mask)
    sigmoid(a_o + p_o * c, o)
    return o * np.tanh(c), c


def _new_c(gates: Array, c: Array, cell_clip: float | None, g_mask: Array | None) -> Array:
    i, f, g = (gates[:, k] for k in range(3))
    c = f * c + i * masked(g, g_mask)
    return c if cell_clip is None else np.clip(c, -cell_clip, cell_clip)


def _peepholes(given: Array | None, coupled: bool, like: Array) -> Array:
    """Those of i (unless coupled), f and o, [3, H] or [2, H]."""
    number, H = 2 if coupled else 3, like.shape[1]
    return np.zeros((number, H), like.dtype) if given is None else given.reshape(number, H)


def lstm_step(
    x: Array,
    h: Array,
    c: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    peepholes: Array | None = None,
    coupled: bool = False,
    cell_clip: float | None = None,
    projection: Array | None = None,
    zoneout: tuple[float, float] = (0.0, 0.0),
) -> tuple[Array, Array]:
    """h and c after one step of a layer, from x [B, I] and those before it; in inference, so that
    zoneout, with these probabilities for c and h, takes the mean."""
    a = pre_activations(x, w_ih, b_ih, b_hh) + h @ w_hh.T
    gates = np.empty((len(c), 4, c.shape[1]), c.dtype)
    m, new = lstm_cell(a, c, gates, peepholes=peepholes, coupled=coupled, cell_clip=cell_clip)
    m = m if projection is None else m @ projection.T
    return m + zoneout[1] * (h - m), new + zoneout[0] * (c - new)


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
    resets: NDArray[np.bool_] | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    peepholes: Array | None = None,
    coupled: bool = False,
    cell_clip: float | None = None,
    compute: str | None = None,
    projection: Array | None = None,
    h_mask: Array | None = None,
    g_mask: Array | None = None,
    zoned_h: NDArray[np.bool_] | None = None,
    zoned_c: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array, Array]:
    """One direction of an LSTM layer (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    Parameters
    ----------
    x : array [T, B, I]
    h0, c0 : arrays [B, R], [B, H]
        R is H without `projection`.
    w_ih, w_hh : arrays [4H, I], [4H, R]
        Gates in the order i, f, g, o; if `coupled` [3H, I], [3H, R]: f, g, o.
    b_ih, b_hh : arrays [4H], optional
    lengths : integers [B], optional
        At steps from lengths[b] on, sequence b keeps its state.
    resets : bool [T, B], optional
        Where another sequence begins: no state passes to that step from the one before it, or in
        reverse, from that step to the one before it.
    reset_to_initial : bool
        There the state is h0, c0 instead of 0.
    reverse : bool
        Steps are taken from T-1 to 0.
    peepholes : array [3H], or [2H] if `coupled`, optional
        Of i, f and o (Gers & Schmidhuber 2000): i and f also see c before the step, o sees it
        after.
    coupled : bool
        i is 1 - f (Greff et al. 2017).
    cell_clip : float, optional
        A bound for c (Sak et al. 2014), whose gradient is 0 where it acts.
    compute : "bfloat16", optional
        The operands of all products are rounded to it.
    projection : array [R, H], optional
        h is its product with o * tanh(c) (Sak et al. 2014).
    h_mask, g_mask, zoned_h, zoned_c : arrays, optional
        Those of `masks`: dropout of h (Gal & Ghahramani 2016) or of g (Semeniuta et al. 2016), and
        zoneout (Krueger et al. 2016), where h is computed from the new c.

    Returns
    -------
    h, c : arrays [T+1, B, R], [T+1, B, H]
        States in the order of the steps, the initial one first, and without regard to resets;
        `output` makes the output of h.
    gates : array [T, B, 4, H]
        In the order of the steps.
    """
    T, B, _ = x.shape
    H = c0.shape[1]
    h, c = (np.empty((T + 1, *s.shape), x.dtype) for s in (h0, c0))
    gates = np.empty((T, B, 4, H), x.dtype)
    h[0], c[0] = h0, c0
    inputs = pre_activations(turned(x, reverse), w_ih, b_ih, b_hh, compute=compute)
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    for t in range(T):
        h_prev, c_prev = (state_before(s, t, new, reset_to_initial) for s in (h, c))
        m, c_new = lstm_cell(
            inputs[t] + product(masked(h_prev, h_mask), w_hh.T, compute), c_prev, gates[t],
            peepholes=peepholes, coupled=coupled, cell_clip=cell_clip,
            g_mask=at(g_mask, t, reverse),
        )  # fmt: skip
        m = m if projection is None else product(m, projection.T, compute)
        h[t + 1] = kept(m, h_prev, at(zoned_h, t, reverse))
        c[t + 1] = kept(c_new, c_prev, at(zoned_c, t, reverse))
        if ended is not None:
            past = ended[t]
            h[t + 1, past], c[t + 1, past] = h[t, past], c[t, past]
    return h, c, gates


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
    resets: NDArray[np.bool_] | None = None,
    reset_to_initial: bool = False,
    reverse: bool = False,
    repeat_last: bool = False,
    peepholes: Array | None = None,
    coupled: bool = False,
    cell_clip: float | None = None,
    compute: str | None = None,
    projection: Array | None = None,
    h_mask: Array | None = None,
    g_mask: Array | None = None,
    zoned_h: NDArray[np.bool_] | None = None,
    zoned_c: NDArray[np.bool_] | None = None,
    dpeepholes: Array | None = None,
    dprojection: Array | None = None,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The gradients of `lstm_forward`.

    Parameters
    ----------
    x, h, c, gates, w_ih, w_hh, lengths, resets, reset_to_initial, reverse, repeat_last,
    peepholes, coupled, cell_clip, compute, projection, h_mask, g_mask, zoned_h, zoned_c
        As given to and returned by `lstm_forward` and `output`.
    dy : array [T, B, R]
        Gradient of the output.
    dh, dc : arrays [B, R], [B, H]
        Gradients of the last state.
    dpeepholes, dprojection : arrays like `peepholes` and `projection`, optional
        Get their gradients.

    Returns
    -------
    dx, dh0, dc0, dw_ih, dw_hh, db
        db is that of either bias.
    """
    (T, B, R), H = dy.shape, dc.shape[1]
    ended, new = ended_of(T, lengths, reverse), new_of(T, lengths, reverse, resets)
    dy = of_output(dy, ended, reverse, repeat_last)
    da = np.empty((T, B, len(w_hh) // H, H), x.dtype)
    *p_i, p_f, p_o = _peepholes(peepholes, coupled, dc)
    h_prev, c_prev = (states_before(s, new, reset_to_initial) for s in (h, c))
    dh0, dc0, of_h = np.zeros_like(dh), np.zeros_like(dc), np.zeros((T, B, R), x.dtype)
    c_new = c[1:].copy()  # before zoneout
    for t in reversed(range(T)):
        i, f, g, o = (gates[t, :, k] for k in range(4))
        dh_t, mask = dy[t] + dh, at(g_mask, t, reverse)
        if zoned_c is not None:
            c_new[t] = _new_c(gates[t], c_prev[t], cell_clip, mask)
        tanh_c, g_d = np.tanh(c_new[t]), masked(g, mask)
        da_f, da_g, da_o = (da[t, :, k] for k in (-3, -2, -1))
        d_new, past_h = parted(dh_t, at(zoned_h, t, reverse))
        dc_new, past_c = parted(dc, at(zoned_c, t, reverse))
        of_h[t] = d_new if ended is None else np.where(ended[t][:, None], 0, d_new)
        dm = d_new if projection is None else product(d_new, projection, compute)
        da_o[...] = dm * tanh_c * o * (1 - o)
        dc_t = dc_new + dm * o * (1 - tanh_c**2) + da_o * p_o
        if cell_clip is not None:
            dc_t = np.where(np.abs(c_new[t]) >= cell_clip, 0, dc_t)
        da_f[...] = dc_t * (c_prev[t] - g_d if coupled else c_prev[t]) * f * (1 - f)
        da_g[...] = masked(dc_t * i, mask) * (1 - g**2)
        if not coupled:
            da[t, :, 0] = dc_t * g_d * i * (1 - i)
        of_gates = product(da[t].reshape(B, len(w_hh)), w_hh, compute)
        dh = masked(of_gates, h_mask) + past_h
        dc_t = dc_t * f + da_f * p_f + past_c
        for p in p_i:
            dc_t += da[t, :, 0] * p
        if ended is not None:  # past the end everything passes through
            past = ended[t]
            da[t, past], dh[past], dc_t[past] = 0, dh_t[past], dc[past]
        dc = dc_t
        if new is not None:
            stop_at_resets(dh, dh0, new[t], reset_to_initial)
            stop_at_resets(dc, dc0, new[t], reset_to_initial)
    h_d = masked(h_prev, h_mask)
    dx, dw_ih, dw_hh, db = from_da(da, x, h_d, w_ih, ended, reverse, compute)
    if dpeepholes is not None:
        seen = [*[c_prev] * (len(p_i) + 1), c[1:]]
        if ended is not None:  # what is past an end must not count, not even times 0
            seen = [np.where(ended[:, :, None], 0, s) for s in seen]
        of = [*range(len(seen) - 1), da.shape[2] - 1]
        sums = [np.sum(da[:, :, k] * s, (0, 1)) for k, s in zip(of, seen, strict=True)]
        dpeepholes[...] = np.concatenate(sums)
    if dprojection is not None:
        m = gates[:, :, 3] * np.tanh(c_new)
        if ended is not None:
            m = np.where(ended[:, :, None], 0, m)
        rows = of_h.reshape(T * B, R), m.reshape(T * B, H)
        dprojection[...] = product(rows[0].T, rows[1], compute)
    return dx, dh0 + dh, dc0 + dc, dw_ih, dw_hh, db
