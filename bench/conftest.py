"""The rows of the benchmarks: ``pytest bench`` runs them all, ``pytest bench --quick`` a part.

The rows come from kernel.py. In its group stand, beside the kernel, its NumPy twin, the roof (as
many bytes streamed, or as many multiply-adds) and PyTorch when it is installed. Only ratios inside
a group mean anything: the machine is never quiet.
"""

import functools
import importlib.metadata
import os
import time

os.environ.pop("OPENBLAS_CORETYPE", None)  # pinning NumPy's BLAS would flatter us

import pytest
from threadpoolctl import ThreadpoolController

import pyoptk
from pyoptk.bench import machine

from .kernel import CONTENDERS, rows_of

LIBRARIES = ThreadpoolController()  # NumPy's BLAS; looking for it takes long


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="small sizes and one thread only")


def pytest_configure(config):
    seconds = 0.02 if config.getoption("quick") else 0.05
    config.option.benchmark_max_time = seconds
    config.option.benchmark_min_time = seconds / 50  # as many rounds say enough
    config.option.benchmark_min_rounds = 3
    config.option.benchmark_disable_gc = True
    config.option.benchmark_warmup = False  # calibration calls it often enough


def pytest_benchmark_update_machine_info(config, machine_info):
    names = ("pyoptk", "numpy", *(["torch"] if "torch" in CONTENDERS else []))
    machine_info["versions"] = {name: importlib.metadata.version(name) for name in names}
    machine_info["described"] = machine.describe()


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        rows = list(rows_of(metafunc.module, metafunc.config.getoption("quick")))
        metafunc.parametrize("row", rows, ids=["-".join(map(str, row)) for row in rows])


@pytest.fixture
def timed(benchmark, row, request):
    """Time one row; its name is taken from the function timed."""
    kernel, dtype, size, threads, contender = row
    module = request.module
    if contender == "torch":
        import torch

        torch.set_num_threads(threads)
    pyoptk.set_num_threads(threads)
    with LIBRARIES.limit(limits=threads, user_api="blas"):
        call, before = with_setup(getattr(module, contender)(kernel, dtype, size, threads))
        words = module.describe(size)
        benchmark.group = f"{kernel} {dtype} {words}, {threads} thread{'s'[: threads > 1]}"
        benchmark.name = name_of(call)
        keys = ("kernel", "dtype", "size", "threads", "contender")
        benchmark.extra_info |= dict(zip(keys, row, strict=True))
        benchmark.extra_info |= module.work(kernel, dtype, size)
        yield lambda: measure(benchmark, call, before)
    pyoptk.set_num_threads()


def with_setup(made):
    """The call, and what is done before each; most need nothing."""
    return made if isinstance(made, tuple) else (made, None)


def measure(benchmark, call, before):
    if before is None:
        benchmark(call)
        return
    start = time.perf_counter()
    positional, named = before() or ((), {})
    call(*positional, **named)
    seconds = time.perf_counter() - start
    rounds = int(max(3, min(1000, benchmark._max_time / seconds)))
    benchmark.pedantic(call, setup=before, rounds=rounds, warmup_rounds=1)


@pytest.fixture(params=sorted({1, pyoptk.get_num_threads()}))
def threads(request):
    pyoptk.set_num_threads(request.param)
    yield request.param
    pyoptk.set_num_threads()


@pytest.fixture(name="name_of")
def _name_of():
    return name_of


def name_of(call):
    """`numpy.add`, `pyoptk.Adam.step`: what is called, whatever wraps it."""
    while isinstance(call, functools.partial):
        call = call.func
    owner = getattr(call, "__self__", None)
    if owner is None or isinstance(owner, type(os)):  # a function
        name = call.__qualname__
        if name.startswith("_"):  # where PyTorch keeps its own
            name = call.__name__
        return f"{call.__module__ or owner.__name__}.{name}"
    return f"{type(owner).__module__.partition('.')[0]}.{type(owner).__name__}.{call.__name__}"
