"""The rows of single kernels by pytest-benchmark; see conftest.py."""

import functools
import importlib.util
import sys

import pytest
from threadpoolctl import ThreadpoolController

import pyoptk
from pyoptk.duel.contender import Worker
from pyoptk.duel.referee import ASKED

from . import environments, work

LIBRARIES = ThreadpoolController()  # NumPy's BLAS; looking for it takes long
HERE = dict.fromkeys(environments.ENVIRONMENTS, sys.executable)
ENTRIES = {
    entry.name: entry
    for entry in environments.kernels(HERE)
    if entry.name != "PyTorch" or importlib.util.find_spec("torch")
}


@functools.cache
def worker(name, threads):
    entry = ENTRIES[name]
    return Worker([str(file) for file in entry.files], threads, dict(entry.options))


def pytest_generate_tests(metafunc):
    quick = metafunc.config.getoption("quick")
    rows = [*work.kernels(quick), *work.calls()]
    counts = [1] if quick else sorted({1, pyoptk.get_num_threads()})
    metafunc.parametrize("row", rows, ids=[f"{row['task']}-{row['label']}" for row in rows])
    metafunc.parametrize("threads", counts)
    metafunc.parametrize("name", ENTRIES)


def bench_row(benchmark, row, threads, name):
    contender = worker(name, threads)
    case = {key: row[key] for key in ASKED if key in row}
    with LIBRARIES.limit(limits=threads, user_api="blas"):
        if contender.prepare(**case) is None:
            pytest.skip(f"not in {name}")
        benchmark.group, benchmark.name = f"{row['label']}, {threads} threads", name
        calls = max(1, int(20e-6 / contender.seconds)) if contender.before is None else 1
        rounds = int(min(1000, max(3, 0.05 / contender.seconds / calls)))
        before = contender.before and (lambda: contender.before() and None)
        benchmark.pedantic(contender.work, setup=before, rounds=rounds, iterations=calls)
    contender.forget()
    pyoptk.set_num_threads()
