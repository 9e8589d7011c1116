"""Linear recurrences over time, and the sums of reinforcement learning that are such recurrences.

The loops over time are in csrc/kernels/scan.h; `pyoptk.kernels` has them for arrays of yours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _checks
from ._core import new_array
from ._held import quietly
from ._products import linear_scan_backward as _backward
from ._products import linear_scan_forward as _forward
from ._sequences import only_read

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

__all__ = ["discounted_returns", "gae", "linear_scan", "linear_scan_backward"]


def linear_scan(
    a: Array,
    b: Array,
    h0: Array | None = None,
    *,
    reverse: bool = False,
    resets: Mask | None = None,
    out: Array | None = None,
) -> Array:
    """h_t = a_t h_{t-1} + b_t over time, element by element.

    Parameters
    ----------
    a, b : arrays [T, B, D]
        float32 or float64; elements of the last axis adjacent.
    h0 : array [B, D], optional
        The state before the first step, zeros by default. Without it the first h is the first b,
        and the first a is not read.
    reverse : bool
        Steps go from T-1 to 0: h_t = a_t h_{t+1} + b_t.
    resets : bool array [T, B], optional
        Where True, the state before step t is zero: h_t is b_t, and a_t is not read.
    out : array [T, B, D], optional
        Gets h, and is returned. Changed in place; it may be `a` or `b`.

    Returns
    -------
    h : array [T, B, D]
        A new array, or `out`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> ones = np.ones((4, 1, 1))
    >>> pyoptk.linear_scan(ones / 2, ones)[:, 0, 0].tolist()
    [1.0, 1.5, 1.75, 1.875]
    """
    if out is not None and out is not a and out is not b and isinstance(b, np.ndarray):
        check_array("out", out, b.dtype, b.shape)
    a, b, h0 = only_read("a", a), only_read("b", b), _start(h0)
    h = _like("b", b) if out is None else out
    _forward(a, b, h, h0, reverse=reverse, resets=resets)
    return h


def linear_scan_backward(
    dh: Array,
    a: Array,
    h: Array,
    h0: Array | None = None,
    *,
    reverse: bool = False,
    resets: Mask | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array, Array | None]:
    """The gradients of `linear_scan`.

    With u_t = dh_t + a_{t+1} u_{t+1}: da_t = u_t h_{t-1}, db_t = u_t, dh0 = a_1 u_1.

    Parameters
    ----------
    dh : array [T, B, D]
        Gradient of the loss with respect to `h`.
    a, h0, reverse, resets
        As given to `linear_scan`.
    h : array [T, B, D]
        Its result.
    out : two arrays [T, B, D], optional
        Get da and db, and are returned. Changed in place; they may be `a` and `dh`.

    Returns
    -------
    da, db : arrays [T, B, D]
        New arrays, or those of `out`.
    dh0 : array [B, D], or None
        None without `h0`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    if out is not None and (not isinstance(out, tuple | list) or len(out) != 2):
        raise TypeError(f"out: expected two arrays or None, got {_checks.described(out)}")
    dh, a, h = (only_read(name, one) for name, one in (("dh", dh), ("a", a), ("h", h)))
    h0 = _start(h0)
    da, db = (_like("a", a), _like("dh", dh)) if out is None else out
    dh0 = None if h0 is None else _like("h0", h0)
    _backward(a, h, dh, da, db, h0, dh0, reverse=reverse, resets=resets)
    return da, db, dh0


def gae(rewards: Array, values: Array, dones: Mask, gamma: float, lam: float) -> Array:
    """Generalized advantage estimation.

    A_t = delta_t + gamma * lam * (1 - done_t) * A_{t+1}
    delta_t = r_t + gamma * (1 - done_t) * V_{t+1} - V_t
    (Schulman et al. 2016, "High-dimensional continuous control using generalized advantage
    estimation", equations 11, 12 and 16).

    Parameters
    ----------
    rewards : array [T] or [T, B]
        float32 or float64.
    values : array [T+1] or [T+1, B]
        Of the state before each step, and after the last.
    dones : bool array like `rewards`
        Whether the episode ends with step t.
    gamma, lam : float
        In [0, 1].

    Returns
    -------
    advantages : array like `rewards`
        A new array. Those plus ``values[:-1]`` are the targets of the value function.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> rewards, values = np.array([1.0, 1.0, 1.0]), np.array([0.5, 0.5, 0.5, 2.0])
    >>> pyoptk.gae(rewards, values, np.array([False, True, False]), gamma=0.5, lam=0.5).tolist()
    [0.875, 0.5, 1.5]
    """
    rewards, values = only_read("rewards", rewards), only_read("values", values)
    discount = _discount(rewards, dones, gamma)
    check_array("values", values, rewards.dtype, (len(rewards) + 1, *rewards.shape[1:]))
    delta = quietly(lambda: rewards + discount * values[1:] - values[:-1])
    return _sum_backwards(discount * rewards.dtype.type(_fraction("lam", lam)), delta)


def discounted_returns(
    rewards: Array, dones: Mask, gamma: float, last: Array | None = None
) -> Array:
    """Discounted sums of rewards: G_t = r_t + gamma * (1 - done_t) * G_{t+1}.

    This is `gae` with values of 0 and lam = 1 (Schulman et al. 2016, section 2).

    Parameters
    ----------
    rewards : array [T] or [T, B]
        float32 or float64.
    dones : bool array like `rewards`
        Whether the episode ends with step t.
    gamma : float
        In [0, 1].
    last : array [B] (of [T]: []), optional
        G after the last step, zeros by default: the value of the state that is reached.

    Returns
    -------
    returns : array like `rewards`
        A new array.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> pyoptk.discounted_returns(np.ones(4), np.array([0, 1, 0, 0], bool), gamma=0.5).tolist()
    [1.5, 1.0, 1.5, 1.0]
    """
    rewards, last = only_read("rewards", rewards), only_read("last", last)
    discount = _discount(rewards, dones, gamma)
    if last is not None:
        check_array("last", last, rewards.dtype, rewards.shape[1:])
    return _sum_backwards(discount, rewards, last)


def _start(h0: Any) -> Any:
    """h0 in the order of memory that kernels take."""
    h0 = only_read("h0", h0)
    return h0.copy("C") if isinstance(h0, np.ndarray) and not h0.flags.c_contiguous else h0


def _sum_backwards(a: Array, b: Array, last: Array | None = None) -> Array:
    """The scan of `b` from the last step to the first, with all axes but time as one."""
    shape = len(b), 1, math.prod(b.shape[1:])
    start = None if last is None else np.ascontiguousarray(last).reshape(shape[1:])
    found = np.array(b, order="C")
    rows = found.reshape(shape)
    _forward(np.ascontiguousarray(a).reshape(shape), rows, rows, start, reverse=True)
    return found


def _discount(rewards: Any, dones: Any, gamma: Any) -> Array:
    """gamma where an episode goes on, else 0."""
    check_array("rewards", rewards)
    if rewards.ndim == 0:
        raise ValueError("rewards: expected at least 1 axis, got none")
    dones = only_read("dones", dones)
    if not isinstance(dones, np.ndarray) or dones.dtype != np.bool_:
        raise TypeError(f"dones: expected a bool array, got {_checks.described(dones)}")
    if dones.shape != rewards.shape:
        raise ValueError(f"dones: expected shape {rewards.shape} like rewards, got {dones.shape}")
    found: Array = _fraction("gamma", gamma) * (~dones).astype(rewards.dtype)
    return found


def _fraction(name: str, value: Any) -> float:
    return _checks.number(name, value, 0, math.nextafter(1, 2), "a number in [0, 1]")


def check_array(name: str, array: Any, dtype: Any = None, shape: Any = None) -> None:
    """Raise unless this is an array of this dtype and shape (None: any) without a mask."""
    numbers = isinstance(array, np.ndarray | np.floating)
    if not numbers or array.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{name}: expected a float32 or float64 array, got {_checks.described(array)}"
            f"{_checks.advice(array)}"
        )
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected a plain array, got a masked one, whose mask would have no effect"
        )
    if not array.flags.aligned:
        raise TypeError(f"{name}: expected an array that is aligned in memory, got another")
    if dtype is not None and array.dtype != dtype:
        cast = f"; {name}.astype(numpy.{np.dtype(dtype)}) has that dtype"
        raise TypeError(f"{name}: expected {dtype}, got {_checks.described(array)}{cast}")
    if shape is None:
        return
    pairs = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(m is not None and n != m for n, m in pairs):
        wanted = ", ".join("any" if m is None else str(m) for m in shape)
        raise ValueError(f"{name}: expected shape ({wanted}), got {array.shape}")


def _like(name: str, array: Any) -> Array:
    check_array(name, array)
    found: Array = new_array(array.shape, array.dtype)
    return found
