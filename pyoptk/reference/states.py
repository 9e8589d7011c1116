"""Twins of narrow states: what their words stand for, and how numbers are rounded to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_state", "encode_state", "rounding_bits"]

Array = NDArray[np.floating]
Words = NDArray[np.uint32]

_BLOCK, _GROUP = 256, 64
_DROPPED = 20  # of the 23 bits of a mantissa
_GOLDEN = 0x9E3779B97F4A7C15


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def rounding_bits(size: int, *, seed: int, step: int, state: int, first_block: int = 0) -> Words:
    """A number of 32 bits for each element of one state in one step, from this block of it on.

    Element i of a block of 256 has start + i * stride; SplitMix64 makes an odd stride and a start
    for each block. So each number is uniform, and two of them in a block are as good as
    independent: their difference is the stride, times a number below 256.
    """
    blocks = np.arange(-(-size // _BLOCK), dtype=np.uint64) + np.uint64(first_block)
    stream = _mixed(np.array([(seed + step * _GOLDEN) % 2**64], np.uint64))
    keys = _mixed(stream + (blocks * np.uint64(4) + np.uint64(state + 1)) * np.uint64(_GOLDEN))
    start, stride = keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    numbers: Any = start[:, None] + stride[:, None] * np.arange(_BLOCK, dtype=np.uint32)
    found: Words = numbers.ravel()[:size]
    return found


def encode_state(
    values: Array,
    kind: str,
    *,
    positive: bool,
    seed: int,
    step: int,
    state: int,
    first_block: int = 0,
) -> tuple[Words, Array | None]:
    """The words of a state, and with `kind` "8bit" its scales; else it is "bfloat16".

    Rounding is stochastic: random bits are added below the last bit that is kept, and cut off.
    `first_block`: of values that are a part of a state, the blocks of 256 before them.
    """
    size = values.size
    padded = np.zeros(-(-size // _BLOCK) * _BLOCK, np.float32)
    padded[:size] = values.ravel()
    numbers = {"seed": seed, "step": step, "state": state, "first_block": first_block}
    random = rounding_bits(padded.size, **numbers)
    if kind == "bfloat16":
        bits = padded.view(np.uint32)
        up = np.where(np.isnan(padded), bits, bits + (random >> np.uint32(16))) >> np.uint32(16)
        low, high = up.reshape(-1, 2, 16).swapaxes(0, 1)
        return (low | high << np.uint32(16)).ravel()[: -(-size // _GROUP) * 32], None
    codes, scales = _codes(padded.reshape(-1, _BLOCK), random.reshape(-1, _BLOCK), positive)
    words = np.zeros((codes.size // _GROUP, 16), np.uint32)
    for j, part in enumerate(codes.reshape(-1, 4, 16).swapaxes(0, 1)):
        words |= part << np.uint32(8 * j)
    return words.ravel()[: -(-size // _GROUP) * 16], scales


def _codes(x: Array, random: Words, positive: bool) -> tuple[Words, Array]:
    """The codes of blocks [n, 256] and their scales."""
    magnitude = x.view(np.uint32) & np.uint32(0x7FFFFFFF)
    exponent = magnitude.max(1) + np.uint32(
        (0 if positive else 256) + (1 << _DROPPED) - 1
    ) >> np.uint32(23)
    bad = exponent > 254
    exponent = np.where(bad, 32, np.maximum(exponent, 32)).astype(np.uint32)
    base = (exponent - np.uint32(31 if positive else 15) << np.uint32(23))[:, None]
    if positive:  # code 1 for all that is smaller, but not for 0
        y = np.maximum(x, (base + np.uint32(1 << _DROPPED)).view(np.float32))
    else:
        y = np.abs(x) + base.view(np.float32)
    codes = y.view(np.uint32) - base + (random >> np.uint32(12)) >> np.uint32(_DROPPED)
    if positive:
        codes = np.where(x != 0, codes, np.uint32(0))
    else:
        codes = codes & np.uint32(0x7F) | (x.view(np.uint32) >> np.uint32(24) & np.uint32(0x80))
    scales = (exponent << np.uint32(23)).view(np.float32)
    return np.where(bad[:, None], np.uint32(1), codes), np.where(bad, np.float32("nan"), scales)


def decode_state(words: Words, scales: Array | None, size: int, *, positive: bool) -> Array:
    """The float32 numbers that the words of a state stand for; bfloat16 if there are no scales."""
    found: Any
    if scales is None:
        pairs = words.reshape(-1, 16)
        both = np.stack([pairs << np.uint32(16), pairs & np.uint32(0xFFFF0000)], axis=1)
        return both.ravel()[:size].view(np.float32)
    parts = [words.reshape(-1, 16) >> np.uint32(8 * j) & np.uint32(0xFF) for j in range(4)]
    codes = np.stack(parts, axis=1).ravel()[:size]
    exponents = np.maximum(scales.view(np.uint32), 32 << 23) - np.uint32(
        (31 if positive else 15) << 23
    )
    base = np.repeat(exponents, _BLOCK)[:size]
    if positive:
        found = np.where(codes > 0, (codes << np.uint32(_DROPPED)) + base, 0).astype(np.uint32)
        found = found.view(np.float32)
    else:
        y = ((codes & np.uint32(0x7F)) << np.uint32(_DROPPED)) + base
        found = np.copysign(y.view(np.float32) - base.view(np.float32), 1 - 2.0 * (codes >> 7))
        found = found.astype(np.float32)
    result: Array = np.where(np.repeat(np.isnan(scales), _BLOCK)[:size], np.float32("nan"), found)
    return result
