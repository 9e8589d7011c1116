"""What the machine allows: as many bytes streamed, or as many multiply-adds, and nothing else."""

import threading
from functools import partial

import numpy as np

import pyoptk
from pyoptk._optim import memory_roof
from pyoptk._products import fma_roof

PACKAGES = ("pyoptk",)
STREAMS = 7  # of memory_roof: those of Adam


def start(threads, smallest=20_000):
    global THREADS, SMALLEST
    THREADS, SMALLEST = threads, smallest
    pyoptk.set_num_threads(threads)


def arrays(n, dtype="float32"):
    """Four arrays of ones for `memory_roof`, which begin a quarter of a page apart.

    At nearly the same place in their pages, loads from one wait for stores to another (4K
    aliasing): 64 bytes apart they are 1.3 times as slow in L2. Not zeros: the system keeps pages of
    zeros that are only read in one page, which stays in L1.
    """
    size = n * np.dtype(dtype).itemsize
    raw = [np.empty(size + 2 * 4096, np.uint8) for _ in range(4)]
    starts = [-array.ctypes.data % 4096 + 1024 * i for i, array in enumerate(raw)]
    found = [array[k : k + size].view(dtype) for array, k in zip(raw, starts, strict=True)]
    for array in found:
        array[:] = 1
    return found


def every(*, dtype, bytes=0, flop=0, only_read=False):
    """As many bytes as the task moves, in the streams of Adam with additions only; or its FLOPs.

    Below SMALLEST elements a call takes longer than its streams. What is only read is read by BLAS.
    """
    if flop:
        return multiply_adds(flop, dtype)
    elements = bytes // np.dtype(dtype).itemsize
    if elements < max(1, STREAMS * SMALLEST):
        raise NotImplementedError
    if only_read:
        x = np.ones(elements, dtype)
        return partial(np.dot, x, x)
    return partial(memory_roof, *arrays(elements // STREAMS, dtype))


def multiply_adds(flop, dtype):
    """`flop` floating-point operations in registers, an equal share on each thread.

    So many times over that starting threads does not count; not more often, because a long call is
    interrupted where other programs run.
    """
    times = max(1, int((2e8 * THREADS if THREADS > 1 else 2e7) / flop))
    rounds = 1 + int(flop * times / THREADS / fma_roof(dtype, 1))

    def work():
        others = [
            threading.Thread(target=fma_roof, args=(dtype, rounds)) for _ in range(THREADS - 1)
        ]
        for other in others:
            other.start()
        fma_roof(dtype, rounds)
        for other in others:
            other.join()

    return work, None, {"times": times}
