"""The shorter demos, `info`, and exit statuses of the command line."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import (
    call,
)

import pyoptk
from pyoptk.__main__ import cache_sizes
from pyoptk.demo import linear, mlp
from pyoptk.demo.parts import Extras

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_mlp_learns_the_digits_with_every_optimizer(capsys):
    pytest.importorskip("sklearn")
    assert call("demo", "mlp", "--no-plot") == 0
    assert "handwritten digits" in capsys.readouterr().out
    outcomes = mlp.run(output=None)
    assert min(outcome.accuracy for outcome in outcomes.values()) > 0.95
    assert outcomes["Adam"].losses[-1] < outcomes["SGD"].losses[-1]


def test_mlp_without_scikit_learn_says_that_its_data_are_made_up(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    outcomes = mlp.run(output=None)
    shown = capsys.readouterr().out
    assert "made-up data" in shown
    assert "20 -> 64 -> 10" in shown
    assert min(outcome.accuracy for outcome in outcomes.values()) > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_linear_recovers_the_line_to_the_noise(seed):
    outcome = linear.fit(linear.EPOCHS, seed)
    np.testing.assert_allclose(outcome.fitted, outcome.exact, rtol=1e-6)
    assert (np.abs(outcome.fitted - [3, 2]) < 4 * outcome.standard_error).all()


@pytest.mark.parametrize("what", ["mlp", "linear"])
def test_shorter_demos_save_their_picture_under_their_name(what, capsys):
    pytest.importorskip("matplotlib")
    assert call("demo", what, "--epochs", "2", "--seed", "1") == 0
    assert f"picture: pyoptk-{what}.png" in capsys.readouterr().out
    assert Path(f"pyoptk-{what}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_no_duel")
def test_demo_runs_without_its_extra_and_says_what_is_missing(monkeypatch, capsys):
    for name in ("tqdm", "matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert call("demo", "--epochs", "1") == 0
    shown = capsys.readouterr().out
    assert "no progress bar: tqdm is not installed" in shown
    assert "no picture: matplotlib is not installed" in shown
    assert "pip install 'pyoptk[demo]'" in shown
    assert not list(Path().iterdir())


def test_progress_passes_its_work_on():
    assert list(Extras().progress(range(3), "three")) == [0, 1, 2]


def test_info_prints_build_and_machine(capsys):
    assert call("info") == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {name: text.strip() for name, text in shown.items()}
    assert shown["pyoptk"] == pyoptk.__version__
    assert shown["instruction sets built"] == " ".join(pyoptk.isas())
    assert shown["usable here"].split() == [n for n, usable in pyoptk.isas().items() if usable]
    assert shown["chosen"] == pyoptk.isa()
    assert shown["threads"] == f"{pyoptk.get_num_threads()} ({pyoptk.threads_backend()})"
    assert shown["NumPy"] == np.__version__
    assert shown["caches"] == (", ".join(cache_sizes()) or "unknown")


def test_no_command_prints_the_help(capsys):
    assert call() == 0
    shown = capsys.readouterr().out
    assert "info" in shown
    assert "demo" in shown


def start(*arguments):
    """`python -m pyoptk` as a process of its own, unbuffered."""
    command = [sys.executable, "-P", "-u", "-m", "pyoptk", *arguments]
    # A shell starts background jobs with SIGINT ignored, and children inherit that: restore it.
    heed = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed)  # noqa: PLW1509


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupt_ends_the_demo_without_a_traceback():
    process = start("demo", "--epochs", "1000000", "--no-plot")
    while "training" not in process.stdout.readline():
        assert process.poll() is None
    for _ in range(3):  # Python drops an interrupt that comes while it runs a __del__
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, shown = process.communicate(timeout=10)
            break
    process.kill()
    assert process.wait() == 130
    assert shown.strip() == "interrupted"


def test_closed_output_ends_the_demo_without_a_traceback():
    process = start("demo", "linear", "--no-plot")
    process.stdout.close()
    shown = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 1
    assert shown == ""
