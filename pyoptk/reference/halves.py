"""Twins of parameters of 16 bits: bfloat16, and a float32 in two halves, as uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .states import rounding_bits

__all__ = ["from_bfloat16", "join_float32", "round_bfloat16", "round_by_chance", "split_float32"]

Array = NDArray[np.floating]
Halves = NDArray[np.uint16]
_SLOT = 3  # the random bits of states are those of slots 0 to 2


def from_bfloat16(halves: Halves) -> Array:
    """The float32 numbers that bfloat16 stands for."""
    found: Array = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return found


def _halves(x: Array, added: Any) -> Halves:
    """The upper halves of the bits plus `added`; a NaN stays a NaN."""
    bits = np.asarray(x, np.float32, order="C").view(np.uint32)
    bits = np.where(np.isnan(x), bits | np.uint32(0x400000), bits + added)
    found: Halves = (bits >> np.uint32(16)).astype(np.uint16)
    return found


def round_bfloat16(x: Array) -> Halves:
    """float32 rounded to bfloat16, to the nearest, ties to even."""
    bits = np.asarray(x, np.float32, order="C").view(np.uint32)
    return _halves(x, np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))


def round_by_chance(x: Array, *, seed: int, step: int, first_block: int = 0) -> Halves:
    """float32 rounded up or down to bfloat16, so that the mean of many is the number.

    Random bits are added below the last bit that is kept, and cut off. `first_block`: of a part of
    a parameter, the blocks of 256 elements before it.
    """
    random = rounding_bits(x.size, seed=seed, step=step, state=_SLOT, first_block=first_block)
    return _halves(x, random.reshape(x.shape) >> np.uint32(16))


def split_float32(x: Array) -> tuple[Halves, Halves]:
    """float32 as bfloat16, rounded to the nearest (ties away from 0), and its lower 16 bits."""
    low = np.where(
        np.isnan(x), np.uint16(0), np.asarray(x, np.float32, order="C").view(np.uint32) & 0xFFFF
    )
    return _halves(x, np.uint32(0x8000)), low.astype(np.uint16)


def join_float32(high: Halves, low: Halves) -> Array:
    """The float32 numbers of two halves; lower ones from 0x8000 on count as negative.

    If the upper half is 0, the lower one counts as 0: the caller has set the parameter to 0.
    """
    rest = np.where((high & 0x7FFF == 0) & (low >= 0x8000), np.uint16(0), low)
    bits = (high.astype(np.uint32) << np.uint32(16)) + rest.view(np.int16).astype(np.uint32)
    found: Array = bits.view(np.float32)
    return found
