"""Twins of the functions of arrays: the same results within rounding; of dropout the same bits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["bfloat16", "dropout", "exp", "matmul", "philox", "product", "sigmoid", "tanh"]

Array = NDArray[np.floating]


def sigmoid(x: Array, y: Array) -> None:
    """y = 1 / (1 + exp(-x)), without overflow for large negative x."""
    small = np.exp(-np.abs(x))
    y[...] = np.where(x < 0, small, x.dtype.type(1)) / (1 + small)


def exp(x: Array, y: Array) -> None:
    """y = e**x."""
    np.exp(x, out=y)


def tanh(x: Array, y: Array) -> None:
    """y = tanh(x)."""
    np.tanh(x, out=y)


def matmul(a: Array, b: Array, c: Array, *, accumulate: bool = False) -> None:
    """c = a @ b, or c += a @ b."""
    c[...] = c + a @ b if accumulate else a @ b


def bfloat16(x: Array) -> Array:
    """x rounded to bfloat16, ties to even, denormal numbers to 0; an array of the dtype of x."""
    bits = np.atleast_1d(x).astype(np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    small = bits & np.uint32(0x7F800000) == 0
    nearest = np.where(small, bits & np.uint32(0x80000000), nearest & np.uint32(0xFFFF0000))
    found = np.where(np.isnan(x), np.float32(np.nan), nearest.view(np.float32))
    return found.reshape(x.shape).astype(x.dtype)


def product(a: Array, b: Array, compute: str | None = None) -> Array:
    """a @ b; with "bfloat16" of operands that are rounded first."""
    found: Array = a @ b if compute is None else bfloat16(a) @ bfloat16(b)
    return found


def philox(counters: NDArray[np.uint64], stream: int, seed: int) -> NDArray[np.uint32]:
    """Philox4x32-10 (Salmon et al. 2011): the four words [n, 4] of each of n counters.

    A counter's four words are the number, low word first, then `stream`; the key is `seed`.
    """
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1 = counters & low, counters >> shift
    c2, c3 = (np.full_like(counters, half) for half in (stream & 0xFFFFFFFF, stream >> 32))
    key0, key1 = (np.full_like(counters, half) for half in (seed & 0xFFFFFFFF, seed >> 32))
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = p1 >> shift ^ c1 ^ key0, p0 >> shift ^ c3 ^ key1
        c1, c3 = p1 & low, p0 & low
        key0, key1 = (key0 + np.uint64(0x9E3779B9)) & low, (key1 + np.uint64(0xBB67AE85)) & low
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def dropout(x: Array, y: Array, p: float, *, seed: int, stream: int = 0) -> None:
    """y = x / (1 - p), or 0 with probability p (Srivastava et al. 2014); p in steps of 2**-16.

    An element is dropped if its number of `random_numbers` is less than p * 2**16, rounded.
    """
    real, least = x.dtype.type, int(p * 2**16 + 0.5)
    kept = random_numbers(x.shape, seed, stream) >= least
    y[...] = np.where(kept, x * real(2**16 / (2**16 - least)), real(0))


def random_numbers(shape: tuple[int, ...], seed: int, stream: int) -> NDArray[np.uint32]:
    """A number of 16 bits for each element of an array.

    Of each 512 elements, which take 64 counters, the e-th one takes counter e % 64, of it word
    e / 64 % 4, of it the low half if e < 256, else the high one.
    """
    size = math.prod(shape)
    words = philox(np.arange(-(-size // 512) * 64, dtype=np.uint64), stream, seed)
    words = words.reshape(-1, 64, 4).swapaxes(1, 2)
    return np.stack([words & 0xFFFF, words >> 16], axis=1).ravel()[:size].reshape(shape)
