from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_Array: TypeAlias = NDArray[np.floating[Any]]

def isa() -> str: ...
def isas() -> dict[str, bool]: ...
def use_isa(name: str | None = None) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int | None = None) -> None: ...
def threads_backend() -> str: ...
def state_names(which: str, hyper: Mapping[str, Any]) -> tuple[str | None, ...]: ...

@final
class SparseRows:
    indices: NDArray[np.int64]
    values: _Array
    shape: tuple[int, ...]
    def __new__(cls, indices: ArrayLike, values: _Array, shape: Sequence[int]) -> Self: ...
    def dense(self) -> _Array: ...

@final
class Plan:
    states: dict[str, list[_Array]]
    calls: int
    skipped: int
    factor: float
    skips: bool
    def __init__(
        self,
        which: str,
        keys: list[Any] | None,
        mapping: bool,
        params: list[Any],
        group_of: list[int],
        hypers: list[dict[str, Any]],
        initial: float = 0.0,
    ) -> None: ...
    def check(self, hypers: list[dict[str, Any]]) -> None: ...
    def configure(self, hypers: list[dict[str, Any]]) -> None: ...
    def set_lr(self, lrs: list[float]) -> None: ...
    def check_idle(self, what: str) -> int: ...
    def swap(self, averaging: bool) -> None: ...
    def steps(self) -> list[int]: ...
    def set_steps(self, steps: list[int]) -> None: ...
    def grad_norm(self) -> float | None: ...
    def ordered(self, grads: Any) -> list[Any]: ...
    def step(self, grads: Any) -> None: ...

def sgd(
    param: _Array,
    grad: _Array,
    velocity: _Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    lr_in_momentum: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def adagrad(
    param: _Array,
    grad: _Array,
    s: _Array,
    *,
    step: int = 1,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    eps_inside_sqrt: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def rmsprop(
    param: _Array,
    grad: _Array,
    v: _Array,
    avg: _Array | None = None,
    velocity: _Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-2,
    rho: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    eps_inside_sqrt: bool = False,
    lr_in_momentum: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def adadelta(
    param: _Array,
    grad: _Array,
    v: _Array,
    acc_delta: _Array,
    *,
    step: int = 1,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def adam(
    param: _Array,
    grad: _Array,
    m: _Array,
    v: _Array,
    vmax: _Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    amsgrad: bool = False,
    amsgrad_on_corrected: bool = False,
    eps_hat: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def nadam(
    param: _Array,
    grad: _Array,
    m: _Array,
    v: _Array,
    *,
    step: int = 1,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def radam(
    param: _Array,
    grad: _Array,
    m: _Array,
    v: _Array,
    *,
    step: int = 1,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_hat: bool = True,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def adamax(
    param: _Array,
    grad: _Array,
    m: _Array,
    u: _Array,
    *,
    step: int = 1,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_outside_max: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def lion(
    param: _Array,
    grad: _Array,
    m: _Array,
    *,
    step: int = 1,
    lr: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    decoupled: bool = True,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def lamb(
    param: _Array,
    grad: _Array,
    m: _Array,
    v: _Array,
    *,
    step: int = 1,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 1e-2,
    decoupled: bool = True,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None: ...
def global_norm(grads: Sequence[_Array]) -> float: ...
def norm_of(grads: dict[str, _Array]) -> float: ...
def check_writable(
    grads: dict[str, _Array], clip_value: float = 0.0, once: bool = False
) -> float: ...
def clip_factor(grads: dict[str, _Array], max_norm: float) -> tuple[float, float]: ...
def memory_roof(param: _Array, grad: _Array, m: _Array, v: _Array) -> None: ...
def fma_roof(dtype: DTypeLike, rounds: int) -> float: ...
def cut(n: int, chunk: int, chunks: int) -> int: ...
def exp(x: _Array, y: _Array) -> None: ...
def sigmoid(x: _Array, y: _Array) -> None: ...
def tanh(x: _Array, y: _Array) -> None: ...
def dropout(x: _Array, y: _Array, p: float, *, seed: int, stream: int = 0) -> None: ...
def matmul(a: _Array, b: _Array, c: _Array, *, accumulate: bool = False) -> None: ...
def check_names(names: Iterable[str], known: Iterable[str]) -> None: ...
def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None: ...
def check_patterns(name: str, value: Any) -> tuple[str, ...]: ...
def check_params(keys: list[Any] | None, names: list[str]) -> None: ...
def check_groups(
    groups: Any,
    hyper: Mapping[str, Any],
    names: Sequence[str],
    patterns: list[str] | None = None,
) -> None: ...
def check_state(which: str, state: Mapping[str, Any]) -> None: ...
def check_sizes(**sizes: int) -> None: ...
def check_uint64(name: str, value: int) -> None: ...
def check_dropout(p: float, seed: int | None, num_layers: int) -> float: ...
def check_switches(**switches: bool) -> None: ...
def check_rng(rng: np.random.Generator | None) -> None: ...
def check_float_dtype(dtype: DTypeLike) -> np.dtype[np.floating[Any]]: ...
def steps_and_rows(x: Any, I: int, batch_first: bool, model: _Array) -> tuple[int, int]: ...
def check_lengths(lengths: ArrayLike, B: int, T: int) -> NDArray[np.int64]: ...

@final
class LSTMPlan:
    nbytes: int
    due: bool
    def __init__(
        self,
        params: _Array,
        grads: _Array,
        sizes: tuple[int, int, int, int],
        bias: bool,
        batch_first: bool,
        T: int,
        B: int,
        save: str,
        dropout: bool = False,
    ) -> None: ...
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

@final
class LSTMStepper:
    def __init__(self, params: _Array, sizes: tuple[int, int, int], bias: bool) -> None: ...
    def step(
        self, x: _Array, state: tuple[_Array, _Array] | None
    ) -> tuple[_Array, tuple[_Array, _Array]]: ...
