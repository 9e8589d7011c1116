"""Where the states of an optimizer lie in memory. Called once, when an optimizer is made.

A sweep reads a parameter, its gradient and its states at once. Where these arrays begin changes its
speed by up to three times: a vector that lies across two cache lines costs a split load or store,
and a load at the same offset in its page as a store shortly before waits for it (4K aliasing). So
states begin at the same offset in a cache line as their parameter, and at another offset in a page
than it and each other. All lie in one block, so that the system can use large pages for them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64
PAGE = 4096
APART = 512  # bytes; more distance than this is not faster


def place(at: int, taken: list[int], is_small: bool) -> int:
    """The first offset in a page-aligned block, from `at` on, that suits a state.

    `taken`: the address of the parameter, then the offsets of its states so far.
    """
    apart = APART if len(taken) < 4 else APART - 2 * LINE
    at += (taken[0] - at) % LINE
    while not is_small and any((at - other + apart) % PAGE < 2 * apart for other in taken):
        at += LINE
    return at


def states_beside(
    params: list[tuple[int, tuple[int, ...]]], n_states: int, dtype: np.dtype[Any]
) -> list[list[NDArray[Any]]]:
    """For each parameter, given by address and shape, `n_states` arrays of zeros like it."""
    at = 0
    placed: list[tuple[int, int, tuple[int, ...]]] = []
    for address, shape in params:
        taken, size = [address], math.prod(shape) * dtype.itemsize
        for _ in range(n_states):
            at = place(at, taken, size < APART)
            taken.append(at)
            placed.append((at, size, shape))
            at += size
    block = np.zeros(at + PAGE, np.uint8)
    first = -block.ctypes.data % PAGE
    states = [
        block[first + at : first + at + size].view(dtype).reshape(shape)
        for at, size, shape in placed
    ]
    return [states[i : i + n_states] for i in range(0, len(states), max(n_states, 1))]
