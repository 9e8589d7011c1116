from collections.abc import Callable
from typing import Any, TypeVar

from typing_extensions import disjoint_base

_Function = TypeVar("_Function", bound=Callable[..., None])
Row: Any
ROWS: dict[str, Any]
NEEDS: int
AT_MOST: int

@disjoint_base
class Watch:
    told: Any

def sweep(which: str, ema: Any, max_norm: float | None, **arguments: Any) -> None: ...
def kernel(function: _Function) -> _Function: ...
def convert_state(
    kernel: str,
    state: str,
    words: Any,
    scale: Any,
    values: Any,
    seed: int,
    step: int,
    write: bool,
    first: int = 0,
) -> None: ...
def global_norm(grads: Any) -> float: ...
def norm_of(grads: dict[str, Any]) -> float: ...
def squares_of(grads: dict[str, Any]) -> tuple[float, Any]: ...
def check_apart(grads: dict[str, Any]) -> None: ...
def clip(grads: dict[str, Any], max_norm: float, eps: float) -> float: ...
def memory_roof(param: Any, grad: Any, m: Any, v: Any) -> None: ...
