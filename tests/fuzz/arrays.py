"""Arrays of every layout with guard bytes around each element, and values that are wrong.

The tries place every array that they hand to the library in a `Memory`, which knows the bytes that
belong to elements, those that do not, and what all of them were before the call.
"""

import fractions

import numpy as np

GUARD = 192  # bytes before and behind an array: three cache lines


class Sub(np.ndarray):
    """A subclass that changes nothing."""


class _Block:
    """An array within bytes that are not its own."""

    def __init__(self, rng, shape, dtype, strides, odd):
        low = sum(min(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True) if n)
        high = sum(max(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True) if n)
        at = int(rng.integers(0, 64 // dtype.itemsize)) * dtype.itemsize + odd
        size = GUARD - low + high + dtype.itemsize + GUARD + 128
        self.raw = np.frombuffer(bytearray(rng.bytes(size)), np.uint8)
        start = -self.raw.ctypes.data % 64 + GUARD + at - low
        self.array = np.ndarray(shape, dtype, self.raw.data, start, strides)
        self.owned = np.zeros(size, bool)
        np.ndarray((*shape, dtype.itemsize), bool, self.owned.data, start, (*strides, 1))[...] = (
            True
        )
        self.before = self.raw.copy()


class Memory:
    """The arrays of a try."""

    def __init__(self, rng):
        self.rng, self.blocks = rng, []

    def _strides(self, shape, itemsize, layout):
        axes = list(range(len(shape)))
        if layout == "F":
            axes.reverse()
        elif layout in ("transposed", "strided", "reversed"):
            axes = [int(a) for a in self.rng.permutation(len(shape))]
        strides, unit = [0] * len(shape), itemsize
        for axis in reversed(axes):
            if layout == "strided":
                unit *= int(self.rng.integers(1, 4))
            strides[axis] = unit
            unit *= max(shape[axis], 1)
        if layout == "reversed":
            strides = [-s if self.rng.random() < 0.6 else s for s in strides]
        if layout == "broadcast" and shape:
            strides[int(self.rng.integers(len(shape)))] = 0
        if layout == "rows" and len(shape) > 1:  # the last axis adjacent, the others apart
            strides[-1], unit = itemsize, itemsize * (shape[-1] + int(self.rng.integers(0, 9)))
            for axis in self.rng.permutation(len(shape) - 1):
                strides[axis] = unit * (1 if self.rng.random() < 0.7 else -1)
                unit *= max(shape[axis], 1) + int(self.rng.integers(0, 2))
        return tuple(strides)

    def place(self, values, layout="C"):
        """An array with these values (what a zero stride leaves of them), in this layout."""
        values = np.asarray(values)
        dtype = values.dtype.newbyteorder("S") if layout == "foreign" else values.dtype
        strides = self._strides(values.shape, dtype.itemsize, layout)
        block = _Block(self.rng, values.shape, dtype, strides, odd=layout == "unaligned")
        block.array[...] = values
        self.blocks.append(block)
        if layout == "readonly":
            block.array.flags.writeable = False
        elif layout == "masked":
            return np.ma.MaskedArray(block.array, np.ones(values.shape, bool))
        elif layout == "subclass":
            return block.array.view(Sub)
        elif layout == "memoryview":
            return memoryview(block.array)
        return block.array

    def save(self):
        for block in self.blocks:
            np.copyto(block.before, block.raw)

    def written_outside(self, allowed):
        """What was written since `save` that may not be, as text; None if nothing was."""
        for i, block in enumerate(self.blocks):
            free = any(block.array is a or getattr(a, "base", None) is block.array for a in allowed)
            changed = block.raw != block.before
            if free:
                changed &= ~block.owned
            if changed.any():
                kind = "a guard byte" if (changed & ~block.owned).any() else "an element"
                array = block.array
                return f"{kind} of array {i}, {array.dtype} {array.shape} {array.strides}"
        return None


# Layouts of arrays that are only read.
READABLE = ["C", "C", "C", "F", "transposed", "strided", "reversed", "broadcast", "readonly",
            "subclass", "rows"]  # fmt: skip
UNREADABLE = ["foreign", "unaligned", "masked"]


class Hostile:
    """An object that raises wherever it is asked for anything."""

    def __float__(self):
        raise ValueError("hostile: an error of the caller's")

    __index__ = __len__ = __iter__ = __bool__ = __float__


def junk(rng):
    """A value that is wrong almost everywhere."""
    values = [
        None, True, False, 0, 1, -1, 0.5, -0.5, 1.5, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e300,
        5e-324, float("nan"), float("inf"), -float("inf"), 1j, "", "x", "0.5", b"x", (), [], {},
        [0.5], (1, 2), {"a": 1}, object(), Ellipsis, np.float32(0.5), np.float64("nan"),
        np.int64(3), np.uint8(2), np.True_, np.array(0.5), np.array([1.0, 2.0]), np.array([]),
        np.array(["a"]), np.array([None]), np.datetime64("2020-01-01"),
        fractions.Fraction(1, 3), range(3), slice(None), lambda *_: 0.5, Hostile(), "\0", "é",
        np.zeros(3), np.zeros((2, 3), np.float32), np.lib.stride_tricks.as_strided(
            np.zeros(1, np.float32), (2**40, 2**20), (0, 0)),
    ]  # fmt: skip
    return values[int(rng.integers(len(values)))]
