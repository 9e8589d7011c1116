"""``pytest bench`` times the rows of single kernels in this process, for a quick look.

The rows and the contenders are those of ``python -m bench``; pytest-benchmark is the timer. Only
ratios inside a group mean anything. ``--quick`` takes small sizes and one thread.
"""

import os

os.environ.pop("OPENBLAS_CORETYPE", None)  # pinning NumPy's BLAS would flatter us


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="small sizes and one thread only")


def pytest_configure(config):
    config.option.benchmark_disable_gc = True


collect_ignore = ["contenders"]  # they need libraries that may not be here
