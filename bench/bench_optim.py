"""One optimizer step: the kernel, its NumPy twin, the memory roof, and PyTorch when installed."""

import inspect

import numpy as np
import pytest

import pyoptk
from pyoptk import _core, kernels, reference

SIZES = [1_000, 100_000, 1_000_000, 10_000_000]
# Every kernel of tests/test_optim.py: its class, how many state arrays, settings, PyTorch's name
# (None where PyTorch has no such optimizer), and those that PyTorch has fused.
ROWS = {
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
FUSED = ("SGD", "Adagrad", "Adam")


def streams(name):
    """How many arrays a step moves: parameter and states in and out, the gradient in."""
    if name == "lamb":  # a first sweep over the gradient and the moments, another one for the norms
        return 10
    return 2 * (1 + ROWS[name][1]) + 1


def data(size, dtype):
    rng = np.random.default_rng(0)
    return rng.standard_normal(size).astype(dtype), (rng.standard_normal(size) / 100).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ROWS)
def bench_step(benchmark, name, dtype, size, threads):
    benchmark.group = f"{name} {dtype} {size:,} elements, {threads} thread(s)"
    cls, _, settings, _ = ROWS[name]
    param, grad = data(size, dtype)
    opt = cls(param, **settings)
    benchmark.name = f"pyoptk.{cls.__name__}.step"
    benchmark.extra_info["bytes"] = streams(name) * param.nbytes
    benchmark(opt.step, grad)


@pytest.mark.parametrize("cls", [pyoptk.SGD, pyoptk.Adam, pyoptk.Lion])
def bench_cautious_step(benchmark, cls, size, threads):
    name = cls.__name__
    benchmark.group = f"{name.lower()} float32 {size:,} elements, {threads} thread(s)"
    benchmark.name = f"pyoptk.{name}.step, cautious"
    param, grad = data(size, "float32")
    benchmark(cls(param, cautious=True, **ROWS[name.lower()][2]).step, grad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ROWS)
def bench_twin(benchmark, name, dtype, size):
    benchmark.group = f"{name} {dtype} {size:,} elements, 1 thread(s)"
    cls, states, settings, _ = ROWS[name]
    param, grad = data(size, dtype)
    names = inspect.signature(getattr(kernels, name)).parameters
    hyper = {k: v for k, v in cls(param.copy(), **settings).hyper.items() if k in names}
    arrays, twin = [np.zeros_like(param) for _ in range(states)], getattr(reference, name)
    benchmark.name = f"{twin.__module__}.{twin.__name__}"
    benchmark(twin, param, grad, *arrays, step=10, **hyper)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[3]])
def bench_torch(benchmark, name, size, threads):
    torch = pytest.importorskip("torch")
    benchmark.group = f"{name} float32 {size:,} elements, {threads} thread(s)"
    _, _, settings, theirs = ROWS[name]
    torch.set_num_threads(threads)
    param, grad = (torch.from_numpy(a) for a in data(size, "float32"))
    tensor = torch.nn.Parameter(param)
    tensor.grad = grad
    fused = {"fused": True} if theirs in FUSED else {}
    opt = getattr(torch.optim, theirs)([tensor], lr=1e-3, **settings, **fused)
    benchmark.name = f"torch.optim.{theirs}.step"
    benchmark(opt.step)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def bench_roof(benchmark, dtype, size, threads):
    """The streams of Adam with additions only: what memory allows."""
    benchmark.group = f"adam {dtype} {size:,} elements, {threads} thread(s)"
    arrays = [data(size, dtype)[0] for _ in range(4)]
    benchmark.name = "roof of adam's streams"
    benchmark.extra_info["bytes"] = streams("adam") * arrays[0].nbytes
    benchmark(_core.memory_roof, *arrays)


def bench_many_small_tensors(benchmark, threads):
    benchmark.group = f"adam float32 1,000 tensors of 1,000 elements, {threads} thread(s)"
    params, grads = zip(*(data(1_000, "float32") for _ in range(1_000)), strict=True)
    opt = pyoptk.Adam(params)
    benchmark.name = "pyoptk.Adam.step"
    benchmark(opt.step, grads)


# Those that take single rows, with the settings and the name of PyTorch's sparse one.
SPARSE = {
    "SGD": (pyoptk.SGD, {}, "SGD"),
    "AdaGrad": (pyoptk.AdaGrad, {}, "Adagrad"),
    "Adam": (pyoptk.Adam, {"eps_hat": True}, "SparseAdam"),
}


def rows(benchmark, name, count, threads):
    """An embedding of 50,000 x 64, and the gradient of so many of its rows, drawn with return."""
    benchmark.group = f"{name} float32, {count:,} of 50,000 rows of 64, {threads} thread(s)"
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 50_000, count)
    return data((50_000, 64), "float32")[0], indices, data((count, 64), "float32")[1]


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


@pytest.mark.parametrize("age", [1, 10_000])
@pytest.mark.parametrize("who", ["pyoptk.Adam.step", "pyoptk.reference.adam"])
def bench_decayed_moments(benchmark, who, age):
    """A hundred steps with zero gradients, soon after the last one that was none and long after.

    By then both moments are denormal numbers, unless a kernel takes those for zero.
    """
    benchmark.group = "adam float32 10,000 elements, 100 steps with zero gradients, 1 thread(s)"
    benchmark.name = f"{who} after {age:,} of them"
    pyoptk.set_num_threads(1)  # the fixture puts back the default
    param, grad = data(10_000, "float32")
    opt = pyoptk.Adam(param, beta2=0.99)
    names = inspect.signature(kernels.adam).parameters
    hyper = {k: v for k, v in opt.hyper.items() if k in names}
    arrays = [param, *opt.state.values()]

    def step(grad):
        if who == "pyoptk.Adam.step":
            opt.step(grad)
        else:
            reference.adam(param, grad, *arrays[1:], step=10, **hyper)

    def steps(count=100):
        for _ in range(count):
            step(zeros)

    def restore():
        for array, old in zip(arrays, before, strict=True):
            array[...] = old

    zeros = np.zeros_like(grad)
    step(grad)
    steps(age)
    before = [array.copy() for array in arrays]
    benchmark.pedantic(steps, setup=restore, rounds=50)


def bench_global_norm(benchmark, size, threads):
    benchmark.group = f"global_norm float32 {size:,} elements, {threads} thread(s)"
    _, grad = data(size, "float32")
    benchmark.name = "pyoptk.kernels.global_norm"
    benchmark.extra_info["bytes"] = grad.nbytes
    benchmark(kernels.global_norm, [grad])


def bench_global_norm_twin(benchmark, size):
    benchmark.group = f"global_norm float32 {size:,} elements, 1 thread(s)"
    _, grad = data(size, "float32")
    benchmark.name = "pyoptk.reference.global_norm"
    benchmark(reference.global_norm, [grad])
