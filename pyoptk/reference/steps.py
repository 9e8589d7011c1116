"""What the twins of the recurrent layers (rnn.py) share: the order of steps, ends, resets, and sums
over all steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import product

Array = NDArray[np.floating]


def pre_activations(
    x: Array, w_ih: Array, *biases: Array | None, compute: str | None = None
) -> Array:
    """What the pre-activations have of x and of the biases."""
    a = product(x, w_ih.T, compute)
    for bias in biases:
        if bias is not None:
            a += bias
    return a


def of_output(
    dy: Array, ended: NDArray[np.bool_] | None, reverse: bool, repeat_last: bool
) -> Array:
    """dy in the order of the steps, 0 where the output is constant."""
    dy = turned(dy, reverse)
    return dy if ended is None or repeat_last else np.where(ended[:, :, None], 0, dy)


def from_da(
    da: Array,
    x: Array,
    h_prev: Array,
    w_ih: Array,
    ended: NDArray[np.bool_] | None,
    reverse: bool,
    compute: str | None = None,
) -> tuple[Array, Array, Array, Array]:
    """dx, dw_ih, dw_hh and db from the gradient of the pre-activations."""
    T, B, I = x.shape
    rows = da.reshape(T * B, len(w_ih))
    dx = turned(product(rows, w_ih, compute).reshape(x.shape), reverse)
    x = turned(x, reverse)
    if ended is not None:  # what is past an end must not count, not even times 0
        x, h_prev = (np.where(ended[:, :, None], 0, a) for a in (x, h_prev))
    dw_ih = product(rows.T, x.reshape(T * B, I), compute)
    dw_hh = product(rows.T, h_prev.reshape(T * B, h_prev.shape[2]), compute)
    return dx, dw_ih, dw_hh, rows.sum(0)


def turned(x: Array, reverse: bool) -> Array:
    """From the order of time to that of the steps, or back."""
    return x[::-1] if reverse else x


def ended_of(
    T: int, lengths: NDArray[np.integer] | None, reverse: bool
) -> NDArray[np.bool_] | None:
    """Whether sequence b is past its end, [T, B] in the order of the steps; None: never."""
    if lengths is None:
        return None
    steps = np.arange(T - 1, -1, -1) if reverse else np.arange(T)
    return steps[:, None] >= lengths


def new_of(
    T: int, lengths: NDArray[np.integer] | None, reverse: bool, resets: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Whether a step begins after a reset, [T, B] in the order of the steps; None: never."""
    if resets is None:
        return None
    if lengths is not None:
        resets = resets & (np.arange(T)[:, None] < lengths)
    if not reverse:
        return resets
    new = np.zeros_like(resets)
    new[1:] = resets[:0:-1]  # what begins at step t ends the steps down to t
    return new


def state_before(s: Array, t: int, new: NDArray[np.bool_] | None, initial: bool) -> Array:
    """The state [B, H] before step t."""
    return s[t] if new is None else np.where(new[t][:, None], s[0] if initial else 0, s[t])


def states_before(s: Array, new: NDArray[np.bool_] | None, initial: bool) -> Array:
    """The states [T, B, H] before every step."""
    return s[:-1] if new is None else np.where(new[:, :, None], s[0] if initial else 0, s[:-1])


def stop_at_resets(d: Array, d0: Array, new: NDArray[np.bool_], initial: bool) -> None:
    """Change the gradient d of the state before a step: where that is the state of a reset, it is
    added to d0 or to nothing."""
    if initial:
        d0[new] += d[new]
    d[new] = 0
