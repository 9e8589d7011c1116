"""Twins of the minimal GRU and LSTM (Feng et al. 2024), step by step: the same within rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import product, sigmoid

__all__ = ["mingru_backward", "mingru_forward", "minlstm_backward", "minlstm_forward"]

Array = NDArray[np.floating]


def mingru_forward(
    x: Array,
    h0: Array,
    weights: list[Array],
    biases: list[Array] | None = None,
    lengths: NDArray[np.integer] | None = None,
    resets: NDArray[np.bool_] | None = None,
    *,
    positive: bool = True,
    compute: str | None = None,
) -> Array:
    """h_t = (1 - z_t) h_{t-1} + z_t c_t; z and c see x alone (section 3.1).

    Parameters
    ----------
    x : array [T, B, I]
    h0 : array [B, H]
    weights, biases : lists of arrays [H, I] and [H]
        Of z and c.
    lengths : integers [B], optional
        At steps from lengths[b] on, sequence b keeps its state.
    resets : bool array [T, B], optional
        Where True, the state before step t is zero.
    positive : bool
        Whether c is g of its pre-activation: k + 0.5 if k >= 0, else sigmoid(k) (appendix B).
    compute : "bfloat16", optional
        The operands of all products are rounded to it.

    Returns
    -------
    h : array [T+1, B, H]
        The initial state, then that after each step; the output is 0 past the end.
    """
    h = np.concatenate([h0[None], np.empty((len(x), *h0.shape), x.dtype)])
    for t in range(len(x)):
        z, c = _gates(x[t], weights, biases, positive, compute)
        before = _before(h[t], t, resets)
        h[t + 1] = _kept((1 - z) * before + z * c, h[t], t, lengths)
    return h


def minlstm_forward(
    x: Array,
    h0: Array,
    weights: list[Array],
    biases: list[Array] | None = None,
    lengths: NDArray[np.integer] | None = None,
    resets: NDArray[np.bool_] | None = None,
    *,
    positive: bool = True,
    compute: str | None = None,
) -> Array:
    """h_t = (f_t h_{t-1} + i_t c_t) / (f_t + i_t), as `mingru_forward`; weights of f, i, c."""
    h = np.concatenate([h0[None], np.empty((len(x), *h0.shape), x.dtype)])
    for t in range(len(x)):
        f, i, c = _gates(x[t], weights, biases, positive, compute)
        before = _before(h[t], t, resets)
        h[t + 1] = _kept((f * before + i * c) / (f + i), h[t], t, lengths)
    return h


def mingru_backward(
    x: Array,
    h: Array,
    weights: list[Array],
    biases: list[Array] | None,
    dy: Array,
    dh: Array,
    lengths: NDArray[np.integer] | None = None,
    resets: NDArray[np.bool_] | None = None,
    *,
    positive: bool = True,
    compute: str | None = None,
) -> tuple[Array, Array, list[Array], list[Array]]:
    """The gradients of `mingru_forward`: dx, dh0, dweights, dbiases.

    `dy` [T, B, H] is that of the output, `dh` [B, H] that of the last state.
    """
    dk = np.empty((2, *dy.shape), x.dtype)
    for t in reversed(range(len(x))):
        z, c = _gates(x[t], weights, biases, positive, compute)
        before, ended = _before(h[t], t, resets), _ended(h[t], t, lengths)
        dh_t = dh + np.where(ended, 0, dy[t])
        dk[0, t] = dh_t * (c - before) * z * (1 - z)
        dk[1, t] = dh_t * z * _slope(c, positive)
        dh = _back(dh_t, (1 - z) * dh_t, t, ended, resets)
        dk[:, t] = np.where(ended, 0, dk[:, t])
    return _from_dk(dk, x, weights, dh, lengths, compute)


def minlstm_backward(
    x: Array,
    h: Array,
    weights: list[Array],
    biases: list[Array] | None,
    dy: Array,
    dh: Array,
    lengths: NDArray[np.integer] | None = None,
    resets: NDArray[np.bool_] | None = None,
    *,
    positive: bool = True,
    compute: str | None = None,
) -> tuple[Array, Array, list[Array], list[Array]]:
    """The gradients of `minlstm_forward`, as `mingru_backward`."""
    dk = np.empty((3, *dy.shape), x.dtype)
    for t in reversed(range(len(x))):
        f, i, c = _gates(x[t], weights, biases, positive, compute)
        before, ended = _before(h[t], t, resets), _ended(h[t], t, lengths)
        dh_t = dh + np.where(ended, 0, dy[t])
        share = f / (f + i)
        of_share = dh_t * (before - c) * share * (1 - share)
        dk[0, t], dk[1, t] = of_share * (1 - f), -of_share * (1 - i)
        dk[2, t] = dh_t * (1 - share) * _slope(c, positive)
        dh = _back(dh_t, share * dh_t, t, ended, resets)
        dk[:, t] = np.where(ended, 0, dk[:, t])
    return _from_dk(dk, x, weights, dh, lengths, compute)


def _gates(
    x: Array,
    weights: list[Array],
    biases: list[Array] | None,
    positive: bool,
    compute: str | None,
) -> list[Array]:
    """The gates [B, H] of one step, then the candidate."""
    k = [product(x, weight.T, compute) for weight in weights]
    k = k if biases is None else [one + bias for one, bias in zip(k, biases, strict=True)]
    found: list[Array] = [np.empty_like(one) for one in k]
    for one, gate in zip(k, found, strict=True):
        sigmoid(one, gate)
    found[-1] = np.where(k[-1] >= 0, k[-1] + x.dtype.type(0.5), found[-1]) if positive else k[-1]
    return found


def _slope(c: Array, positive: bool) -> Array:
    """dc / dk."""
    return np.where(c >= 0.5, 1, c * (1 - c)) if positive else np.ones_like(c)


def _ended(h: Array, t: int, lengths: NDArray[np.integer] | None) -> NDArray[np.bool_]:
    """Whether a sequence is past its end, [B, 1]."""
    none = np.zeros((len(h), 1), np.bool_)
    return none if lengths is None else (t >= lengths)[:, None]


def _before(h: Array, t: int, resets: NDArray[np.bool_] | None) -> Array:
    """The state before a step: h, or 0."""
    return h if resets is None else np.where(resets[t][:, None], 0, h)


def _kept(new: Array, h: Array, t: int, lengths: NDArray[np.integer] | None) -> Array:
    return np.where(_ended(h, t, lengths), h, new)


def _back(
    dh_t: Array, dh: Array, t: int, ended: NDArray[np.bool_], resets: NDArray[np.bool_] | None
) -> Array:
    """The gradient of the state before a step."""
    dh = dh if resets is None else np.where(resets[t][:, None], 0, dh)
    return np.where(ended, dh_t, dh)


def _from_dk(
    dk: Array,
    x: Array,
    weights: list[Array],
    dh0: Array,
    lengths: NDArray[np.integer] | None,
    compute: str | None,
) -> tuple[Array, Array, list[Array], list[Array]]:
    """dx, dh0, dweights and dbiases, from the gradients of the pre-activations [gates, T, B, H]."""
    if lengths is not None:  # what is past an end must not count, not even times 0
        x = np.where((np.arange(len(x))[:, None] >= lengths)[:, :, None], 0, x)
    pairs = zip(dk, weights, strict=True)
    dx = sum((product(one, weight, compute) for one, weight in pairs), np.zeros_like(x))
    rows = x.reshape(-1, x.shape[2])
    dweights = [product(one.reshape(-1, one.shape[2]).T, rows, compute) for one in dk]
    return dx, dh0, dweights, [one.sum((0, 1)) for one in dk]
