from typing import Any, Self, final

from numpy.typing import DTypeLike

@final
class Plan:
    nbytes: int
    due: bool
    def __new__(cls, layer: Any, T: int, B: int, save: str) -> Self: ...

@final
class Passes:
    def forward(
        self, layer: Any, x: Any, state: Any, lengths: Any, past_end: Any, train: Any, out: Any
    ) -> Any: ...
    def backward(self, dy: Any, dstate: Any, accumulate: Any, need_dx: Any, out: Any) -> Any: ...

def partition(
    cell: str,
    dtype: DTypeLike,
    T: int,
    B: int,
    I: int,
    H: int,
    directions: int = 1,
    nthreads: int | None = None,
) -> tuple[int, int, int]: ...
