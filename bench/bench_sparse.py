"""A step for the touched rows of an embedding, beside a dense one and PyTorch's."""

import functools

import numpy as np
import pytest

import pyoptk
from pyoptk import _core, reference

KERNELS = ("touched_rows",)
SIZES = [512, 8_192]  # rows that come, of 50,000 of 64 elements
NOT_IN_TORCH = ()

# Those that take single rows, with the settings and the name of PyTorch's sparse one.
SPARSE = {
    "SGD": (pyoptk.SGD, {}, "SGD"),
    "AdaGrad": (pyoptk.AdaGrad, {}, "Adagrad"),
    "Adam": (pyoptk.Adam, {"eps_hat": True}, "SparseAdam"),
}


def describe(size):
    return f"{size:,} of 50,000 rows of 64"


def work(kernel, dtype, size):
    return {"bytes": 2 * size * 64 * np.dtype(dtype).itemsize}


def gradient(dtype, count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 50_000, count), rng.standard_normal((count, 64), dtype)


def ours(kernel, dtype, size, threads):
    """The rows summed and SGD's step for them: there is no call for the sums alone."""
    table = np.zeros((50_000, 64), dtype)
    grad = pyoptk.SparseRows(*gradient(dtype, size), table.shape)
    return functools.partial(pyoptk.SGD(table).step, grad)


def twin(kernel, dtype, size, threads):
    return functools.partial(reference.touched_rows, *gradient(dtype, size))


def roof(kernel, dtype, size, threads):
    """As many bytes in the streams of Adam, with additions only."""
    from pyoptk.bench.contenders.roof import arrays

    return functools.partial(_core.memory_roof, *arrays(2 * size * 64 // 7, dtype))


def torch(kernel, dtype, size, threads):
    import torch

    indices, values = (torch.from_numpy(a) for a in gradient(dtype, size))
    rows = torch.sparse_coo_tensor(indices[None], values, (50_000, 64))
    return rows.coalesce


def bench_sparse(timed, row):
    timed()


def data(shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def rows(benchmark, name, count, threads):
    """An embedding of 50,000 x 64, and the gradient of so many of its rows, drawn with return."""
    benchmark.group = f"{name} float32, {count:,} of 50,000 rows of 64, {threads} thread(s)"
    return data((50_000, 64)), *gradient("float32", count)


@pytest.mark.parametrize("count", [512, 8192])
@pytest.mark.parametrize("name", SPARSE)
def bench_sparse_step(benchmark, name, count, threads):
    cls, settings, _ = SPARSE[name]
    table, indices, values = rows(benchmark, name, count, threads)
    opt = cls(table, **settings)
    benchmark.name = f"pyoptk.{name}.step(SparseRows(...))"
    benchmark(lambda: opt.step(pyoptk.SparseRows(indices, values, table.shape)))


@pytest.mark.parametrize("name", SPARSE)
def bench_dense_step(benchmark, name, threads):
    cls, settings, _ = SPARSE[name]
    table, *grad = rows(benchmark, name, 512, threads)
    benchmark.name = f"pyoptk.{name}.step, dense"
    benchmark(cls(table, **settings).step, pyoptk.SparseRows(*grad, table.shape).dense())


@pytest.mark.parametrize("count", [512, 8192])
@pytest.mark.parametrize("name", SPARSE)
def bench_sparse_torch(benchmark, name, count, threads):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(threads)
    table, indices, values = rows(benchmark, name, count, threads)
    tensor = torch.nn.Parameter(torch.from_numpy(table))
    indices, values = torch.from_numpy(indices)[None], torch.from_numpy(values)
    opt = getattr(torch.optim, SPARSE[name][2])([tensor], lr=1e-3)
    benchmark.name = f"torch.optim.{SPARSE[name][2]}.step, sparse"

    def step():
        # not coalesced, as a gradient comes from an embedding
        tensor.grad = torch.sparse_coo_tensor(indices, values, table.shape, check_invariants=False)
        opt.step()

    with torch.sparse.check_sparse_tensor_invariants(False):
        benchmark(step)
