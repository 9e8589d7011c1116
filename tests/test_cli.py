"""The shorter demos, `info`, and exit statuses of the command line."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import call, swapped, wave, write

import pyoptk
from pyoptk.demo import forecast, linear, mlp
from pyoptk.demo.parts import Extras
from pyoptk.duel.machine import cache_sizes

ROOT = Path(__file__).parents[1]

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
    assert "to install: python -m pip install tqdm matplotlib\n" in shown
    assert not list(Path().iterdir())


def test_a_file_without_pandas_gets_one_line_that_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert call("demo", "--data", write(wave()), "--no-plot") == 2
    wanted = "pyoptk: error: argument --data: needs pandas: python -m pip install pandas\n"
    assert capsys.readouterr() == ("", wanted)


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


def start(*arguments, **environment):
    """`python -m pyoptk` as a process of its own, unbuffered."""
    command = [sys.executable, "-P", "-u", "-m", "pyoptk", *arguments]
    # A shell starts background jobs with SIGINT ignored, and children inherit that: restore it.
    heed = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, preexec_fn=heed, env=os.environ | environment, **pipes)  # noqa: PLW1509


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupt_ends_the_demo_without_a_traceback():
    process = start("demo", "--epochs", "1000000", "--no-plot")
    while "training" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=10)
    assert process.returncode == 130
    assert shown == "\ninterrupted\n"


# Interrupts the process it is loaded into when Python reports this event about such a thing.
INTERRUPTER = """
import os, signal, sys

event, text, times = os.environ["INTERRUPT_AT"].split("|")


def heed(name, arguments):
    if name == event and text in str(arguments[0]) and not sys.is_finalizing():
        for _ in range(int(times)):
            os.kill(os.getpid(), signal.SIGINT)


sys.addaudithook(heed)
"""
DEMO = ("demo", "--epochs", "1", "--no-plot")
LINE = ("demo", "linear", "--output", "own.png")
# What is interrupted: event, part of its first argument, how often; the command.
MOMENTS = {
    "NumPy": ("import|numpy|1", DEMO),
    "within NumPy": ("import|numpy.linalg|1", DEMO),
    "the extension": ("import|pyoptk._core|1", DEMO),
    "the optimizers": ("import|pyoptk.optim|2", ("info",)),
    "the demo": ("import|pyoptk.demo.forecast|1", DEMO),
    "matplotlib": ("import|matplotlib|1", LINE),
    "within matplotlib": ("import|matplotlib.font_manager|2", LINE),
    "a contender's start": ("subprocess.Popen|python|2", DEMO),
    "the bench's contenders": ("subprocess.Popen|python|1", ("bench",)),
    "the picture": ("open|own.png|1", LINE),
    "the picture, twice": ("open|own.png|2", LINE),
    "the data": ("open|own.csv|1", ("demo", "--data", "own.csv")),
}


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupt_ends_a_command_at_once_wherever_it_is(moment, tmp_path):
    at, arguments = MOMENTS[moment]
    if "matplotlib" in moment or "picture" in moment:
        pytest.importorskip("matplotlib")
    if moment == "the data":
        pytest.importorskip("pandas")
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTER)
    write(wave())
    process = start(*arguments, PYTHONPATH=str(tmp_path), INTERRUPT_AT=at)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown.strip() == "interrupted"
    pictures = list(Path().glob("*.png"))
    assert [path.read_bytes()[-8:-4] for path in pictures] in ([], [b"IEND"])


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupt_ends_the_contenders_too():
    process = start("bench")
    while "roof" not in process.stdout.readline():
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("only Linux lists the children")
    process.send_signal(signal.SIGINT)
    contenders = children.read_text().split()
    assert contenders or process.wait(10) == 130
    _, shown = process.communicate(timeout=10)
    assert (process.returncode, shown) == (130, "\ninterrupted\n")
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in contenders):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid):
    """Whether a process runs; a dead one may wait for somebody to ask for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_program_that_imports_pyoptk_keeps_its_handler():
    code = "import signal, pyoptk; print(signal.getsignal(signal.SIGINT).__name__)"
    shown = subprocess.check_output([sys.executable, "-P", "-c", code], text=True)
    assert shown.strip() == "default_int_handler" or signal.getsignal(signal.SIGINT) == 1


@pytest.mark.parametrize(
    ("encoding", "wrong"),
    [("ascii", False), ("cp1252", True), ("utf-8", False)],
)
def test_any_character_can_be_printed_on_any_terminal(encoding, wrong):
    pytest.importorskip("pandas")
    cells = swapped(wave(), r7="\u0663") if wrong else wave()
    write(cells, header="d\u00e4y,CO\u2082 \u6e29")
    arguments = ("demo", "--data", "own.csv", "--season", "4", "--epochs", "1", "--no-plot")
    command = "import sys; from pyoptk.__main__ import main; from pyoptk.demo import forecast\n"
    command += "forecast.time_steps = lambda *_: (1.0, 1.0)\n"  # the slowest part of the demo
    done = subprocess.run(
        [sys.executable, "-P", "-c", command + "sys.exit(main())", *arguments],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == (2 if wrong else 0), done.stderr
    shown = (done.stderr if wrong else done.stdout).decode(encoding)
    assert ("CO\u2082" if encoding == "utf-8" else r"CO\u2082") in shown
    assert b"Traceback" not in done.stderr


def test_version_is_printed(capsys):
    assert call("--version") == 0
    assert capsys.readouterr() == (f"pyoptk {pyoptk.__version__}\n", "")


def test_help_says_on_which_data_the_demos_train(capsys):
    assert call("demo", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "digits of scikit-learn where it is installed, else on made-up points" in shown
    assert "real data" not in shown


@pytest.mark.parametrize("name", ["x", "CO\u2082", "\u6e29\u5ea6", "$a$ " * 30, "w" * 300])
@pytest.mark.usefixtures("_no_duel")
def test_no_picture_cuts_its_text(name, monkeypatch):
    pytest.importorskip("pandas")
    figure = pytest.importorskip("matplotlib.figure").Figure
    cut = []

    def check(self, *_, **__):
        self.draw_without_rendering()
        for axes in self.axes:
            legend = axes.get_legend()
            inside = [axes.title, axes.xaxis.label, axes.yaxis.label]
            for part in inside + (legend.get_texts() if legend else []):
                (left, low), (right, high) = part.get_window_extent().get_points()
                if min(left, low) < 0 or right > self.bbox.width or high > self.bbox.height:
                    cut.append(part.get_text())

    monkeypatch.setattr(figure, "savefig", check)
    write(wave(), header=f"day,{name}", name="w" * 100 + ".csv")
    forecast.run(data=Path("w" * 100 + ".csv"), season=4, epochs=1)
    if name == "x":
        mlp.run(epochs=2)
        linear.run()
        forecast.run(epochs=1)
    assert not cut


def test_closed_output_ends_the_demo_without_a_traceback():
    process = start("demo", "linear", "--no-plot")
    process.stdout.close()
    shown = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 1
    assert shown == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("command", [["info"], ["demo", "linear", "--no-plot", "--epochs", "1"]])
def test_output_that_cannot_be_written_is_one_line(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pyoptk", *command],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"pyoptk: error: {OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))}\n"


def test_a_checkout_that_is_not_compiled_says_so(tmp_path):
    """The package's Python files alone, as in a fresh clone."""
    for path in (ROOT / "pyoptk").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pyoptk"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].startswith(
        "ImportError: pyoptk is not compiled here. In a "
    )
