from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

def rows_of(name: str, x: Any, dtype: np.dtype[Any], columns: int) -> _Array: ...
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
def layer_norm_forward(
    x: _Array,
    gain: _Array | None,
    bias: _Array | None,
    y: _Array,
    mean: _Array,
    scale: _Array,
    *,
    eps: float = 1e-5,
) -> None: ...
def layer_norm_backward(
    dy: _Array,
    x: _Array,
    gain: _Array | None,
    mean: _Array,
    scale: _Array,
    *,
    dx: _Array | None = None,
    dgain: _Array | None = None,
    dbias: _Array | None = None,
    accumulate: bool = False,
) -> None: ...
def rms_norm_forward(
    x: _Array, gain: _Array | None, y: _Array, scale: _Array, *, eps: float = 1e-5
) -> None: ...
def rms_norm_backward(
    dy: _Array,
    x: _Array,
    gain: _Array | None,
    scale: _Array,
    *,
    dx: _Array | None = None,
    dgain: _Array | None = None,
    accumulate: bool = False,
) -> None: ...
