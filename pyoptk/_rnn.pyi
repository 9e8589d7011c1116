from typing import Any, Self, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

@final
class LSTMPlan:
    nbytes: int
    due: bool
    def __new__(
        cls,
        params: _Array,
        grads: _Array,
        sizes: tuple[int, int, int, int],
        bias: bool,
        batch_first: bool,
        T: int,
        B: int,
        save: str,
        dropout: bool = False,
    ) -> Self: ...
    def serves(self, x: Any) -> bool: ...
    def forward(
        self,
        x: _Array,
        state: tuple[_Array, _Array] | None,
        lengths: ArrayLike | None,
        past_end: str,
        out: _Array | None,
        dropout: tuple[float, int, int] | None,
    ) -> tuple[_Array, tuple[_Array, _Array]]: ...
    def backward(
        self,
        dy: _Array | None,
        dstate: tuple[_Array, _Array] | None,
        accumulate: bool,
        need_dx: bool,
        out: _Array | None,
    ) -> tuple[Any, tuple[_Array, _Array] | None]: ...

def check_due(plan: LSTMPlan | None) -> LSTMPlan: ...
def steps_and_rows(x: Any, I: int, batch_first: bool, model: _Array) -> tuple[int, int]: ...
