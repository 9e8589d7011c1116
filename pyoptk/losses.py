"""Losses: each returns the loss, a float, and its gradient, a new array.

>>> import numpy as np, pyoptk
>>> scores = np.array([[2.0, 0.0], [0.0, 3.0]], np.float32)
>>> loss, dy = pyoptk.losses.cross_entropy(scores, [0, 1])
>>> round(loss, 4), dy.shape
(0.0878, (2, 2))

All take arrays with any leading axes, and for sequences [T, B, ...] the `lengths` of the sequences:
what is past an end counts nothing, whatever is there. `weights`, of the shape of the leading axes,
weighs rows; the loss is the weighted mean. The kernels are in csrc/kernels/losses.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _checks, kernels

__all__ = ["bce_with_logits", "cross_entropy", "huber", "mae", "mse"]

Array = NDArray[np.floating[Any]]


def _prepared(
    y: Any, axes: int, lengths: ArrayLike | None, weights: ArrayLike | None, batch_first: bool
) -> tuple[Array, Array, Array | None]:
    """y as rows, its gradient to be, and the weights of the rows."""
    y = np.ascontiguousarray(y)
    lead = y.shape[: max(y.ndim - axes, 0)]
    given = None
    if weights is not None:
        given = np.broadcast_to(np.asarray(weights, y.dtype), lead)
    if lengths is not None:
        if y.ndim < 2:
            raise ValueError(f"lengths: expected sequences [T, B, ...], got y of {y.shape}")
        T, B = y.shape[1::-1] if batch_first else y.shape[:2]
        valid = np.arange(T)[:, None] < _checks.check_lengths(lengths, B, T)
        valid = (valid.T if batch_first else valid).reshape(valid.T.shape if batch_first else (T, B))
        valid = valid.reshape(*valid.shape, *[1] * (len(lead) - 2))
        given = np.where(valid, 1 if given is None else given, 0)
    flat = None if given is None else np.ascontiguousarray(
        np.broadcast_to(given, lead), y.dtype).ravel()  # fmt: skip
    return y, np.empty_like(y), flat


def cross_entropy(
    y: Array,
    target: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    batch_first: bool = False,
    **options: Any,
) -> tuple[float, Array]:
    """The cross entropy of softmax(y) and the target.

    Parameters
    ----------
    y : array [..., C]
        Scores of C classes, float32 or float64.
    target : integers [...] or array like y
        Labels, or a distribution over the classes.
    lengths, weights, batch_first
        See the module.
    **options
        class_weights, label_smoothing, ignore_index: see `pyoptk.kernels.softmax_cross_entropy`.

    Returns
    -------
    loss : float
    dy : array like y
    """
    y, dy, rows = _prepared(y, 1, lengths, weights, batch_first)
    C = y.shape[-1]
    given = np.asarray(target)
    labels = given.dtype.kind in "iu"
    if given.shape != (y.shape[:-1] if labels else y.shape):
        expected = f"integers {y.shape[:-1]}" if labels else f"{y.dtype} {y.shape}"
        raise ValueError(f"target: expected {expected}, got {_checks.described(given)}")
    given = given.ravel() if labels else np.ascontiguousarray(given).reshape(-1, C)
    flat = y.reshape(-1, C)
    loss = kernels.softmax_cross_entropy(flat, given, dy.reshape(-1, C), weights=rows, **options)
    return loss, dy


def _elementwise(kernel: Any) -> Any:
    def loss(
        y: Array,
        target: Array,
        *,
        lengths: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        batch_first: bool = False,
        **options: Any,
    ) -> tuple[float, Array]:
        target = np.ascontiguousarray(target)
        axes = max(np.ndim(y) - max(np.ndim(weights), 2 * (lengths is not None)), 0)
        y, dy, rows = _prepared(y, axes, lengths, weights, batch_first)
        if y.shape != target.shape:
            raise ValueError(f"target: expected shape {y.shape}, got {target.shape}")
        if rows is not None:
            shape = (rows.size, -1)
            value = kernel(y.reshape(shape), target.reshape(shape), dy.reshape(shape), weights=rows, **options)
        else:
            value = kernel(y, target, dy, **options)
        return value, dy

    loss.__name__ = loss.__qualname__ = kernel.__name__
    loss.__doc__ = kernel.__doc__.split(";")[0] + "."
    return loss


mse = _elementwise(kernels.mse)
mae = _elementwise(kernels.mae)
huber = _elementwise(kernels.huber)
bce_with_logits = _elementwise(kernels.bce_with_logits)
