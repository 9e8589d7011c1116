from collections.abc import Sequence
from typing import Any, Self, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

@final
class SparseRows:
    indices: NDArray[np.int64]
    values: _Array
    shape: tuple[int, ...]
    def __new__(
        cls,
        indices: ArrayLike,
        values: _Array,
        shape: Sequence[int],
        *,
        padding_idx: int | None = None,
    ) -> Self: ...
    def dense(self) -> _Array: ...
