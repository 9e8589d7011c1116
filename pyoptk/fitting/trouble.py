"""`Diverged`: the loss is not finite, and which arrays show the cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._sparse import SparseRows
from .batches import Batch
from .history import History


class Diverged(FloatingPointError):
    """Training stopped because the loss was NaN or infinite; the message says what to look at.

    Attributes
    ----------
    history : History
        The epochs before. The parameters are those that gave the loss: no step was taken with it.
    """

    history: History


def finite(array: Any) -> bool:
    """Whether all elements of a float array are finite numbers; True of other arrays."""
    values = array.values if isinstance(array, SparseRows) else np.asarray(array)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def reason(batch: Batch, params: Mapping[str, Any], y: Any, lr: float) -> str:
    """What is not finite: the data, the parameters, or only the output or the loss."""
    for name, array in (("x", batch.x), ("y", batch.y)):
        if not finite(array):
            bad = int((~np.isfinite(array)).sum())
            return f"{name} has {bad} NaN or infinite elements in this batch: clean the data"
    if bad_ones := [name for name, array in params.items() if not finite(array)]:
        shown = ", ".join(bad_ones[:3]) + (", ..." if len(bad_ones) > 3 else "")
        return (
            f"the data are finite, but {len(bad_ones)} of {len(params)} parameters are not "
            f"({shown}): a step before was too large or its gradient infinite. Try a lower lr than "
            f"{lr:.3g} (pyoptk.lr_range_test suggests one) or max_norm=1.0; "
            "on_nonfinite='raise' stops at the gradient"
        )
    largest = float(np.abs(y).max()) if finite(y) and np.size(y) else np.inf
    where = f"the output reaches {largest:.3g}" if largest < np.inf else "the output is not"
    return (
        f"data and parameters are finite, {where}: look at the scale of x and y and at logarithms, "
        "divisions and exponentials of the model and the loss; a lower lr or max_norm=1.0 helps "
        "where the output grows"
    )
