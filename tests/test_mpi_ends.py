"""No rank of `pyoptk.mpi` waits for others in an exception, and no wrong use goes on in silence."""

from pathlib import Path

import pytest
from test_mpi import needs_mpi, start

JOBS = Path(__file__).parent / "ranks/ends.py"


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_in_an_error_waits_for_no_other_and_wrong_uses_are_refused(ranks):
    done = start(ranks, "-m", "mpi4py", JOBS, "leave")
    assert done.returncode == 0, done.stderr


@needs_mpi
@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("crash_averaged", "Stop: the data of this rank are wrong"),
        ("crash_sent", "Stop: the data of this rank are wrong"),
        ("demo", "pyoptk: error: the data.csv: No such file or directory"),
    ],
)
def test_an_exception_in_one_rank_ends_those_that_wait_for_it(job, message):
    options = ("-m", "mpi4py") if job != "demo" else ()
    done = start(2, *options, JOBS, job)
    assert done.returncode != 0
    assert message in done.stderr


@needs_mpi
def test_shared_is_ordinary_memory_in_a_single_rank_and_may_then_be_used_anyhow(tmp_path):
    done = start(1, "-m", "mpi4py", JOBS, "alone")
    assert done.returncode == 0, done.stderr
