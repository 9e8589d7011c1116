"""exp, sigmoid and tanh, element by element, on one thread whatever is allowed."""

import functools

import numpy as np

from pyoptk import _optim, kernels, reference

SIZES = [1_000, 100_000, 1_000_000]
KERNELS = ("exp", "sigmoid", "tanh")
NOT_IN_TORCH = ()


def data(dtype, size):
    x = np.random.default_rng(0).uniform(-5, 5, size).astype(dtype)
    return x, np.empty_like(x)


def describe(size):
    return f"{size:,} elements"


def work(kernel, dtype, size):
    return {"bytes": 2 * size * np.dtype(dtype).itemsize}


def ours(kernel, dtype, size, threads):
    return functools.partial(getattr(kernels, kernel), *data(dtype, size))


def twin(kernel, dtype, size, threads):
    return functools.partial(getattr(reference, kernel), *data(dtype, size))


def roof(kernel, dtype, size, threads):
    """As many bytes in the streams of Adam, with additions only."""
    from pyoptk.bench.contenders.roof import arrays

    return functools.partial(_optim.memory_roof, *arrays(2 * size // 7, dtype))


def torch(kernel, dtype, size, threads):
    import torch

    x, y = (torch.from_numpy(array) for array in data(dtype, size))
    return functools.partial(getattr(torch, kernel), x, out=y)


def bench_mathfun(timed, row):
    timed()
