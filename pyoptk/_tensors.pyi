from collections.abc import MutableMapping
from types import ModuleType
from typing import Any, final

@final
class Stepper:
    loaded: MutableMapping[int, Any] | None
    def __new__(
        cls, which: str, keys: tuple[str, ...], counts: bool, tools: ModuleType
    ) -> Stepper: ...
    def check(self, hypers: list[dict[str, Any]], doubles: list[bool]) -> None: ...
    def step(
        self, optimizer: Any, hypers: list[dict[str, Any]], scale: float, max_norm: float | None
    ) -> float | None: ...
