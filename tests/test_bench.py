"""The benchmarks: every kernel has its rows, they run, and reports say what was measured."""

import json
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from commands import call

from pyoptk import _optim, reference
from pyoptk.duel import command, contender, picture, referee, rows
from pyoptk.duel.referee import OURS, Entry

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # last, so that an installed pyoptk is found before the source folder

from bench import environments, work

draws = pytest.mark.skipif(find_spec("matplotlib") is None, reason="no matplotlib")

PYOPTK, _, NUMPY, PLAIN, *_ = command.ENTRIES
SMALL = {
    "step": rows.step("Adam", 1_000, count=2, max_norm=0.1, ema_decay=0.9, zero_grad=True),
    "sgd": rows.step("SGD", 1_001),
    "rmsprop": rows.step("RMSprop", 1_001),
    "adagrad": rows.step("AdaGrad", 40_000),
    "lstm": rows.layer(3, 2, 5, 4),
    "lstm64": rows.layer(3, 2, 5, 4, dtype="float64"),
    "packed": rows.layer(4, 3, 5, 4, packed=True),
    "stack": work.stack(3, 2, 5, 4),
    "forecaster": rows.forecaster(3),
    "mlp": rows.mlp(4),
}
EVERY_ROW = list(work.kernels())
TORCH_ALONE = ("packed", "stack")  # is as far as others get


# ---- the rows of the kernels ---------------------------------------------------------------------


def kernels_of_the_library():
    """The members of the kernel tables in pyoptk.h, and the two functions that clip alone."""
    headers = sorted((ROOT / "csrc" / "include").glob("*.h"))
    header = "".join(path.read_text() for path in headers)
    tables = re.findall(
        r"typedef struct \{((?:(?!typedef).)*?)\} pk_\w+_kernels;", header, re.DOTALL
    )
    assert len(tables) == 4
    members = set(re.findall(r"\(\*(\w+)\)", "".join(tables)))
    helpers = {name for name in members if name.endswith(("_size", "_roof"))}
    helpers |= {"padded", "sizes", "partition", "forward", "backward"}  # of all cells
    helpers |= {"read_state", "write_state", "read_param", "write_param"}
    helpers |= {"step", "watched_step"}  # of all optimizers, and of all cells
    helpers |= {"add"}  # of gradients of ranks; bench/ranks.py measures their steps
    (ids,) = re.findall(r"typedef enum \{([^}]*)\} pk_cell_id;", header)
    cells = [cell.lower() for cell in re.findall(r"PK_(\w+)", ids) if cell != "N_CELLS"]
    of_cells = {f"{cell}_{part}" for cell in cells for part in ("forward", "backward", "step")}
    return (
        members - helpers | of_cells | set(_optim.ROWS) | {"clip_by_global_norm", "clip_by_value"}
    )


@pytest.fixture(scope="module")
def kernel_duels():
    """Every row of the kernels in its smallest size, by all who do it here."""
    smallest = {}
    for row in work.kernels(quick=True):
        smallest.setdefault((row["kernel"], row["sizes"]["dtype"]), row)
    entries = environments.kernels(environments.pythons(None, {}))
    chosen = [*smallest.values(), *work.calls()]
    return referee.run(entries, chosen, threads=1, rounds=1, block=0)["rows"]


def test_every_kernel_is_benchmarked_in_each_dtype_beside_its_twin_and_its_roof(kernel_duels):
    assert {row["kernel"] for row in kernel_duels if "kernel" in row} == kernels_of_the_library()
    for row in kernel_duels:
        assert row["errors"] == {}, row["label"]
        if "kernel" in row:
            assert {"pyoptk", "twin", "roof"} <= set(row["seconds"]), row["label"]
            assert row["label"].endswith(", float64") == (row["sizes"]["dtype"] == "float64")
    by_kernel = [(row["kernel"], row["sizes"]["dtype"]) for row in kernel_duels if "kernel" in row]
    assert len(by_kernel) == len(set(by_kernel)) == 2 * len(kernels_of_the_library())


def test_what_stands_beside_the_kernels_is_measured(kernel_duels):
    beside = {row["label"]: set(row["seconds"]) for row in kernel_duels if "kernel" not in row}
    assert len(beside) == 18
    for label, who in beside.items():
        assert "pyoptk" in who
        assert "twin" in who or any(w in label for w in ("dense", "states", "master"))


@pytest.mark.parametrize("only", ["Adam, 1,000", "kernels.adam", "dense"])
def test_a_part_runs_the_rows_whose_labels_say_so(only, tmp_path):
    part = [sys.executable, "-m", "bench", "kernels-1", "--quick", "--only", only]
    part += ["--folder", str(tmp_path)]
    done = subprocess.run(part, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "kernels-1.json").read_text())
    every = [row["label"] for row in [*work.kernels(quick=True), *work.calls()]]
    assert [row["label"] for row in result["rows"]] == [label for label in every if only in label]
    assert all(f"{row['label']}: " in done.stdout for row in result["rows"])
    assert {tuple(row["errors"]) for row in result["rows"]} == {()}


@pytest.mark.parametrize("kernel", sorted({row["kernel"] for row in EVERY_ROW}))
def test_every_row_says_how_much_work_is_in_it(kernel):
    found = [row for row in EVERY_ROW if row["kernel"] == kernel]
    for dtype in ("float32", "float64"):
        small, *_, large = (row for row in found if row["sizes"]["dtype"] == dtype)
        (amount,) = {"bytes", "flop"} & small.keys()
        assert 0 < small[amount] < large[amount]
    assert len({row["label"] for row in found}) == len(found) >= 6


@pytest.mark.parametrize(
    ("cell", "gates", "states"), [("LSTM", 4, 2), ("GRU", 3, 1), ("RNN", 1, 1)]
)
def test_gates_and_states_of_a_cell_are_asked_from_its_layer_and_its_twin(cell, gates, states):
    assert cell in work.CELLS
    assert rows.layer(3, 2, 5, 4, cell=cell)["sizes"]["gates"] == gates
    count = runpy.run_path(str(OURS / "numpy.py"))["states"]
    assert count(getattr(reference, f"{cell.lower()}_forward")) == states


# ---- duels ---------------------------------------------------------------------------------------


def test_contenders_start_from_the_same_numbers_and_arrive_at_the_same():
    result = referee.run([PYOPTK, NUMPY, PLAIN], SMALL.values(), threads=1, rounds=2, block=1e-4)
    assert result["missing"] == {}
    assert set(result["versions"]) == {"pyoptk", "numpy"}
    for row, found in zip(SMALL, result["rows"], strict=True):
        assert found["errors"] == {}, row
        able = {"pyoptk", "NumPy in place"} if row not in TORCH_ALONE else {"pyoptk"}
        assert able <= set(found["seconds"])
        assert all(len(times) == 2 and min(times) > 0 for times in found["seconds"].values())


@pytest.mark.parametrize("row", SMALL)
def test_a_sample_shows_the_work(row):
    """Were the samples those of the inputs, the test above would say nothing."""
    task, sizes = SMALL[row]["task"], SMALL[row]["sizes"]
    worker = contender.Worker([str(OURS / "pyoptk.py")], 1, {})
    shown = worker.prepare(task, sizes, SMALL[row]["settings"])
    inputs = worker.inputs[task](**sizes)
    before = inputs["params"][:1] if task == "step" else [p for w in inputs["weights"] for p in w]
    assert not referee.same(shown, contender.sample(before), 1e-4)


def test_a_contender_that_computes_something_else_is_not_timed(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text((OURS / "numpy.py").read_text().replace("1 - 0.9**t", "1"))
    broken = tmp_path / "broken.py"
    broken.write_text("PACKAGES = ()\ndef step(**given): raise ValueError('no luck')\n")
    entries = [PYOPTK, Entry("wrong", [wrong]), Entry("broken", [broken])]
    (row,) = referee.run(entries, [rows.step("Adam", 100)], threads=1, rounds=1, block=0)["rows"]
    assert list(row["seconds"]) == ["pyoptk"]
    assert row["errors"] == {"wrong": "its numbers are not ours", "broken": "ValueError: no luck"}


def test_what_is_missing_is_named_and_left_out(tmp_path):
    file = tmp_path / "absent.py"
    file.write_text("PACKAGES = ('no-such-package',)\n")
    crash = tmp_path / "crash.py"
    crash.write_text("import os\nos._exit(3)\n")
    nowhere = Entry("nowhere", [file], str(tmp_path / "python"))
    entries = [PYOPTK, Entry("absent", [file]), nowhere, Entry("crash", [crash])]
    result = referee.run(entries, [rows.step("Adam", 100)], threads=1, rounds=1, block=0)
    assert result["missing"] == {
        "absent": "no-such-package",
        "nowhere": f"no {tmp_path / 'python'}",
        "crash": "ended with status 3",
    }
    assert list(result["rows"][0]["seconds"]) == ["pyoptk"]


def test_who_dies_is_lost_alone_and_for_good(tmp_path):
    lost = tmp_path / "lost.py"
    lost.write_text(
        "import os\nPACKAGES = ()\ncalls = []\n"
        "def work():\n    calls.append(1)\n    if len(calls) > 3: os._exit(3)\n"
        "def step(**given): return work\n"
    )
    both = [rows.step("Adam", 100), rows.step("Adam", 200)]
    found = referee.run([PYOPTK, Entry("lost", [lost])], both, threads=1, rounds=2, block=0)
    for row in found["rows"]:
        assert row["errors"] == {"lost": "ended with status 3"}
        assert [len(times) for times in row["seconds"].values()] == [2]


def test_who_does_not_answer_is_ended(tmp_path, monkeypatch):
    slow = tmp_path / "slow.py"
    slow.write_text("import time\nPACKAGES = ()\ndef step(**given): time.sleep(60)\n")
    with referee.Contender(Entry("slow", [slow]), threads=1) as contender_:
        contender_.greet()
        monkeypatch.setattr(referee, "PATIENCE", 0.01)
        said = contender_.ask(task="step", sizes={"count": 1, "n": 1}, settings={})
        assert said == {"error": "ended with status -9"}


def test_an_interrupted_duel_leaves_no_thread_and_no_process(tmp_path, monkeypatch):
    """A timer that outlived the interrupt kept the command alive for another five minutes."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import subprocess, time\nPACKAGES = ()\n"
        "def step(**given):\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "    time.sleep(60)\n"
    )
    started = []
    real = referee.Contender.listen

    def interrupted(contender_):
        started.append(contender_)
        if len(started) == 1:
            return real(contender_)  # the greeting
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        return real(contender_)

    monkeypatch.setattr(referee.Contender, "listen", interrupted)
    before, threads = time.monotonic(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        referee.run([Entry("slow", [slow])], [rows.step("Adam", 1)], threads=1)
    assert time.monotonic() - before < 30
    assert threading.active_count() == threads
    assert all(one.process.returncode is not None for one in started)
    child = Path("/proc") / (tmp_path / "pid").read_text()
    while child.exists() and "Z (zombie)" not in (child / "status").read_text():
        assert time.monotonic() - before < 30
        time.sleep(0.01)


def test_before_is_called_before_every_work_and_not_timed(tmp_path):
    file = tmp_path / "work.py"
    file.write_text(
        "import time\nPACKAGES = ()\ncalls = []\n"
        "def step(**given):\n"
        "    more = {'before': lambda: (time.sleep(0.02), calls.append('before')), 'times': 2}\n"
        "    return lambda: calls.append('work'), None, more\n"
    )
    worker = contender.Worker([str(file)], 1, {})
    assert worker.prepare("step", {"count": 1, "n": 1}, {}) == []
    assert 0 < worker.block(0.05) < 0.01
    calls = worker.tasks["calls"]
    assert calls == ["before", "work"] * (len(calls) // 2)


def test_of_several_ways_to_do_a_task_the_quickest_is_taken(tmp_path):
    file = tmp_path / "work.py"
    file.write_text(
        "import functools, time\nPACKAGES = ()\n"
        "def way(name, seconds): return lambda: time.sleep(seconds), lambda _: [name]\n"
        "def step(**given):\n"
        "    return [functools.partial(way, *some) for some in ((1, 0.01), (2, 1e-4), (3, 0.01))]\n"
    )
    worker = contender.Worker([str(file)], 1, {})
    assert worker.prepare("step", {"count": 1, "n": 1}, {}) == [2.0] * 4


def test_a_row_for_which_there_is_no_memory_is_not_begun(monkeypatch):
    monkeypatch.setattr(referee, "free_memory", lambda: 1000.0)
    (row,) = referee.run([PYOPTK], [rows.step("Adam", 1_000)], threads=1, rounds=1)["rows"]
    assert row["errors"] == {"all": "not enough memory"}


def test_ratios_are_taken_round_by_round():
    row = {"seconds": {"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 4.0], "c": [5.0, 5.0, 5.0]}}
    assert referee.ratios(row, "a", "b") == [1.0, 2.0, 3.0]
    assert referee.ratios(row, "a", "absent") == []
    assert referee.median(row, "a") == 4.0
    assert referee.fastest(row, ["c", "a", "absent"]) == "a"
    assert referee.fastest(row, ["absent"]) == ""
    assert referee.middle(row, "a", "b") == 2.0
    assert referee.middle(row, "absent") == 0.0


def test_the_best_way_of_a_library_is_the_fastest_contender_that_begins_with_its_name():
    row = {"seconds": {"NumPy plain": [3.0], "NumPy in place": [2.0], "NumPyro": [1.0]}}
    assert referee.best(row, "NumPy") == "NumPy in place"
    assert referee.best(row, "JAX") == ""


@pytest.mark.parametrize(
    ("ours", "roof", "said"),
    [
        ([1.0, 1.1, 1.2], [0.9] * 3, ""),
        ([1.0, 1.1, 1.4], [0.9] * 3, "the rounds of 1 of 1 rows are more than 1.3 times apart"),
        ([1.0, 1.1, 1.2], [1.5] * 3, "and 1 rows are faster than their roof"),
        ([1e-6] * 3, [2e-6] * 3, ""),  # the call of the roof is all that takes time
    ],
)
def test_a_busy_machine_is_named(ours, roof, said):
    row = {"label": "a", "task": "step", "seconds": {"pyoptk": ours, "roof": roof}}
    found = referee.noise([row])
    assert said in found
    assert bool(found) == bool(said)
    assert referee.noise([row | {"seconds": {}}]) == ""
    assert "roof" not in referee.noise([row | {"task": "array"}])  # norms: BLAS is no bound


# ---- python -m pyoptk bench ----------------------------------------------------------------------


@draws
@pytest.mark.usefixtures("empty_folder")
def test_the_command_prints_a_table_and_writes_json_and_a_picture(monkeypatch, capsys):
    measure = command.measure
    monkeypatch.setattr(
        command,
        "measure",
        lambda threads: measure(
            [rows.step("Adam", 30_000), rows.layer(3, 2, 5, 4)],
            command.ENTRIES[:4],
            threads=threads,
            rounds=1,
            block=0,
        ),
    )
    assert call("bench", "--threads", "1", "--json", "b.json", "--plot", "b.svg") == 0
    shown = capsys.readouterr().out
    result = json.loads(Path("b.json").read_text())
    assert result["threads"] == 1
    for row in result["rows"]:
        (line,) = (x for x in shown.splitlines() if x.startswith(row["label"]))
        assert referee.duration(referee.median(row, "pyoptk")) in line
        assert f"{referee.ratios(row, referee.best(row, 'NumPy'))[0]:.2f}" in line
        assert "%" in line
    drawn = Path("b.svg").read_text()
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert "LSTM, T 3" in drawn


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            ("--plot", "b.png"),
            r"argument --plot: expected a file name ending in \.svg, got 'b\.png'",
        ),
        (("--json", "no/b.json"), "argument --json: cannot write no/b.json"),
        (("--threads", "0"), "argument --threads: expected a whole number of at least 1, got '0'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(given, expected, capsys):
    assert call("bench", *given) == 2
    assert re.search(f"^pyoptk: error: {expected}$", capsys.readouterr().err.strip())


# ---- pictures ------------------------------------------------------------------------------------


GROUPS = [("one", [("a", 1.0, "1"), ("b", 3.0, "3")]), ("two", [("a", 0.5, "half")])]


@draws
@pytest.mark.parametrize("log", [False, True])
def test_bars_reach_their_values(log):
    figure = picture.bars("title", GROUPS, palette=("a", "b", "absent"), x_title="x", log=log)
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(ends, [1, 3, 0.5])
    assert {bar.get_x() for bar in figure.axes[0].patches} == {float(log)}
    colors = [bar.get_facecolor() for bar in figure.axes[0].patches]
    assert colors[0] == colors[2] != colors[1]
    shown = {e.text for e in ET.fromstring(picture.svg(figure)).iter()}
    assert {"title", "one", "two", "a", "b", "half"} <= shown
    assert "absent" not in shown


@draws
def test_a_picture_is_the_same_each_time_and_dark_where_the_reader_is():
    drawn = {picture.svg(picture.bars("t", GROUPS, palette="ab", x_title="x")) for _ in range(2)}
    assert len(drawn) == 1
    assert "prefers-color-scheme:dark" in drawn.pop()


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert call("bench", "--plot", "b.svg") == 2
    shown = capsys.readouterr().err
    assert shown.endswith("argument --plot: needs matplotlib: python -m pip install matplotlib\n")


@pytest.mark.parametrize(
    ("seconds", "words"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4e-6, "4 us"), (7e-8, "70 ns")]
)
def test_durations_in_words(seconds, words):
    assert referee.duration(seconds) == words
