"""Checks of what a call says about its sequences: lengths and resets. _rnn.pyx calls them.

As in _checks.py, an error names the argument, what was expected and what came.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import described


def check_lengths(lengths: ArrayLike, B: int, T: int) -> NDArray[np.int64]:
    """`lengths` as a contiguous int64 array [B] of numbers in 0..T."""
    expected = f"{B} integers"
    given = _plain("lengths", lengths, expected)
    if given.size == 0:  # of a list, whatever dtype NumPy gives it
        given = given.astype(np.int64)
    if given.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected {expected}, got {described(given)}")
    if given.shape != (B,):
        raise ValueError(f"lengths: expected {expected}, got {described(given)}")
    if given.size and (given.min() < 0 or given.max() > T):
        raise ValueError(f"lengths: expected numbers in 0..{T}, got {given.min()}..{given.max()}")
    return np.array(given, np.int64)


def check_resets(resets: ArrayLike, T: int, B: int, batch_first: bool) -> NDArray[np.uint8]:
    """`resets` as a contiguous copy [T, B] of 0 and 1."""
    shape = (B, T) if batch_first else (T, B)
    given = _plain("resets", resets, f"bool {shape}")
    if given.dtype != np.bool_:
        raise TypeError(f"resets: expected bool {shape}, got {described(given)}")
    if given.shape != shape:
        raise ValueError(f"resets: expected bool {shape}, got {described(given)}")
    return np.array(given.T if batch_first else given, np.uint8, order="C")


def _plain(name: str, given: ArrayLike, expected: str) -> NDArray[Any]:
    """An array of it, unless it is masked or ragged."""
    if type(given) is np.ndarray:
        return given
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected {expected}, got a masked array, whose mask would have no effect"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy before 1.24 warns and makes an array of lists
            return np.asarray(given)
    except (ValueError, Warning):
        raise ValueError(f"{name}: expected {expected}, got a ragged sequence") from None
