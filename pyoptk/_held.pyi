from typing import Any, Self, final

@final
class Held:
    keys: list[Any] | None
    def __new__(cls, keys: list[Any] | None, arrays: list[Any], given: Any) -> Self: ...
