from typing import Any, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

@final
class LSTMStepper:
    def __new__(cls, params: _Array, sizes: tuple[int, int, int], bias: bool) -> Self: ...
    def step(
        self, x: _Array, state: tuple[_Array, _Array] | None
    ) -> tuple[_Array, tuple[_Array, _Array]]: ...
