"""``pytest bench``: the rows of single kernels, for a quick look; a line for each.

The rows, the contenders and the timer are those of ``python -m bench``. ``--quick`` takes small
sizes, one thread and turns too short to mean much.
"""

import pytest

import pyoptk
from pyoptk.duel.referee import fight, gathered

from . import environments, work
from .__main__ import show


def pytest_generate_tests(metafunc):
    def name(row):
        return f"{row.get('kernel', row['task'])}: {row['label']}"

    quick = metafunc.config.getoption("quick")
    metafunc.parametrize("row", [*work.kernels(quick), *work.calls()], ids=name)
    counts = [1] if quick else sorted({1, pyoptk.get_num_threads()})
    metafunc.parametrize("contenders", counts, indirect=True, scope="module")


@pytest.fixture(scope="module")
def contenders(request):
    entries = environments.kernels(environments.pythons(None, {}))
    with gathered(entries, request.param) as (present, _):
        yield present


def bench_row(row, contenders, pytestconfig, capsys):
    quick = pytestconfig.getoption("quick")
    done = fight(contenders, row, rounds=1 if quick else 5, block=0.0 if quick else 0.02)
    with capsys.disabled():
        show(done)
    assert done["errors"] == {}
