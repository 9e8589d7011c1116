"""A step for the touched rows of an embedding of 50,000 x 64, beside a dense one and PyTorch's."""

import functools
import inspect

import numpy as np

import pyoptk
from pyoptk import _optim, kernels, reference

# The optimizer, and how many rows the gradient has, drawn with return.
SIZES = [
    ("Adam", 512), ("Adam", 8192), ("SGD", 512), ("SGD", 8192), ("AdaGrad", 512), ("AdaGrad", 8192),
]  # fmt: skip
KERNELS = ("touched_rows",)
NOT_IN_TORCH = ()
SHAPE = 50_000, 64
# How many state arrays, settings, the name of PyTorch's sparse one.
SPARSE = {
    "SGD": (0, {}, "SGD"),
    "AdaGrad": (1, {}, "Adagrad"),
    "Adam": (2, {"eps_hat": True}, "SparseAdam"),
}


def data(dtype, count):
    rng = np.random.default_rng(0)
    indices = rng.integers(0, SHAPE[0], count)
    return rng.standard_normal(SHAPE, dtype), indices, rng.standard_normal((count, 64), dtype)


def describe(size):
    return "{}, {:,} of 50,000 rows of 64".format(*size)


def work(kernel, dtype, size):
    name, count = size
    streams = 2 * (1 + SPARSE[name][0]) + 1
    return {"bytes": streams * count * SHAPE[1] * np.dtype(dtype).itemsize}


def sparse_step(opt, indices, values):
    opt.step(pyoptk.SparseRows(indices, values, SHAPE))


def ours(kernel, dtype, size, threads):
    name, count = size
    table, indices, values = data(dtype, count)
    opt = getattr(pyoptk, name)(table, **SPARSE[name][1])
    return functools.partial(sparse_step, opt, indices, values)


def gathered_step(twin, table, states, indices, values):
    rows, grad = reference.touched_rows(indices, values)
    gathered = [array[rows] for array in (table, *states)]
    twin(gathered[0], grad, *gathered[1:])
    for array, part in zip((table, *states), gathered, strict=True):
        array[rows] = part


def twin(kernel, dtype, size, threads):
    name, count = size
    states, settings, _ = SPARSE[name]
    table, indices, values = data(dtype, count)
    function = name.lower()
    names = inspect.signature(getattr(kernels, function)).parameters
    opt = getattr(pyoptk, name)(np.ones(1), **settings)
    hyper = {k: v for k, v in opt.hyper.items() if k in names}
    step = functools.partial(getattr(reference, function), step=10, **hyper)
    arrays = [np.zeros_like(table) for _ in range(states)]
    return functools.partial(gathered_step, step, table, arrays, indices, values)


def roof(kernel, dtype, size, threads):
    """As many bytes in one piece, in the streams of Adam, with additions only."""
    from pyoptk.bench.contenders.roof import arrays

    n = work(kernel, dtype, size)["bytes"] // (7 * np.dtype(dtype).itemsize)
    return functools.partial(_optim.memory_roof, *arrays(n, dtype))


def torch_step(torch, opt, tensor, indices, values):
    # Not coalesced, as a gradient comes from an embedding.
    tensor.grad = torch.sparse_coo_tensor(indices, values, SHAPE, check_invariants=False)
    opt.step()


def torch(kernel, dtype, size, threads):
    import torch

    torch.sparse.check_sparse_tensor_invariants.disable()
    name, count = size
    table, indices, values = (torch.from_numpy(array) for array in data(dtype, count))
    tensor = torch.nn.Parameter(table)
    opt = getattr(torch.optim, SPARSE[name][2])([tensor], lr=1e-3)
    return functools.partial(torch_step, torch, opt, tensor, indices[None], values)


def bench_sparse(timed, row):
    timed()


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", SPARSE)


def bench_dense_step(benchmark, name):
    benchmark.group = f"touched_rows float32 {describe((name, 512))}, 1 thread"
    table, *grad = data("float32", 512)
    benchmark.name = f"pyoptk.{name}.step, dense"
    pyoptk.set_num_threads(1)
    opt = getattr(pyoptk, name)(table, **SPARSE[name][1])
    benchmark(opt.step, pyoptk.SparseRows(*grad, SHAPE).dense())
    pyoptk.set_num_threads()
