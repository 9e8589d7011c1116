"""Checks of what a call says about its sequences, for recurrent layers and losses.

As in _checks.py, an error names the argument, what was expected and what came.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import described, integers, plain_array


def check_lengths(lengths: ArrayLike, B: int, T: int) -> NDArray[np.int64]:
    """`lengths` as a contiguous int64 array [B] of numbers in 0..T."""
    given = integers("lengths", lengths, f"{B} integers")
    if given.shape != (B,):
        raise ValueError(f"lengths: expected {B} integers, got {described(given)}")
    if given.size and (given.min() < 0 or given.max() > T):
        raise ValueError(f"lengths: expected numbers in 0..{T}, got {given.min()}..{given.max()}")
    return np.array(given, np.int64)


def check_resets(resets: ArrayLike, T: int, B: int, batch_first: bool) -> NDArray[np.uint8]:
    """`resets` as a contiguous copy [T, B] of 0 and 1."""
    shape = (B, T) if batch_first else (T, B)
    given = plain_array("resets", resets, f"bool {shape}")
    if given.dtype != np.bool_:
        raise TypeError(f"resets: expected bool {shape}, got {described(given)}")
    if given.shape != shape:
        raise ValueError(f"resets: expected bool {shape}, got {described(given)}")
    return np.array(given.T if batch_first else given, np.uint8, order="C")
