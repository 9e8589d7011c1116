from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from typing_extensions import disjoint_base

_Array: TypeAlias = NDArray[np.floating[Any]]

def exp(x: _Array, y: _Array) -> None: ...
def sigmoid(x: _Array, y: _Array) -> None: ...
def tanh(x: _Array, y: _Array) -> None: ...
def dropout(x: _Array, y: _Array, p: float, *, seed: int, stream: int = 0) -> None: ...
def matmul(a: _Array, b: _Array, c: _Array, *, accumulate: bool = False) -> None: ...
def fma_roof(dtype: DTypeLike, rounds: int) -> float: ...
def linear_scan_forward(
    a: _Array,
    b: _Array,
    h: _Array,
    h0: _Array | None = None,
    *,
    reverse: bool = False,
    resets: NDArray[np.bool_] | None = None,
) -> None: ...
def linear_scan_backward(
    a: _Array,
    h: _Array,
    dh: _Array,
    da: _Array,
    db: _Array,
    h0: _Array | None = None,
    dh0: _Array | None = None,
    *,
    reverse: bool = False,
    resets: NDArray[np.bool_] | None = None,
) -> None: ...
def put_gradients(
    attributes: dict[str, Any], flat: _Array, fresh: _Array, accumulate: bool
) -> None: ...
def put_all(moves: list[tuple[Any, dict[str, Any]]], left: list[Any]) -> None: ...
def finish(
    attributes: dict[str, Any], function: Callable[..., Any], *arguments: Any, **options: Any
) -> None: ...

@disjoint_base
class Guard:
    def call(self, function: Callable[..., Any], *arguments: Any) -> Any: ...
