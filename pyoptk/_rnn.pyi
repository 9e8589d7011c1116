from typing import Any, Self, final

from ._stack import Stack
from ._stack import partition as partition

@final
class Plan(Stack):
    due: bool
    def __new__(cls, layer: Any, T: int, B: int, save: str) -> Self: ...

@final
class Passes:
    def forward(
        self, layer: Any, x: Any, state: Any, lengths: Any, past_end: Any, train: Any, out: Any
    ) -> Any: ...
    def backward(self, dy: Any, dstate: Any, accumulate: Any, need_dx: Any, out: Any) -> Any: ...
