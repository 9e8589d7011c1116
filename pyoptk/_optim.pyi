from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

class Row:
    name: str
    common_fields: tuple[str, ...]
    fields: tuple[str, ...]
    starts: tuple[str, ...]
    states: tuple[tuple[str, str | None, str | None], ...]
    rules: tuple[tuple[str, int, str], ...]
    needed_by: dict[str, str | None]
    fallbacks: dict[str, float | bool | None]
    cautious: bool
    sparse_rows: bool
    def state_names(self, hyper: dict[str, Any]) -> tuple[str | None, ...]: ...

NEEDS: int
AT_MOST: int
ROWS: dict[str, Row]

def once(name: str, arguments: dict[str, Any]) -> None: ...
def global_norm(grads: Sequence[_Array]) -> float: ...
def norm_of(grads: dict[str, _Array]) -> float: ...
def squares_of(grads: dict[str, _Array]) -> tuple[float, NDArray[np.float64]]: ...
def check_apart(grads: dict[str, _Array]) -> None: ...
def clip(grads: dict[str, _Array], max_norm: float, eps: float) -> float: ...
def memory_roof(param: _Array, grad: _Array, m: _Array, v: _Array) -> None: ...
