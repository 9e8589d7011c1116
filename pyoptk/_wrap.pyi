from typing import Any, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from ._held import Held

_Array: TypeAlias = NDArray[np.floating[Any]]

def restore(
    owner: Any, held: Held, targets: list[Any], sources: list[Any], numbers: dict[str, Any]
) -> None: ...

@final
class Averaged:
    def __new__(cls, held: Held, others: list[_Array]) -> Self: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

class Mean:
    count: int
    _averages: list[_Array]
    def _take_in(self, held: Held, params: list[_Array]) -> None: ...

class Link:
    count: int
    def __new__(cls, opt: Any, *_: Any, **__: Any) -> Self: ...
    def _step(self, grads: Any, weight: float, flush: bool) -> bool: ...

class Scaled(Link):
    scale: float
    growth: float
    backoff: float
    interval: int

class Slow(Link):
    k: int
    alpha: float
    _slow: list[_Array]
    _params: list[_Array]

class Gathered(Link):
    k: int
    weight: float
    _sums: list[_Array]
    _given: NDArray[np.bool_]
    _rows: dict[int, list[Any]]
