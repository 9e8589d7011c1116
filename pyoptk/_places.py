"""The addresses of the states of an optimizer. Called once, when an optimizer is made.

A sweep reads a parameter, its gradient and its states at once. Where these arrays begin changes its
speed by up to three times: a vector that straddles two cache lines costs a split load or store,
and a load at the same offset in its page as a store shortly before waits for it (4K aliasing). So
states begin at the same offset in a cache line as their parameter, and at another offset in a page
than it and each other. All lie in one block, so that the system can use large pages for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._optim import convert_state

LINE = 64
PAGE = 4096
_MASTER, _REMAINDER = "master", "remainder"
_WIDE = "ema", _MASTER  # always float32
APART = 512  # bytes; a larger distance is not faster


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


def states_for(
    params: list[tuple[int, tuple[int, ...]]],
    names: list[str],
    dtype: np.dtype[Any],
    state_dtype: str,
    least: int,
    master: str | None = None,
    kinds: Sequence[int] = (),
    wholes: Sequence[int] = (),
) -> dict[str, list[Any]]:
    """For each name of a state an array of zeros for each parameter, given by address and shape.

    With `state_dtype` "bfloat16" or "8bit" those but "ema" are uint32 words, [words_of(size)]; with
    "8bit" only of parameters of `least` elements or more. Then there is "name_scale", too: float32,
    [blocks of 256], or None where the state is like its parameter. `wholes`: the elements of the
    arrays of which parameters are parts, if they are.

    With `master` "float32" there is "master", too, and with "remainder" "remainder", uint16: arrays
    for the parameters that have a number other than 0 in `kinds`, None for the others.
    """
    if master == "float32":
        found = states_for(params, [_MASTER, *names], dtype, state_dtype, least, wholes=wholes)
        masters = zip(found.pop(_MASTER), kinds, strict=True)
        return {_MASTER: [array if kind else None for array, kind in masters], **found}
    if master == "remainder":
        found = states_for(params, names, dtype, state_dtype, least, wholes=wholes)
        shapes = [
            (0, shape if kind else (0,)) for (_, shape), kind in zip(params, kinds, strict=True)
        ]
        halves = zip(states_beside(shapes, 1, np.dtype(np.uint16)), kinds, strict=True)
        return {_REMAINDER: [array[0] if kind else None for array, kind in halves], **found}
    sizes = [math.prod(shape) for _, shape in params]
    narrow = [
        state_dtype == "bfloat16" or (state_dtype == "8bit" and whole >= least)
        for whole in wholes or sizes
    ]
    if not any(narrow):
        beside = states_beside(params, len(names), dtype)
        return {name: [states[k] for states in beside] for k, name in enumerate(names)}
    found = {}
    for name in names:
        wide = [name in _WIDE or not is_narrow for is_narrow in narrow]
        as_params = [
            (at, shape if w else (0,)) for (at, shape), w in zip(params, wide, strict=True)
        ]
        as_words: list[tuple[int, tuple[int, ...]]] = [
            (0, (0 if w else words_of(size, state_dtype),))
            for size, w in zip(sizes, wide, strict=True)
        ]
        both = zip(
            states_beside(as_params, 1, dtype),
            states_beside(as_words, 1, np.dtype(np.uint32)),
            wide,
            strict=True,
        )
        found[name] = [(native if w else words)[0] for native, words, w in both]
        if name not in _WIDE and state_dtype == "8bit":
            found[f"{name}_scale"] = [
                None if w else np.zeros(-(-size // 256), np.float32)
                for size, w in zip(sizes, wide, strict=True)
            ]
    return found


def words_of(size: int, state_dtype: str) -> int:
    """The number of words that a narrow state of so many elements takes: whole groups of 64."""
    return -(-size // 64) * (16 if state_dtype == "8bit" else 32)


def begin_at(
    kernel: str,
    state: str,
    array: Any,
    scale: Any,
    value: float,
    size: int,
    seed: int,
    first: int = 0,
) -> None:
    """Set all elements of a state, whether it is narrow or not, before step 1."""
    if array.dtype == np.uint32:
        values = np.full(size, value, np.float32)
        convert_state(kernel, state, array, scale, values, seed, 0, True, first)
    else:
        array.fill(value)
