from typing import Any, Self

from numpy.typing import DTypeLike

class Stack:
    nbytes: int
    def __new__(cls, layer: Any, T: int, B: int, save: str) -> Self: ...

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
