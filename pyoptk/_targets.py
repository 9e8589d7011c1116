"""Checks of what losses take: labels, distributions and weights. As in _checks.py; private."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import described
from ._sequences import integers

MOST_WEIGHT = np.finfo(np.float64).max  # the largest sum of weights, with room for rounding


def is_distribution(target: Any, axes: int = 2) -> bool:
    """Whether a target of the cross entropy is an array of floats, not one of labels."""
    return isinstance(target, np.ndarray) and target.dtype.kind == "f" and target.ndim >= axes


def check_labels(target: Any, M: int, C: int, ignored: int) -> NDArray[np.int64]:
    """`target` as a new int64 array [M] of labels."""
    expected = f"{M} integers or an array of floats ({M}, {C})"
    given = integers("target", target, expected)
    if given.shape != (M,):
        raise ValueError(f"target: expected {expected}, got {described(given)}")
    wrong = ((given < 0) | (given >= C)) & (given != ignored)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"target[{row}]: expected a label in 0..{C - 1} or ignore_index={ignored}, "
            f"got {given[row]}"
        )
    return np.array(given, np.int64)


def check_weights(name: str, weights: Any) -> None:
    """Raise unless an array of weights holds finite numbers >= 0."""
    given = np.asarray(weights)
    wrong = ~((given >= 0) & (given <= MOST_WEIGHT / (2 * max(given.size, 1))))
    if wrong.any():
        raise ValueError(
            f"{name}: expected finite numbers >= 0, got {given[wrong][0]} at {int(wrong.argmax())}"
        )
