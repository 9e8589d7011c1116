"""One optimizer step over one parameter."""

import functools
import inspect

import numpy as np

import pyoptk
from pyoptk import _optim, kernels, reference

SIZES = [1_000, 100_000, 1_000_000, 4_000_000]  # the last is larger than most caches
# Each kernel of pyoptk.kernels: its class, how many state arrays, settings, PyTorch's name.
KERNELS = {
    "sgd": (pyoptk.SGD, 1, {"momentum": 0.9}, "SGD"),
    "adagrad": (pyoptk.AdaGrad, 1, {}, "Adagrad"),
    "rmsprop": (pyoptk.RMSprop, 1, {}, "RMSprop"),
    "adadelta": (pyoptk.Adadelta, 2, {}, "Adadelta"),
    "adam": (pyoptk.Adam, 2, {}, "Adam"),
    "nadam": (pyoptk.NAdam, 2, {}, "NAdam"),
    "radam": (pyoptk.RAdam, 2, {}, "RAdam"),
    "adamax": (pyoptk.Adamax, 2, {}, "Adamax"),
    "lion": (pyoptk.Lion, 1, {}, None),
    "lamb": (pyoptk.LAMB, 2, {}, None),
}
classes = {cls._kernel: cls for cls in vars(pyoptk).values() if hasattr(cls, "_kernel")}
KERNELS |= {
    name: (classes[name], len(row.states), {}, None)
    for name, row in _optim.ROWS.items()
    if name not in KERNELS
}
NOT_IN_TORCH = [name for name, row in KERNELS.items() if row[3] is None]
FUSED = ("SGD", "Adagrad", "Adam")  # those that PyTorch has fused


@functools.lru_cache(maxsize=2)  # for the rows that follow
def normal(dtype, size):
    return np.random.default_rng(0).standard_normal(size, dtype)


def data(dtype, size):
    """A parameter, and a gradient that is only read."""
    return normal(dtype, size).copy(), normal(dtype, size)


def describe(size):
    return f"{size:,} elements"


def work(kernel, dtype, size):
    # parameter and states are read and written, the gradient is read; LAMB sweeps a second time
    streams = 10 if kernel == "lamb" else 2 * (1 + KERNELS[kernel][1]) + 1
    return {"bytes": streams * size * np.dtype(dtype).itemsize}


def ours(kernel, dtype, size, threads):
    cls, _, settings, _ = KERNELS[kernel]
    param, grad = data(dtype, size)
    return functools.partial(cls(param, **settings).step, grad)


def twin(kernel, dtype, size, threads):
    cls, states, settings, _ = KERNELS[kernel]
    param, grad = data(dtype, size)
    names = inspect.signature(getattr(kernels, kernel)).parameters
    hyper = {k: v for k, v in cls(param.copy(), **settings).hyper.items() if k in names}
    arrays = [np.zeros_like(param) for _ in range(states)]
    return functools.partial(getattr(reference, kernel), param, grad, *arrays, step=10, **hyper)


def roof(kernel, dtype, size, threads):
    """As many bytes in the streams of Adam, with additions only."""
    from pyoptk.bench.contenders.roof import arrays

    n = work(kernel, dtype, size)["bytes"] // (7 * np.dtype(dtype).itemsize)
    return functools.partial(_optim.memory_roof, *arrays(n, dtype))


def torch(kernel, dtype, size, threads):
    import torch

    _, _, settings, theirs = KERNELS[kernel]
    param, grad = (torch.from_numpy(a) for a in data(dtype, size))
    tensor = torch.nn.Parameter(param)
    tensor.grad = grad
    fastest = {"fused": True} if theirs in FUSED else {"foreach": True}
    return getattr(torch.optim, theirs)([tensor], lr=1e-3, **settings, **fastest).step


def bench_optim(timed, row):
    timed()
