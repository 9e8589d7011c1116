from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

ACTIVATIONS: tuple[str, ...]
NEED_Z: tuple[str, ...]

def rows_of(name: str, x: Any, dtype: np.dtype[Any], columns: int) -> _Array: ...
def linear_rows(own: dict[str, Any], x: Any, train: bool) -> _Array: ...
def linear_rows_backward(
    own: dict[str, Any], dy: Any, need_dx: bool, accumulate: bool
) -> _Array | None: ...
def linear_forward(
    x: _Array,
    w: _Array,
    b: _Array | None,
    y: _Array,
    z: _Array | None = None,
    *,
    activation: str = "none",
    slope: float = 0.01,
    compute: str | None = None,
) -> None: ...
def linear_backward(
    dy: _Array,
    x: _Array,
    w: _Array,
    y: _Array | None = None,
    z: _Array | None = None,
    *,
    dx: _Array | None = None,
    dw: _Array | None = None,
    db: _Array | None = None,
    activation: str = "none",
    slope: float = 0.01,
    accumulate: bool = False,
    compute: str | None = None,
) -> None: ...
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
