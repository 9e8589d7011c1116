from typing import Any, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from ._held import Held

_Array: TypeAlias = NDArray[np.floating[Any]]

@final
class Plan:
    held: Held
    settings: Any
    states: dict[str, list[_Array]]
    calls: int
    skipped: int
    def __new__(
        cls,
        held: Held,
        which: str,
        group_of: list[int],
        hypers: list[dict[str, Any]],
        settings: Any,
        start: dict[str, float],
    ) -> Self: ...
    def check(self, hypers: list[dict[str, Any]]) -> None: ...
    def configure(self, hypers: list[dict[str, Any]], settings: Any = None) -> None: ...
    def set_lr(self, lrs: list[float]) -> None: ...
    def restore(
        self,
        hypers: list[dict[str, Any]],
        settings: Any,
        states: dict[str, list[_Array]],
        steps: NDArray[np.int64],
        calls: int,
        skipped: int,
    ) -> None: ...
    def steps(self) -> list[int]: ...
    def grad_norm(self) -> float | None: ...
    def zeroes(self) -> list[bool]: ...
    def checked(self, grads: Any) -> list[Any]: ...
    def step(self, grads: Any) -> None: ...
    def run_step(self, ordered: list[Any], factor: float, skips: bool) -> bool: ...
