"""Fixtures of the benchmarks: ``pytest bench`` runs them all, ``pytest bench --quick`` a part.

A row is a kernel x dtype x size x threads; in its group stand the same work by the NumPy twin, the
roof (the same memory streams with additions only, or the FMA peak) and PyTorch when it is
installed. Only ratios inside a group mean anything: the machine is never quiet.
"""

import pytest

import pyoptk


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="small sizes and one thread only")


def pytest_configure(config):
    config.option.benchmark_max_time = 0.2 if config.getoption("quick") else 0.5
    config.option.benchmark_min_rounds = 3
    config.option.benchmark_disable_gc = True


def pytest_generate_tests(metafunc):
    """`threads` runs over 1 and all, `size` over the module's SIZES; --quick takes the first."""
    quick = metafunc.config.getoption("quick")
    if "threads" in metafunc.fixturenames:
        all_threads = pyoptk.get_num_threads()
        metafunc.parametrize("threads", [1] if quick or all_threads == 1 else [1, all_threads])
    if "size" in metafunc.fixturenames:
        sizes = metafunc.module.SIZES
        metafunc.parametrize("size", sizes[:2] if quick else sizes, ids=str)


@pytest.fixture(autouse=True)
def _threads(request):
    if "threads" in request.fixturenames:
        pyoptk.set_num_threads(request.getfixturevalue("threads"))
    yield
    pyoptk.set_num_threads()
