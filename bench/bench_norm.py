"""The global norm, and clipping by it and by value, as calls of their own."""

import functools

import numpy as np

import pyoptk
from pyoptk import _optim, kernels, reference

SIZES = [1_000, 100_000, 1_000_000, 4_000_000]  # the last is larger than most caches
# How often the gradient goes over the bus, and PyTorch's function.
KERNELS = {
    "global_norm": (1, "get_total_norm"),
    "clip_by_global_norm": (3, "clip_grad_norm_"),
    "clip_by_value": (2, "clip_grad_value_"),
}
LIMITS = {"global_norm": (), "clip_by_global_norm": (0.1,), "clip_by_value": (1e-3,)}
NOT_IN_TORCH = ()


@functools.lru_cache(maxsize=2)  # for the rows that follow
def normal(dtype, size):
    return np.random.default_rng(0).standard_normal(size, dtype)


def data(dtype, size):
    return normal(dtype, size).copy()


def describe(size):
    return f"{size:,} elements"


def work(kernel, dtype, size):
    return {"bytes": KERNELS[kernel][0] * size * np.dtype(dtype).itemsize}


def ours(kernel, dtype, size, threads):
    function = kernels.global_norm if kernel == "global_norm" else getattr(pyoptk, kernel)
    return functools.partial(function, [data(dtype, size)], *LIMITS[kernel])


def clip_by_global_norm(grad, max_norm):
    grad *= min(1, max_norm / (reference.global_norm([grad]) + 1e-6))


def twin(kernel, dtype, size, threads):
    grad = data(dtype, size)
    if kernel == "global_norm":
        return functools.partial(reference.global_norm, [grad])
    if kernel == "clip_by_global_norm":
        return functools.partial(clip_by_global_norm, grad, *LIMITS[kernel])
    limit = LIMITS[kernel][0]
    return functools.partial(np.clip, grad, -limit, limit, out=grad)


def roof(kernel, dtype, size, threads):
    """Reading alone by BLAS, or as many bytes read and written, with additions only."""
    if kernel == "global_norm":
        grad = data(dtype, size)
        return functools.partial(np.dot, grad, grad)
    from pyoptk.bench.contenders.roof import arrays

    return functools.partial(_optim.memory_roof, *arrays(KERNELS[kernel][0] * size // 7, dtype))


def torch(kernel, dtype, size, threads):
    import torch

    grad = torch.from_numpy(data(dtype, size))
    function = getattr(torch.nn.utils, KERNELS[kernel][1])
    if kernel == "global_norm":
        return functools.partial(function, [grad])
    tensor = torch.nn.Parameter(torch.zeros_like(grad))
    tensor.grad = grad
    return functools.partial(function, [tensor], *LIMITS[kernel])


def bench_norm(timed, row):
    timed()
