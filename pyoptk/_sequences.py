"""Checks of the arrays that describe a batch: lengths, resets, labels. Recurrent layers, scans and
losses call them.

As in _checks.py, an error names the argument, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import advice, described


def plain(name: str, value: Any, expected: str) -> NDArray[Any]:
    """The value as an array, unless it is masked or ragged."""
    if type(value) is np.ndarray:  # the usual case
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected {expected}, got a masked array, whose mask would have no effect"
        )
    if isinstance(value, Mapping | AbstractSet | ValuesView):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}")
    try:
        given = np.asarray(value)
    except (ValueError, Warning):
        given = None
    except (RuntimeError, TypeError):  # from a PyTorch tensor that requires a gradient
        raise TypeError(
            f"{name}: expected {expected}, got {described(value)}{advice(value)}"
        ) from None
    # NumPy before 1.24 only warns, and makes an array of lists.
    if given is None or (given.dtype == object and any(isinstance(x, Sized) for x in given.flat)):
        raise ValueError(f"{name}: expected {expected}, got a ragged sequence")
    return given


def only_read(name: str, value: Any) -> Any:
    """The value; an array of another library as one of NumPy, a view if possible."""
    if isinstance(value, np.ndarray | np.generic) or not hasattr(value, "__array__"):
        return value
    return plain(name, value, "a float32 or float64 array")


def integers(name: str, value: Any, expected: str) -> NDArray[Any]:
    """The value as an array of integers, whatever its shape."""
    given = plain(name, value, expected)
    if given.size == 0:  # an empty list has float64 in NumPy
        given = given.astype(np.int64)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected {expected}, got {described(given)}")
    return given


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
    given = plain("resets", resets, f"bool {shape}")
    if given.dtype != np.bool_:
        raise TypeError(f"resets: expected bool {shape}, got {described(given)}")
    if given.shape != shape:
        raise ValueError(f"resets: expected bool {shape}, got {described(given)}")
    return np.array(given.T if batch_first else given, np.uint8, order="C")
