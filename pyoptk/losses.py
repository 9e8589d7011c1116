"""Losses: each returns the loss, a float, and its gradient, a new array.

>>> import numpy as np, pyoptk
>>> scores = np.array([[2.0, 0.0], [0.0, 3.0]], np.float32)
>>> loss, dy = pyoptk.losses.cross_entropy(scores, [0, 1])
>>> round(loss, 4), dy.shape
(0.0878, (2, 2))

Arguments of all of them:

y : array
    float32 or float64, the output of a model.
lengths : integers [B], optional
    For sequences, y [T, B, ...] or, if `batch_first`, [B, T, ...]: what is past an end does not
    count, whatever is there, and its gradient is 0.
weights : array, optional
    Of the shape of the first axes of y, >= 0: the loss is the mean weighted by it.

Wrong arguments raise a TypeError or ValueError that names them. The arithmetic is in
csrc/kernels/losses.h, the formulas in csrc/include/pyoptk_dense.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks, kernels
from ._sequences import check_lengths

__all__ = ["bce_with_logits", "cross_entropy", "huber", "mae", "mse"]

Array = NDArray[np.floating[Any]]
Loss = tuple[float, Array]


def _row_weights(
    y: Array, axes: int, lengths: ArrayLike | None, weights: Array | None, batch_first: bool
) -> Array | None:
    """The weight of each row, where the first `axes` axes count rows; None if all are 1."""
    if lengths is None and weights is None:
        return None
    found = np.ones(y.shape[:axes], y.dtype)
    if weights is not None:
        if weights.shape != y.shape[: weights.ndim] or weights.ndim > axes:
            raise ValueError(
                f"weights: expected the first axes of y, {y.shape}, got {weights.shape}"
            )
        found *= weights.reshape(*weights.shape, *[1] * (axes - weights.ndim))
    if lengths is not None:
        if axes < 2:
            raise ValueError(f"lengths: expected sequences, y of 2 axes or more, got {y.shape}")
        B, T = y.shape[:2] if batch_first else y.shape[1::-1]
        past = np.arange(T)[:, None] >= check_lengths(lengths, B, T)
        found[past.T if batch_first else past] = 0
    return found.ravel()


def cross_entropy(
    y: Array,
    target: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    batch_first: bool = False,
    class_weights: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Loss:
    """The cross entropy of softmax(y) and the target, mean over rows.

    Parameters
    ----------
    y : array [..., C]
        Scores of C classes.
    target : integers [...] or array [..., C]
        Labels, or a distribution over the classes.
    class_weights, label_smoothing, ignore_index
        See `pyoptk.kernels.softmax_cross_entropy`.
    """
    y, given = np.ascontiguousarray(y), np.asarray(target)
    of_labels = given.dtype.kind in "iu"
    if y.ndim == 0 or given.shape != (y.shape[:-1] if of_labels else y.shape):
        expected = f"integers {y.shape[:-1]} or {y.dtype} {y.shape}"
        raise ValueError(f"target: expected {expected}, got {_checks.described(given)}")
    dy, rows = np.empty_like(y), y.reshape(-1, y.shape[-1])
    loss = kernels.softmax_cross_entropy(
        rows,
        given.ravel() if of_labels else np.ascontiguousarray(given).reshape(rows.shape),
        dy.reshape(rows.shape),
        weights=_row_weights(
            y, y.ndim - 1, lengths, None if weights is None else np.asarray(weights), batch_first
        ),
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
    )
    return loss, dy


def _elementwise(
    kernel: Callable[..., float],
    y: Array,
    target: Array,
    lengths: ArrayLike | None,
    weights: ArrayLike | None,
    batch_first: bool,
    **options: float,
) -> Loss:
    y, target = np.ascontiguousarray(y), np.ascontiguousarray(target)
    if target.shape != y.shape:
        raise ValueError(f"target: expected shape {y.shape}, got {target.shape}")
    given = None if weights is None else np.asarray(weights)
    axes = max(1 if given is None else given.ndim, 1 if lengths is None else 2)
    rows = _row_weights(y, min(axes, y.ndim), lengths, given, batch_first)
    dy = np.empty_like(y)
    shape = y.shape if rows is None else (rows.size, y.size // max(rows.size, 1))
    arrays = (a.reshape(shape) for a in (y, target, dy))
    return kernel(*arrays, weights=rows, **options), dy


def mse(
    y: Array, target: Array, *, lengths: ArrayLike | None = None, weights: ArrayLike | None = None,
    batch_first: bool = False,
) -> Loss:  # fmt: skip
    """The mean of (y - target)**2, target like y."""
    return _elementwise(kernels.mse, y, target, lengths, weights, batch_first)


def mae(
    y: Array, target: Array, *, lengths: ArrayLike | None = None, weights: ArrayLike | None = None,
    batch_first: bool = False,
) -> Loss:  # fmt: skip
    """The mean of abs(y - target), target like y."""
    return _elementwise(kernels.mae, y, target, lengths, weights, batch_first)


def huber(
    y: Array, target: Array, *, delta: float = 1.0, lengths: ArrayLike | None = None,
    weights: ArrayLike | None = None, batch_first: bool = False,
) -> Loss:  # fmt: skip
    """The mean of r**2 / 2 if abs(r) <= delta, else delta * (abs(r) - delta / 2), r = y - target.

    Huber (1964).
    """
    return _elementwise(kernels.huber, y, target, lengths, weights, batch_first, delta=delta)


def bce_with_logits(
    y: Array, target: Array, *, pos_weight: float = 1.0, lengths: ArrayLike | None = None,
    weights: ArrayLike | None = None, batch_first: bool = False,
) -> Loss:  # fmt: skip
    """The mean binary cross entropy of sigmoid(y) and the target, like y, in [0, 1].

    The terms of targets 1 are multiplied by `pos_weight`.
    """
    return _elementwise(
        kernels.bce_with_logits, y, target, lengths, weights, batch_first, pos_weight=pos_weight
    )
