"""A step for the touched rows of an embedding, beside a dense one and PyTorch's."""

import numpy as np
import pytest

import pyoptk
from pyoptk import reference

# Those that take single rows, with the settings and the name of PyTorch's sparse one.
SPARSE = {
    "SGD": (pyoptk.SGD, {}, "SGD"),
    "AdaGrad": (pyoptk.AdaGrad, {}, "Adagrad"),
    "Adam": (pyoptk.Adam, {"eps_hat": True}, "SparseAdam"),
}


def data(shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def rows(benchmark, name, count, threads):
    """An embedding of 50,000 x 64, and the gradient of so many of its rows, drawn with return."""
    benchmark.group = f"{name} float32, {count:,} of 50,000 rows of 64, {threads} thread(s)"
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 50_000, count)
    return data((50_000, 64)), indices, data((count, 64))


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
def bench_sparse_twin(benchmark, count):
    _, indices, values = rows(benchmark, "SGD", count, 1)
    benchmark.name = "pyoptk.reference.touched_rows"
    benchmark(reference.touched_rows, indices, values)


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
