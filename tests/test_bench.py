"""The benchmarks: every kernel has its rows, they run, and reports say what was measured."""

import json
import os
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from commands import call

from pyoptk import _optim
from pyoptk.bench import command, contender, duel, rows, svg
from pyoptk.bench.duel import OURS, Entry

ROOT = Path(__file__).parents[1]
NUMPY = Entry("NumPy", OURS / "numpy.py", options={"implementation": "in place"})
PLAIN = Entry("NumPy, plain", OURS / "numpy.py", options={"implementation": "plain"})
PYOPTK = Entry("pyoptk", OURS / "pyoptk.py")
SMALL = {
    "step": rows.step("Adam", 1_000, count=2, max_norm=0.1, ema_decay=0.9, zero_grad=True),
    "sgd": rows.step("SGD", 1_001),
    "rmsprop": rows.step("RMSprop", 1_001),
    "adagrad": rows.step("AdaGrad", 40_000),
    "lstm": rows.lstm(3, 2, 5, 4),
    "lstm64": rows.lstm(3, 2, 5, 4, dtype="float64"),
    "packed": rows.lstm(4, 3, 5, 4, packed=True),
    "stack": rows.stack(3, 2, 5, 4),
    "forecaster": rows.forecaster(3),
    "mlp": rows.mlp(4),
}
TORCH_ALONE = ("packed", "stack")  # is as far as others get


# ---- the rows of the kernels ---------------------------------------------------------------------


def kernels_of_the_library():
    """The members of the kernel tables in pyoptk.h, and the two functions that clip alone."""
    header = (ROOT / "csrc" / "include" / "pyoptk.h").read_text()
    tables = re.findall(
        r"typedef struct \{((?:(?!typedef).)*?)\} pk_\w+_kernels;", header, re.DOTALL
    )
    assert len(tables) == 2
    members = set(re.findall(r"\(\*(\w+)\)", "".join(tables)))
    helpers = {name for name in members if name.endswith(("_size", "_sizes", "_roof"))}
    helpers |= {"padded", "step"}  # the step of all optimizers
    return members - helpers | set(_optim.ROWS) | {"clip_by_global_norm", "clip_by_value"}


def test_every_kernel_is_benchmarked_in_each_dtype_beside_its_twin_and_its_roof():
    environment = os.environ | {"PYTEST_ADDOPTS": "-p no:cacheprovider"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "bench", "--quick", "--benchmark-disable", "-v"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    passed = set(re.findall(r"\[(\w+)-(float\d\d)-.*-1-(\w+)\] PASSED", done.stdout))
    assert kernels_of_the_library() == {kernel for kernel, _, _ in passed}
    for kernel in kernels_of_the_library():
        for dtype in ("float32", "float64"):
            for who in ("ours", "twin", "roof"):
                assert (kernel, dtype, who) in passed


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("bench_*.py")), ids=lambda p: p.stem)
def test_every_row_tells_how_much_work_is_in_it(path):
    module = runpy.run_path(str(path))
    for kernel in module.get("KERNELS", ()):
        small, large = (module["work"](kernel, "float32", module["SIZES"][i]) for i in (0, -1))
        assert small.keys() == large.keys()
        assert all(0 < small[key] < large[key] for key in small)
        assert set(small) <= {"bytes", "flop"}


# ---- duels ---------------------------------------------------------------------------------------


def test_contenders_start_from_the_same_numbers_and_arrive_at_the_same():
    result = duel.run([PYOPTK, NUMPY, PLAIN], SMALL.values(), threads=1, rounds=2, block=1e-4)
    assert result["missing"] == {}
    assert set(result["versions"]) == {"pyoptk", "numpy"}
    for row, found in zip(SMALL, result["rows"], strict=True):
        assert found["errors"] == {}, row
        assert {"pyoptk", *(["NumPy"] if row not in TORCH_ALONE else [])} <= set(found["seconds"])
        assert all(len(times) == 2 and min(times) > 0 for times in found["seconds"].values())


@pytest.mark.parametrize("row", SMALL)
def test_a_sample_shows_the_work(row):
    """Were the samples those of the inputs, the test above would say nothing."""
    task, sizes = SMALL[row]["task"], SMALL[row]["sizes"]
    worker = contender.Worker(str(OURS / "pyoptk.py"), 1, {})
    shown = worker.prepare(task, sizes, SMALL[row]["settings"])
    inputs = contender.INPUTS[task](**sizes)
    before = inputs["params"][:1] if task == "step" else [p for w in inputs["weights"] for p in w]
    assert not duel.same(shown, contender.sample(before), duel.TOLERANCE[task])


def test_a_contender_that_computes_something_else_is_not_timed(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text((OURS / "numpy.py").read_text().replace("1 - 0.9**t", "1"))
    broken = tmp_path / "broken.py"
    broken.write_text("PACKAGES = ()\ndef step(**given): raise ValueError('no luck')\n")
    entries = [PYOPTK, Entry("wrong", wrong), Entry("broken", broken)]
    (row,) = duel.run(entries, [rows.step("Adam", 100)], threads=1, rounds=1, block=0)["rows"]
    assert list(row["seconds"]) == ["pyoptk"]
    assert row["errors"] == {"wrong": "its numbers are not ours", "broken": "ValueError: no luck"}


def test_what_is_missing_is_named_and_left_out(tmp_path):
    file = tmp_path / "absent.py"
    file.write_text("PACKAGES = ('no-such-package',)\n")
    crash = tmp_path / "crash.py"
    crash.write_text("import os\nos._exit(3)\n")
    nowhere = Entry("nowhere", file, str(tmp_path / "python"))
    entries = [PYOPTK, Entry("absent", file), nowhere, Entry("crash", crash)]
    result = duel.run(entries, [rows.step("Adam", 100)], threads=1, rounds=1, block=0)
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
        "def step(**given): return work, list\n"
    )
    both = [rows.step("Adam", 100), rows.step("Adam", 200)]
    found = duel.run([PYOPTK, Entry("lost", lost)], both, threads=1, rounds=2, block=0)
    for row in found["rows"]:
        assert row["errors"] == {"lost": "ended with status 3"}
        assert [len(times) for times in row["seconds"].values()] == [2]


def test_who_does_not_answer_is_ended(tmp_path, monkeypatch):
    slow = tmp_path / "slow.py"
    slow.write_text("import time\nPACKAGES = ()\ndef step(**given): time.sleep(60)\n")
    with duel.Contender(Entry("slow", slow), threads=1) as contender_:
        contender_.greet()
        monkeypatch.setattr(duel, "PATIENCE", 0.01)
        contender_.tell(task="step", sizes={"count": 1, "n": 1}, settings={})
        assert contender_.listen() == {"error": "ended with status -9"}


def test_a_row_for_which_there_is_no_memory_is_not_begun(monkeypatch):
    monkeypatch.setattr(duel, "free_memory", lambda: 1000.0)
    (row,) = duel.run([PYOPTK], [rows.step("Adam", 1_000)], threads=1, rounds=1)["rows"]
    assert row["errors"] == {"all": "not enough memory"}


def test_ratios_are_taken_round_by_round():
    row = {"seconds": {"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 4.0], "c": [5.0, 5.0, 5.0]}}
    assert duel.ratios(row, "a", "b") == [1.0, 2.0, 3.0]
    assert duel.ratios(row, "a", "absent") == []
    assert duel.median(row, "a") == 4.0
    assert duel.fastest(row, ["c", "a", "absent"]) == "a"
    assert duel.fastest(row, ["absent"]) == ""


# ---- python -m pyoptk bench ----------------------------------------------------------------------


@pytest.mark.usefixtures("empty_folder")
def test_the_command_prints_a_table_and_writes_json_and_a_picture(monkeypatch, capsys):
    measure = command.measure
    monkeypatch.setattr(
        command,
        "measure",
        lambda threads: measure(
            [rows.step("Adam", 30_000), rows.lstm(3, 2, 5, 4)],
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
        assert command.duration(duel.median(row, "pyoptk")) in line
        assert (
            f"{duel.ratios(row, duel.fastest(row, command.PEERS['NumPy']), 'pyoptk')[0]:.2f}"
            in line
        )
        assert "%" in line
    picture = Path("b.svg").read_text()
    assert ET.fromstring(picture).tag.endswith("svg")
    assert "LSTM, T 3" in picture


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


def test_a_line_chart_shows_every_point_and_name_inside_the_picture():
    series = [
        svg.Series("a < b", [(1e3, 0.5), (1e6, 80.0)], 0),
        svg.Series("c", [(1e3, 2.0), (1e6, 79.0)], 1, measured=False),
    ]
    root = ET.fromstring(svg.lines("title", series, x_title="x", y_title="y"))
    width, height = float(root.get("width")), float(root.get("height"))
    words = {e.text: e for e in root.iter() if e.tag.endswith("text")}
    assert {"a < b", "c", "title", "10 k", "0.5"} <= set(words)
    assert abs(float(words["a < b"].get("y")) - float(words["c"].get("y"))) >= 15
    marks = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(marks) == 2
    for e in [*marks, *words.values()]:
        assert 0 <= float(e.get("cx") or e.get("x")) <= width
        assert 0 <= float(e.get("cy") or e.get("y")) <= height


def test_bars_are_as_long_as_their_values():
    groups = [("one", [("a", 1.0, "1"), ("b", 3.0, "3")]), ("two", [("a", 2.0, "2")])]
    root = ET.fromstring(svg.bars("title", groups, palette=("a", "b"), x_title="x"))
    drawn = [e for e in root.iter() if e.tag.endswith("rect") and e.get("height") == "15"]
    widths = [float(e.get("width")) for e in drawn]
    np.testing.assert_allclose(np.divide(widths, widths[0]), [1, 3, 2], rtol=1e-2)


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (0.9, 12, [1, 2, 5, 10]),
        (900, 6e7, [1e3, 1e4, 1e5, 1e6, 1e7]),
        (3, 4, []),
    ],
)
def test_ticks_of_a_logarithmic_axis(least, most, expected):
    np.testing.assert_allclose(svg.log_ticks(least, most), expected)


@pytest.mark.parametrize(("most", "expected"), [(0.9, 0.2), (7, 1), (8, 2), (123, 20)])
def test_ticks_of_a_linear_axis(most, expected):
    ticks = svg.ticks(most)
    np.testing.assert_allclose(np.diff(ticks), expected)
    assert ticks[0] == 0
    assert ticks[-1] >= most * (1 - 1e-9)


@pytest.mark.parametrize(
    ("seconds", "words"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4e-6, "4 us"), (7e-8, "70 ns")]
)
def test_durations_in_words(seconds, words):
    assert command.duration(seconds) == words
