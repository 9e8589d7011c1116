"""Dropout of one array, as between two recurrent layers."""

import functools

import numpy as np

from pyoptk import _optim, kernels, reference

SIZES = [1_000, 100_000, 1_000_000, 4_000_000]  # the last is larger than most caches
KERNELS = ("dropout",)
NOT_IN_TORCH = ()


def data(dtype, size):
    x = np.random.default_rng(0).standard_normal(size, dtype)
    return x, np.empty_like(x)


def describe(size):
    return f"{size:,} elements"


def work(kernel, dtype, size):
    return {"bytes": 2 * size * np.dtype(dtype).itemsize}


def ours(kernel, dtype, size, threads):
    x, y = (array.reshape(10, -1, 100) for array in data(dtype, size))
    return functools.partial(kernels.dropout, x, y, 0.2, seed=1)


def twin(kernel, dtype, size, threads):
    return functools.partial(reference.dropout, *data(dtype, size), 0.2, seed=1)


def roof(kernel, dtype, size, threads):
    """As many bytes in the streams of Adam, with additions only."""
    from pyoptk.bench.contenders.roof import arrays

    return functools.partial(_optim.memory_roof, *arrays(2 * size // 7, dtype))


def torch(kernel, dtype, size, threads):
    import torch

    x = torch.from_numpy(data(dtype, size)[0])
    return functools.partial(torch.nn.functional.dropout, x, 0.2)


def bench_dropout(timed, row):
    timed()
