"""Twins of linear recurrences: the same results within rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_scan_backward", "linear_scan_forward"]

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


def linear_scan_forward(
    a: Array,
    b: Array,
    h: Array,
    h0: Array | None = None,
    *,
    reverse: bool = False,
    resets: Mask | None = None,
) -> None:
    """h_t = a_t h_{t-1} + b_t over [T, B, D]; where the state before a step is zero, h_t = b_t."""
    state = h0
    for t in _steps(len(a), reverse):
        goes_on = _goes_on(t, state, a, resets)
        new = b[t].copy()
        if state is not None:
            new[goes_on] += a[t, goes_on] * state[goes_on]
        h[t] = state = new


def linear_scan_backward(
    a: Array,
    h: Array,
    dh: Array,
    da: Array,
    db: Array,
    h0: Array | None = None,
    dh0: Array | None = None,
    *,
    reverse: bool = False,
    resets: Mask | None = None,
) -> None:
    """u_t = dh_t + a_{t+1} u_{t+1}; da_t = u_t h_{t-1}, db = u, dh0 = a_1 u_1."""
    steps = _steps(len(a), reverse)
    states = [h0, *(h[t] for t in steps)]
    carry = np.zeros(a.shape[1:], a.dtype)
    for t, state in zip(reversed(steps), states[-2::-1], strict=True):
        goes_on = _goes_on(t, state, a, resets)
        u = dh[t] + carry
        carry = np.zeros_like(u)
        carry[goes_on] = a[t, goes_on] * u[goes_on]
        da[t] = 0
        if state is not None:
            da[t, goes_on] = u[goes_on] * state[goes_on]
        db[t] = u
    if dh0 is not None:
        dh0[...] = carry


def _steps(T: int, reverse: bool) -> range:
    """The time of each step."""
    return range(T - 1, -1, -1) if reverse else range(T)


def _goes_on(t: int, state: Array | None, a: Array, resets: Mask | None) -> Mask:
    """Which batch rows have a state before step t that is not zero, [B]."""
    if state is None:
        return np.zeros(a.shape[1], np.bool_)
    return np.ones(a.shape[1], np.bool_) if resets is None else ~resets[t]
