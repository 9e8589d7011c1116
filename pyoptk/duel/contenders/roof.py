"""What the machine allows: as many bytes streamed, or as many multiply-adds, and nothing else."""

import threading
from functools import partial

import numpy as np

PACKAGES = ("pyoptk",)
STREAMS = 7  # of memory_roof: those of Adam


def roofs():
    """memory_roof and fma_roof, wherever this version of pyoptk keeps them."""
    from pyoptk import _core

    return _core.memory_roof, _core.fma_roof


def arrays(n, dtype="float32"):
    """Four arrays of ones for `memory_roof`, which begin a quarter of a page apart.

    At nearly the same place in their pages, loads from one wait for stores to another (4K
    aliasing): 64 bytes apart they are 1.3 times as slow in L2. Not zeros: the system keeps pages of
    zeros that are only read in one page, which stays in L1.
    """
    found = []
    for i in range(4):
        raw = np.empty(n * np.dtype(dtype).itemsize + 2 * 4096, np.uint8)
        start = -raw.ctypes.data % 4096 + 1024 * i
        found.append(raw[start : start + n * np.dtype(dtype).itemsize].view(dtype))
        found[-1][:] = 1
    return found


def every(*, threads, dtype, bytes=0, flop=0, only_read=False, smallest=20_000):
    """As many bytes as the task moves, in the streams of Adam with additions only; or its FLOPs.

    Below `smallest` elements a call takes longer than its streams. What is only read is read by
    BLAS.
    """
    import pyoptk

    pyoptk.set_num_threads(threads)
    if flop:
        return multiply_adds(flop, dtype, threads)
    elements = bytes // np.dtype(dtype).itemsize
    if elements < max(1, STREAMS * smallest):
        raise NotImplementedError
    if only_read:
        x = np.ones(elements, dtype)
        return partial(np.dot, x, x), list
    return partial(roofs()[0], *arrays(elements // STREAMS, dtype)), list


def multiply_adds(flop, dtype, threads):
    """`flop` floating-point operations in registers, an equal share on each thread.

    So many times over that starting threads does not count.
    """
    fma = roofs()[1]
    times = max(1, int(2e8 * threads / flop))
    rounds = 1 + int(flop * times / threads / fma(dtype, 1))

    def work():
        others = [threading.Thread(target=fma, args=(dtype, rounds)) for _ in range(threads - 1)]
        for other in others:
            other.start()
        fma(dtype, rounds)
        for other in others:
            other.join()

    return work, list, {"times": times}
