from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

ACTIVATIONS: tuple[str, ...]
NEED_Z: tuple[str, ...]

def passes_of(layer: type, *texts: bytes) -> tuple[Any, Any]: ...
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
