from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

def softmax_cross_entropy(
    x: _Array,
    target: ArrayLike,
    dx: _Array | None = None,
    *,
    weights: _Array | None = None,
    class_weights: _Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    scale: float = 1.0,
) -> float: ...
def mse(
    x: _Array,
    target: _Array,
    dx: _Array | None = None,
    *,
    weights: _Array | None = None,
    scale: float = 1.0,
) -> float: ...
def mae(
    x: _Array,
    target: _Array,
    dx: _Array | None = None,
    *,
    weights: _Array | None = None,
    scale: float = 1.0,
) -> float: ...
def huber(
    x: _Array,
    target: _Array,
    dx: _Array | None = None,
    *,
    delta: float = 1.0,
    weights: _Array | None = None,
    scale: float = 1.0,
) -> float: ...
def bce_with_logits(
    x: _Array,
    target: _Array,
    dx: _Array | None = None,
    *,
    pos_weight: float = 1.0,
    weights: _Array | None = None,
    scale: float = 1.0,
) -> float: ...
