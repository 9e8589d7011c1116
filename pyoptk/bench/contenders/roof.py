"""What the machine allows: as many bytes streamed, or as many multiply-adds, and nothing else."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np

PACKAGES = ("pyoptk",)
# Arrays of a parameter's size that one step reads or writes.
STREAMS = {"Adam": 7, "AdamW": 7, "SGD": 5, "RMSprop": 5, "AdaGrad": 5}


def streams(
    optimizer: str,
    max_norm: float | None = None,
    ema_decay: float | None = None,
    zero_grad: bool = False,
    **_: Any,
) -> int:
    """Arrays of a parameter's size that a step must read or write: each counts once or twice."""
    norm, ema, zero = max_norm is not None, ema_decay is not None, bool(zero_grad)
    return STREAMS[optimizer] + norm + 2 * ema + zero


def arrays(n: int, dtype: str = "float32") -> list[Any]:
    """Four arrays of ones for `_optim.memory_roof`, which begin a quarter of a page apart.

    At nearly the same place of their pages, loads from one wait for stores to another: 64 bytes
    apart they are 1.3 times as slow in L2.
    Not zeros: the system keeps pages of zeros that are only read in one page, which stays in L1.
    """
    found = []
    for i in range(4):
        raw = np.empty(n * np.dtype(dtype).itemsize + 2 * 4096, np.uint8)
        start = -raw.ctypes.data % 4096 + 1024 * i
        found.append(raw[start : start + n * np.dtype(dtype).itemsize].view(dtype))
        found[-1][:] = 1
    return found


def step(params: Any, grads: Any, *, threads: int, **settings: Any) -> Any:
    """As many bytes as the step moves, in the streams of Adam with additions only."""
    import pyoptk
    from pyoptk import _optim

    pyoptk.set_num_threads(threads)
    elements = sum(p.size for p in params)
    if elements < 20_000:  # the call takes longer than the streams
        raise NotImplementedError
    n = elements * streams(**settings) // 7
    return partial(_optim.memory_roof, *arrays(n)), list


def lengths(T: int, B: int) -> Any:
    """Those of a batch of sequences of T to T/2 steps, the longest first."""
    return np.linspace(T, T // 2, B).astype(int)


def lstm_flop(T: int, B: int, I: int, H: int, packed: bool = False) -> int:
    """The products of forward and backward: three for each weight, four gates.

    Those with the state only from the second step on: before the first it is 0.
    """
    steps = int(lengths(T, B).sum()) if packed else T * B
    return 3 * 8 * H * (steps * I + (steps - B) * H)


def multiply_adds(flop: float, dtype: str, threads: int) -> Any:
    """`flop` floating-point operations in registers, an equal share on each thread.

    So many times over that starting threads does not count.
    """
    from pyoptk import _products

    times = max(1, int(2e8 * threads / flop))
    rounds = 1 + int(flop * times / threads / _products.fma_roof(dtype, 1))

    def work() -> None:
        others = [
            threading.Thread(target=_products.fma_roof, args=(dtype, rounds))
            for _ in range(threads - 1)
        ]
        for other in others:
            other.start()
        _products.fma_roof(dtype, rounds)
        for other in others:
            other.join()

    return work, list, times


def lstm(
    x: Any, dy: Any, weights: Any, *, threads: int, packed: bool = False, **stacked: int
) -> Any:
    """The products, at the peak of multiply-adds."""
    T, B, _ = x.shape
    flop = sum(lstm_flop(T, B, w.shape[1], len(w) // 4, packed) for w in weights[::4])
    return multiply_adds(flop, x.dtype.name, threads)


def forecaster(windows: Any, targets: Any, weights: Any, *, threads: int) -> Any:
    """The products of the two layers, at the peak of multiply-adds."""
    T, B, _ = windows.shape
    flop = sum(lstm_flop(T, B, w_ih.shape[1], len(w_ih) // 4) for w_ih, *_ in weights[:2])
    return multiply_adds(flop, "float32", threads)
