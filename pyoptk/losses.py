"""Losses: each returns the loss, a float, and its gradient, a new array or `out`.

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
weights : numbers or bools, optional
    Of the shape of the first axes of y, finite, >= 0: the loss is the mean weighted by them. Where
    a weight is 0, or a denormal number, y is not read, and its gradient is 0.
out : array like y, optional
    Gets the gradient, and is returned: for a large y a new array costs more than the arithmetic.
    C-contiguous, apart from the other arrays.

The loss is 0 if all weights are. Wrong arguments raise a TypeError or ValueError that names them.
The arithmetic is in csrc/kernels/losses.h, the formulas in csrc/include/pyoptk_dense.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Never

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import kernels
from ._checks import advice, check_switch, described
from ._core import new_like
from ._elsewhere import check_names
from ._held import quietly
from ._sequences import check_lengths, only_read, plain
from ._targets import is_distribution

__all__ = ["bce_with_logits", "cross_entropy", "huber", "mae", "mse"]

Array = NDArray[np.floating[Any]]
Loss = tuple[float, Array]
_ndarray, _f32, _f64 = np.ndarray, np.dtype("f4"), np.dtype("f8")


def _output(y: Any) -> Array:
    """The output of a model as a C-contiguous array."""
    y = only_read("y", y)
    masked = isinstance(y, np.ma.MaskedArray)
    if masked or not isinstance(y, np.ndarray) or y.dtype.char not in "fd" or not y.dtype.isnative:
        raise TypeError(f"y: expected a float32 or float64 array, got {described(y)}{advice(y)}")
    return np.asarray(y, order="C")


def _like(y: Array, target: Any) -> Array:
    """The target, whose dtype and shape must be those of y, as a C-contiguous array."""
    target = only_read("target", target)
    plain_array = isinstance(target, np.ndarray) and not isinstance(target, np.ma.MaskedArray)
    if plain_array and target.dtype == y.dtype and target.shape == y.shape:
        return np.asarray(target, order="C")
    expected, got = f"{y.dtype} {y.shape} like y", described(target)
    if not plain_array:
        raise TypeError(f"target: expected a plain array {expected}, got {got}{advice(target)}")
    if target.dtype == y.dtype:
        raise ValueError(f"target: expected {expected}, got {got}")
    raise TypeError(
        f"target: expected {expected}, got {got}; target.astype(numpy.{y.dtype}) has that dtype"
    )


def _is_plainly_apart(out: Array, y: Array, target: Array) -> bool:
    """Whether all three own their memory, and `out` is what `_gradient` would accept."""
    return (
        type(out) is _ndarray
        and out.base is target.base is y.base is None
        and out is not y
        and out is not target
        and out.dtype is y.dtype
        and out.shape == y.shape
        and out.flags.carray
    )


def _gradient(like: Array, out: Array | None, **given: Any) -> Array:
    """Where the gradient goes: a new array, or `out`, which may overlap no argument."""
    if out is None:
        return new_like(like)
    if type(out) is not np.ndarray or out.dtype != like.dtype or out.shape != like.shape:
        error = TypeError if getattr(out, "dtype", None) != like.dtype else ValueError
        raise error(f"out: expected {like.dtype} {like.shape} like y, got {described(out)}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out: expected a C-contiguous array that may be written, got another")
    for name, array in given.items():
        if isinstance(array, np.ndarray) and np.may_share_memory(out, array):
            raise ValueError(f"out: expected memory of its own, got an array that overlaps {name}")
    return out


def _numbers(
    name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], expected: str
) -> Array:
    """The value as an array of this shape, or of the first axes of it."""
    given = plain(name, value, expected)
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected {expected}, got {described(given)}")
    if given.ndim == 0 or given.shape != shape[: given.ndim]:
        raise ValueError(f"{name}: expected {expected}, got {described(given)}")
    found: Array = quietly(given.astype, dtype)  # infinity is refused later
    return found


def _row_weights(
    y: Array, axes: int | None, lengths: Any, weights: Any, batch_first: bool
) -> Array | None:
    """The weight of each row, as an array of the axes that count rows; None if all are 1.

    `axes`: how many these are; None: as many as weights and lengths need.
    """
    if lengths is None and weights is None:
        return None
    given = np.ones((), y.dtype)
    if weights is not None:
        expected = f"numbers of the shape of the first axes of y, {y.shape}"
        given = _numbers("weights", weights, y.dtype, y.shape[:axes], expected)
    if axes is None:
        axes = max(given.ndim, 1 if lengths is None else 2)
    if lengths is not None and min(axes, y.ndim) < 2:
        raise ValueError(f"lengths: expected None, as y has no axes [T, B, ...], got y {y.shape}")
    found = np.empty(y.shape[:axes], y.dtype)
    found[...] = given.reshape(*given.shape, *[1] * (axes - given.ndim))
    if lengths is not None:
        B, T = y.shape[:2] if batch_first else y.shape[1::-1]
        past = np.arange(T)[:, None] >= check_lengths(lengths, B, T)
        found[past.T if batch_first else past] = 0
    return found


def _check_known(unknown: dict[str, Never], *options: str) -> None:
    """Raise if there is a keyword that the loss with these options of its own does not know."""
    if "reduction" in unknown:
        raise TypeError(
            "reduction: unknown keyword; a loss is the mean over rows (for their sum, multiply it "
            "and its gradient by their number)"
        )
    check_names(unknown, ["y", "target", *options, "lengths", "weights", "batch_first", "out"])


def cross_entropy(
    y: Array,
    target: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    batch_first: bool = False,
    class_weights: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    out: Array | None = None,
    **unknown: Never,
) -> Loss:
    """The cross entropy of softmax(y) and the target, mean over rows.

    Parameters
    ----------
    y : array [..., C]
        Scores of C classes.
    target : integers [...] or array [..., C] like y
        Labels in 0..C-1, or a distribution over the classes for each row.
    class_weights, label_smoothing, ignore_index
        See `pyoptk.kernels.softmax_cross_entropy`.
    """
    # As in most steps, where the checks below would take as long as the arithmetic.
    if (
        type(y) is type(target) is _ndarray
        and lengths is weights is class_weights is None
        and batch_first is False
        and not unknown
        and (y.dtype is _f32 or y.dtype is _f64)
        and len(shape := y.shape) == 2
        and shape[1]
        and target.shape == shape[:1]
        and y.flags.c_contiguous
    ):
        dy = new_like(y) if out is None else out
        if out is not None and not _is_plainly_apart(out, y, target):
            dy = _gradient(y, out, y=y, target=target)
        loss = kernels.softmax_cross_entropy(
            y, target, dy, label_smoothing=label_smoothing, ignore_index=ignore_index
        )
        return loss, dy
    given = {"y": y, "target": target, "weights": weights, "class_weights": class_weights}
    _check_known(unknown, "class_weights", "label_smoothing", "ignore_index")
    y = _output(y)
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"y: expected scores of at least 1 class, [..., C], got {described(y)}")
    check_switch("batch_first", batch_first)
    weighted = _row_weights(y, y.ndim - 1, lengths, weights, batch_first)
    dy = _gradient(y, out, **given)
    rows = y.reshape(-1, y.shape[-1])
    target = only_read("target", target)
    if is_distribution(target, min(y.ndim, 2)):
        target = _like(y, target).reshape(rows.shape)
    else:
        target = plain("target", target, f"integers {y.shape[:-1]}")
        if target.shape != y.shape[:-1]:
            expected = f"integers {y.shape[:-1]} or {y.dtype} {y.shape}"
            raise ValueError(f"target: expected {expected}, got {described(target)}")
        if weighted is not None:  # a label that does not count may be any number
            target = np.where(weighted == 0, 0, target)
        target = target.ravel()
    if class_weights is not None:
        C = y.shape[-1]
        class_weights = _numbers("class_weights", class_weights, y.dtype, (C,), f"{C} numbers")
    loss = kernels.softmax_cross_entropy(
        rows,
        target,
        dy.reshape(rows.shape),
        weights=None if weighted is None else weighted.ravel(),
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
    out: Array | None,
    unknown: dict[str, Never],
    **options: float,
) -> Loss:
    given = {"y": y, "target": target, "weights": weights}
    _check_known(unknown, *options)
    y = _output(y)
    target, dy = _like(y, target), _gradient(y, out, **given)
    check_switch("batch_first", batch_first)
    rows = _row_weights(y, None, lengths, weights, batch_first)
    if rows is None:
        return kernel(y, target, dy, **options), dy
    shape = rows.size, y.size // max(rows.size, 1)
    flat = (a.reshape(shape) for a in (y, target, dy))
    return kernel(*flat, weights=rows.ravel(), **options), dy


def mse(
    y: Array, target: Array, *, lengths: ArrayLike | None = None, weights: ArrayLike | None = None,
    batch_first: bool = False, out: Array | None = None, **unknown: Never,
) -> Loss:  # fmt: skip
    """The mean of (y - target)**2, target like y."""
    return _elementwise(kernels.mse, y, target, lengths, weights, batch_first, out, unknown)


def mae(
    y: Array, target: Array, *, lengths: ArrayLike | None = None, weights: ArrayLike | None = None,
    batch_first: bool = False, out: Array | None = None, **unknown: Never,
) -> Loss:  # fmt: skip
    """The mean of abs(y - target), target like y."""
    return _elementwise(kernels.mae, y, target, lengths, weights, batch_first, out, unknown)


def huber(
    y: Array, target: Array, *, delta: float = 1.0, lengths: ArrayLike | None = None,
    weights: ArrayLike | None = None, batch_first: bool = False, out: Array | None = None,
    **unknown: Never,
) -> Loss:  # fmt: skip
    """The mean of r**2 / 2 if abs(r) <= delta, else delta * (abs(r) - delta / 2), r = y - target.

    Huber (1964).
    """
    kernel = kernels.huber
    return _elementwise(kernel, y, target, lengths, weights, batch_first, out, unknown, delta=delta)


def bce_with_logits(
    y: Array, target: Array, *, pos_weight: float = 1.0, lengths: ArrayLike | None = None,
    weights: ArrayLike | None = None, batch_first: bool = False, out: Array | None = None,
    **unknown: Never,
) -> Loss:  # fmt: skip
    """The mean binary cross entropy of sigmoid(y) and the target, like y, in [0, 1].

    The terms of targets 1 are multiplied by `pos_weight`.
    """
    kernel = kernels.bce_with_logits
    return _elementwise(
        kernel, y, target, lengths, weights, batch_first, out, unknown, pos_weight=pos_weight
    )
