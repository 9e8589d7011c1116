"""``pytest bench`` times the rows of single kernels in this process, for a quick look.

The rows and the contenders are those of ``python -m bench``; pytest-benchmark is the timer. Only
ratios inside a group mean anything. ``--quick`` takes small sizes and one thread.
"""

import functools

import pytest
from threadpoolctl import ThreadpoolController

import pyoptk
from pyoptk.duel.contender import TICK, Worker
from pyoptk.duel.referee import ASKED

from . import environments, work

LIBRARIES = ThreadpoolController()  # NumPy's BLAS; looking for it takes long
ENTRIES = {e.name: e for e in environments.kernels(environments.pythons(None, {}))}
BLOCK = 0.05  # seconds


@functools.cache
def worker(name, threads):
    try:
        return Worker([*map(str, ENTRIES[name].files)], threads, dict(ENTRIES[name].options))
    except ModuleNotFoundError:
        return None


def pytest_generate_tests(metafunc):
    quick = metafunc.config.getoption("quick")
    metafunc.parametrize("row", [*work.kernels(quick), *work.calls()], ids=lambda row: row["label"])
    metafunc.parametrize("threads", [1] if quick else sorted({1, pyoptk.get_num_threads()}))
    metafunc.parametrize("name", ENTRIES)


def bench_row(benchmark, row, threads, name):
    contender = worker(name, threads)
    case = {key: row[key] for key in ASKED if key in row}
    with LIBRARIES.limit(limits=threads, user_api="blas"):
        if contender is None or contender.prepare(**case) is None:
            pytest.skip(f"{name} is not here, or has no such work")
        benchmark.group, benchmark.name = f"{row['label']}, {threads} threads", name
        before = contender.before and (lambda: [contender.before(), None][1])
        calls = 1 if before else max(1, int(TICK / contender.seconds))
        rounds = int(min(1000, max(3, BLOCK / contender.seconds / calls)))
        benchmark.pedantic(contender.work, setup=before, rounds=rounds, iterations=calls)
    contender.forget()
    pyoptk.set_num_threads()
