"""h [B, H] times w_hh^T [H, 4H]: what an LSTM does at every step."""

import functools

import numpy as np

from pyoptk import _products, kernels, reference

# M, N, K
SIZES = [(1, 256, 64), (32, 512, 128), (32, 1024, 256), (128, 1024, 256), (16, 4096, 1024)]
KERNELS = ("matmul",)
NOT_IN_TORCH = ()


def data(dtype, size):
    M, N, K = size
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, N), (M, N))]


def describe(size):
    M, N, K = size
    return f"[{M}, {K}] x [{K}, {N}]"


def work(kernel, dtype, size):
    return {"flop": 2 * size[0] * size[1] * size[2]}


def ours(kernel, dtype, size, threads):
    return functools.partial(kernels.matmul, *data(dtype, size))


def twin(kernel, dtype, size, threads):
    return functools.partial(reference.matmul, *data(dtype, size))


def roof(kernel, dtype, size, threads):
    """A core's share of the multiply-adds, in registers alone."""
    flop = work(kernel, dtype, size)["flop"] / threads
    return functools.partial(
        _products.fma_roof, dtype, 1 + int(flop / _products.fma_roof(dtype, 1))
    )


def torch(kernel, dtype, size, threads):
    import torch

    a, b, c = (torch.from_numpy(array) for array in data(dtype, size))
    return functools.partial(torch.mm, a, b, out=c)


def bench_matmul(timed, row):
    timed()
