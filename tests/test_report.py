"""Reports of measurements: bars, tables, pictures, the scaling model, two commits side by side."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pyoptk.duel import referee, rows
from pyoptk.duel.picture import svg

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # last, so that an installed pyoptk is found before the source folder

from bench import __main__ as everything
from bench import bars, compare, environments, pictures, readme, report, roofline, scaling, work

draws = pytest.mark.skipif(find_spec("matplotlib") is None, reason="no matplotlib")
MACHINE = {
    "cpu": "a processor", "cores": 4, "isa": "avx2", "system": "Linux", "python": "3.14.1",
    "date": "2026-01-02", "commit": "abc1234", "command": "python -m bench",
}  # fmt: skip


def result(threads=1, **times):
    """A run in which everybody takes so many seconds for every row, and pyoptk about one."""
    seconds = {"pyoptk": [1.0, 1.25, 0.8], **{name: [time] * 3 for name, time in times.items()}}
    made = [{**row, "seconds": seconds, "errors": {}} for row in work.peers()]
    return {
        "kind": "peers", "threads": threads, "rounds": 3, "block": 0.1, "machine": MACHINE,
        "versions": {"pyoptk": "0.1.0"}, "missing": {"thinc": "thinc"}, "rows": made,
    }  # fmt: skip


# ---- the whole ---------------------------------------------------------------------------------


def test_every_row_of_the_table_of_work_has_a_label_of_its_own():
    for part in (work.kernels(), work.calls(), work.peers(), work.scaling()):
        labels = [row["label"] for row in part]
        assert len(set(labels)) == len(labels) > 9


def test_a_part_that_fails_costs_no_other(monkeypatch, tmp_path, capsys):
    """Nor does the file of an older run stand in for it."""
    (tmp_path / "bad.json").write_text("old")
    made = {"bad": lambda: 1 / 0, "good": lambda: {"machine": {}}}
    monkeypatch.setattr(everything, "parts", lambda options: made)
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed: bad"):
        everything.main()
    assert [path.name for path in tmp_path.iterdir()] == ["good.json"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_parts_can_be_named_and_unknown_ones_are_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(everything, "parts", lambda options: {"one": dict, "two": dict})
    monkeypatch.setattr(sys, "argv", ["bench", "three", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        everything.main()
    assert "expected parts among one, two, got three" in capsys.readouterr().err


# ---- bars ----------------------------------------------------------------------------------------


def test_every_bar_is_about_a_row_that_is_measured():
    found = [(row["label"], bar) for row in work.peers() for bar in row["bars"]]
    assert len(found) == 115
    assert {peer for _, (times, *peers) in found for peer in peers} <= {
        entry.name for entry in environments.peers(environments.pythons(None, {}))
    }
    assert {*bars.REASONS} <= {(label, bar[1]) for label, bar in found}


def test_what_cannot_be_installed_is_named_with_the_reason():
    fails = [sys.executable, "-c", "print('a'); raise ImportError('no wheel')"]
    assert environments.attempt("this", fails) == ["this: ImportError: no wheel"]
    assert environments.attempt("that", [sys.executable, "-c", ""]) == []


def test_a_bar_is_met_by_the_median_against_the_fastest_of_its_peers():
    row = {"label": "label", "task": "step", "sizes": {}}
    row["seconds"] = {"pyoptk": [1.0] * 3, "x": [1.9, 2.0, 9.0], "y": [3.0] * 3}
    for times, met in ((1.99, True), (2.0, True), (2.01, False)):
        (found,) = bars.against((times, "x", "y"), row, 1)
        assert found.met is met
        assert found.what == "label, against x"
        assert found.measured == "2.00 (1.90 to 9.00)"
    assert [*bars.against((1, "absent"), row, 1)] == []


def test_a_bar_that_asks_for_more_than_the_roof_says_so():
    row = {"label": "label", "task": "step", "sizes": {}}
    row["seconds"] = {"pyoptk": [1.0], "x": [2.0], "roof": [0.8]}
    reasons = [next(bars.against((times, "x"), row, 1)).reason for times in (1.9, 2.1, 3)]
    told = "x takes only 2.50 times as long as the roof"
    assert reasons == ["", f"{told}, of which the bar asks for 84%", told]


def test_what_a_layer_spends_its_time_on_is_a_reason_of_last_resort():
    row = {**rows.layer(10, 100, 8, 20), "seconds": {"pyoptk": [1e-4], "x": [2e-4], "roof": [2e-5]}}
    (found,) = bars.against((3, "x"), row, threads=2, cell=1e-9)
    assert found.reason.startswith(
        "of our time the multiply-adds take 20% at their peak and the functions of the cells 10%"
    )
    assert bars.spent({**rows.step("Adam", 10), "seconds": row["seconds"]}, 1, 1e-9) == ""


def test_two_threads_are_held_against_one():
    made = [
        {"label": rows.layer(*size)["label"], "measured": {"1": 1.0, "2": two}}
        for size, two in zip(rows.LSTM, (1.0, 1.01, 0.5, 0.58, 0.59, 0.6, 0.5), strict=True)
    ]
    found = [*bars.of_scaling({"after": [], "families": [{"family": "LSTM", "rows": made}]})]
    assert [one.met for one in found] == [True, False, True, True, False, False, True]


@pytest.mark.parametrize(("seconds", "met"), [(1.4e-6, True), (1.6e-6, False)])
def test_the_cost_of_a_call_is_that_of_a_step_over_16_elements(seconds, met):
    row = {"label": rows.step("Adam", 16)["label"], "measured": {"1": seconds, "2": 9.0}}
    (found,) = bars.of_scaling({"after": [], "families": [{"rows": [row]}]})
    assert found.met is met


# ---- the report ----------------------------------------------------------------------------------


def test_a_step_after_a_product_is_compared_with_itself_and_with_its_roof():
    alone = {"alone": 1.0, "after": 2.0}
    after = [
        {"threads": 1, "batch": 8, "step": alone, "roof": alone},
        {"threads": 2, "batch": 9, "step": alone | {"after": 3}, "roof": {"alone": 2, "after": 3}},
    ]
    met, unmet = bars.of_scaling({"after": after, "families": []})
    assert (met.met, met.measured, met.threads) == (True, "2.00", 1)
    assert (unmet.met, unmet.measured, unmet.threads) == (False, "3.00", 2)
    assert unmet.reason.endswith("takes 1.50 times as long as alone")


def test_losses_are_bold_and_stay():
    row = {"label": "a", "seconds": {"pyoptk": [1.0, 2.0], "x": [0.5, 1.5]}, "errors": {"y": "why"}}
    assert report.with_noise(row, "x") == "**0.62 (0.50 to 0.75)**"
    assert report.with_noise(row, "pyoptk") == "1.00 (1.00 to 1.00)"
    assert report.with_noise(row, "y") == "why"
    row["seconds"]["roof"] = row["seconds"]["x"]
    assert report.with_noise(row, "roof") == "0.62 (0.50 to 0.75)"


@draws
def test_the_report_puts_its_table_into_the_readme_and_writes_the_rest(monkeypatch, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    (tmp_path / "docs").mkdir()
    kept = f"{report.ACCURACY}\n\nmeasured"
    (tmp_path / "docs" / "performance.md").write_text(f"# old\n\n{kept}\n\n## old\n")
    slow = {"roof": 0.5, "NumPy in place": 9.0, "NumPy plain": 12.0, "PyTorch fused": 2.0}
    slow["JAX"] = 0.5
    monkeypatch.setattr(report, "README", page)
    monkeypatch.setattr(report, "DOCS", tmp_path / "docs")
    files = []
    for threads in (2, 1):
        files.append(tmp_path / f"{threads}.json")
        files[-1].write_text(json.dumps(result(threads, **slow)))
    report.write(files)
    lines = page.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "old" not in lines
    assert lines[2].startswith("| 1 thread: how many")
    assert "| Adam, 1,000 elements | float32 | 9.0 | 2.0 | **0.50** (JAX) |" in lines
    text = (tmp_path / "docs" / "performance.md").read_text()
    assert text.index("What is not met yet") < text.index("1 thread\n") < text.index("2 threads\n")
    assert "| Adam, 1,000 elements, against PyTorch fused | 1 | 10 | 2.00 (" in text
    assert "AdaGrad" not in text.partition("![")[0]  # 1.5 is met
    assert "**0.50 (0.40 to 0.62)**" in text
    assert "Not measured: thinc (thinc)." in text
    assert text.endswith(f"\n\n{kept}\n")
    assert "## old" not in text
    shown = re.findall(r"\]\((performance/\w+\.svg)\)", text)
    assert len(shown) == 4
    for name in shown:
        ET.parse(tmp_path / "docs" / name)


def test_kernels_are_shown_with_their_roof_and_their_twin():
    seconds = {"pyoptk": [2e-6] * 3, "twin": [9e-6] * 3, "roof": [1e-6] * 3, "PyTorch": [1e-6] * 3}
    made = [{**row, "seconds": seconds, "errors": {}} for row in work.kernels(quick=True)]
    made += [{**row, "seconds": seconds, "errors": {}} for row in work.calls()]
    text = "\n\n".join(report.kernels([result(1) | {"kind": "kernels", "rows": made}]))
    assert "`python -m bench`: 3 rounds of 0.1 s. a processor, 4 cores" in text
    assert "lie within 0% of its median (median row)" in text
    for kernel in {row["kernel"] for row in work.kernels()}:
        assert f"### {kernel}\n" in text
    assert "| | float32, 1 thread | float64, 1 thread |" in text
    assert "| 1,000 elements | 2 us, 50%, 4.50, **0.50** | 2 us, 50%, 4.50, **0.50** |" in text
    assert "| Adam, 16 elements | 2 us | 4.50 (4.50 to 4.50) |" in text


@draws
def test_pictures_show_the_best_way_of_each_library():
    made = result(**{"PyTorch fused": 3.0, "PyTorch foreach": 2.0, "roof": 0.5})
    assert referee.best(made["rows"][0], "PyTorch") == "PyTorch foreach"
    assert len(pictures.adam_rows(made)) == 6
    for draw in (pictures.speedup, pictures.cost, pictures.roofs, pictures.forecaster):
        picture = svg(draw(made))
        ET.fromstring(picture)
        assert "a processor, 1 thread, 2026-01-02" in picture
        assert "PyTorch" in picture
        assert "JAX" not in picture


# ---- pictures ------------------------------------------------------------------------------------


@draws
def test_a_line_chart_shows_every_point_and_name():
    series = [
        pictures.Series("a < b", [(1e3, 0.5), (1e6, 80.0)], 0),
        pictures.Series("c", [(1e3, 2.0), (1e6, 79.0)], 1, measured=False),
    ]
    figure = pictures.lines("title", series, x_title="x", y_title="y")
    root = ET.fromstring(svg(figure))
    words = {e.text for e in root.iter() if e.tag.endswith("text")}
    assert {"a < b", "c", "title", "10 k", "0.5"} <= words
    measured, computed = figure.axes[0].lines
    assert [*map(tuple, measured.get_xydata())] == series[0].points
    assert (measured.get_marker(), computed.get_marker()) == ("o", "None")
    assert (measured.get_linestyle(), computed.get_linestyle()) == ("-", ":")


@draws
@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [(0.9, 12, [1, 2, 5, 10]), (900, 6e7, [1e3, 1e4, 1e5, 1e6, 1e7])],
)
def test_ticks_of_a_logarithmic_axis(least, most, expected):
    one = pictures.Series("", [(1, least), (2, most)], 0)
    axis = pictures.lines("title", [one], x_title="x", y_title="y").axes[0].yaxis
    ticks = [tick for tick in axis.get_majorticklocs() if least <= tick <= most]
    np.testing.assert_allclose(ticks, expected)


# ---- scaling -------------------------------------------------------------------------------------

CHIP = scaling.Machine(cores=4, l2=1 << 20, l3=1 << 25, l3_cores=8, peak={1: 1e11, 2: 1.8e11})


def test_the_fit_finds_the_terms_that_made_the_times():
    true = {"call": 1e-6, "wake": 3e-6, "bytes from L2": 1e-11, "bytes from memory": 3e-11}
    sizes = [(n,) for n in (16, 1_000, 50_000, 200_000, 10_000_000, 40_000_000)]
    made = []
    for size in sizes:
        terms = {k: scaling.adam_terms(*size, k, CHIP) for k in (1, 2, 4)}
        seconds = {k: scaling.predict(true, t) for k, t in terms.items()}
        made.append({"family": "Adam", "label": str(size), "size": size, "measured": seconds})
    fitted = scaling.model(made, CHIP)
    for name, value in true.items():
        assert fitted["coefficients"][name] == pytest.approx(value, rel=1e-6)
    assert fitted["coefficients"]["contention"] == 0
    assert scaling.errors(fitted, "model", least=3) == pytest.approx([0] * 6, abs=1e-9)


def test_products_are_never_foretold_to_be_faster_than_the_peak():
    terms = scaling.lstm_terms(50, 64, 512, 512, 2, CHIP)
    flop = rows.layer(50, 64, 512, 512)["flop"]
    assert terms[scaling.AT_PEAK] == pytest.approx(flop / 1.8e11)
    assert scaling.fit([(terms, 0.5 * terms[scaling.AT_PEAK])])[scaling.AT_PEAK] == 1.0


@pytest.mark.parametrize(
    ("size", "k", "shared"),
    [
        ((10, 1, 64, 64), 8, False),  # too small for two
        ((10, 32, 64, 64), 8, True),
        ((30, 128, 256, 256), 8, True),
        ((50, 16, 256, 1024), 8, True),  # weights larger than L2: by hidden units
    ],
)
def test_the_recurrence_is_divided_as_c_says(size, k, shared):
    by_rows, by_units, threads = scaling.partition("lstm", "float32", *size, nthreads=k)
    assert (by_rows * by_units > 1) is shared
    assert 1 in (by_rows, by_units)
    assert threads in (1, k)


def test_steps_stay_on_one_thread_below_the_size_of_sweep_h():
    text = (ROOT / "csrc" / "kernels" / "sweep.h").read_text()
    assert int(re.search(r"SERIAL_BELOW =\s+(\d+)", text)[1]) == scaling.SERIAL_BELOW


def test_a_working_set_stays_in_the_smallest_cache_that_holds_it_or_as_much_of_it_as_fits():
    assert CHIP.levels(1 << 20, 1) == {"L2": 1}
    assert CHIP.levels(1 << 21, 1) == {"L3": 1, "memory": 0}
    assert CHIP.levels(1 << 21, 2) == {"L2": 1}
    assert CHIP.levels(1 << 27, 8) == {"L3": 0.25, "memory": 0.75}
    assert CHIP.levels(1 << 27, 16) == {"L3": 0.5, "memory": 0.5}


# ---- the roofline --------------------------------------------------------------------------------

LIMITS = {"bandwidth": {"L2": 1e11, "L3": 5e10, "memory": 2e10}, "cell": 1e-9}


@pytest.mark.parametrize(
    ("size", "seconds", "said"),
    [
        ((50, 64, 512, 512), 0.45, "FMA, at 89% of the peak; then packing, calls and edges"),
        ((50, 64, 512, 512), 1.0, "overhead: 600 ms of packing"),
        ((10, 4, 2048, 2048), 0.14, "bandwidth of memory"),  # 128 MiB of weights for four rows
    ],
)
def test_what_limits_a_shape_is_told_in_words(size, seconds, said):
    machine = vars(CHIP) | {"peak": {"1": 1e11}, "limits": LIMITS}
    shape = roofline.shape(list(size), seconds, machine)
    assert shape.limit().startswith(said)
    assert shape.at_peak + shape.cells + shape.rest == pytest.approx(seconds)
    T, B, I, H = size
    assert shape.at_peak == pytest.approx(24 * B * H * (T * I + (T - 1) * H) / 1e11)


@draws
def test_the_roofline_shows_every_shape_of_the_bars():
    made = [
        {"label": "", "size": list(size), "measured": {"1": rows.layer(*size)["flop"] / 8e10}}
        for size in [*rows.LSTM, (1, 1, 1, 1)]
    ]
    machine = MACHINE | vars(CHIP) | {"peak": {"1": 1e11}, "limits": LIMITS}
    told = {"machine": machine, "families": [{"family": "LSTM", "rows": made}]}
    text = "\n".join(roofline.table(told, report.markdown))
    assert text.count("\n| T ") == len(rows.LSTM)
    figure = roofline.picture(told)
    assert [line.get_marker() for line in figure.axes[0].lines].count("o") == len(rows.LSTM)
    picture = svg(figure)
    ET.fromstring(picture)
    assert "dotted: FMA 100 GFLOP/s; L2, L3, memory: 100, 50, 20 GB/s" in picture


# ---- two commits ---------------------------------------------------------------------------------


def compared(**seconds):
    """A row of compare.py: seconds of the builds, a microsecond where nothing is given."""
    every = {name: [1e-6] * 3 for name in compare.BUILDS} | seconds
    return {"label": "a", "errors": {}, "seconds": {k: v for k, v in every.items() if v}}


@pytest.mark.parametrize(
    ("head", "other_head", "other_base", "said"),
    [
        ([1.3, 1.2, 1.4], [1.3, 1.2, 1.4], [1.0, 1.1, 1.0], "slower"),
        ([0.7, 0.8, 0.6], [0.7, 0.8, 0.6], [1.0, 1.1, 1.0], "faster"),
        ([1.3, 1.2, 0.9], [1.3, 1.2, 1.3], [1.0, 1.0, 1.0], ""),  # not in every round
        ([1.3, 1.2, 1.4], [1.3, 1.2, 1.4], [1.0, 1.5, 1.0], ""),  # base differs as much
        ([1.3, 1.2, 1.4], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], ""),  # where its loops lie
        ([1.02] * 3, [1.02] * 3, [1.0] * 3, ""),  # too little
        ([1.045] * 3, [1.045] * 3, [1.0] * 3, ""),  # 45 ns of a microsecond
        ([], [1.3] * 3, [1.0] * 3, "left out: not in head"),
    ],
)
def test_a_difference_counts_if_it_is_beyond_the_noise(head, other_head, other_base, said):
    given = {"head": head, "head'": other_head, "base'": other_base}
    row = compared(**{name: [t * 1e-6 for t in times] for name, times in given.items()})
    assert compare.verdict(row) == said
    assert compare.line(row).endswith(said)


def test_one_disturbed_round_in_eight_hides_nothing():
    calm = {name: [1.2e-4 if "head" in name else 1e-4] * 9 for name in compare.BUILDS}
    disturbed = calm | {"base": [1e-4] * 8 + [9e-4], "head": [1.2e-4] * 8 + [0.9e-4]}
    assert compare.verdict(compared(**disturbed)) == "slower"
    twice = calm | {"base": [1e-4] * 7 + [9e-4] * 2}
    assert compare.verdict(compared(**twice)) == ""


def test_the_same_45_ns_are_too_little_and_45_us_are_not():
    slow = {name: [1.045e-3 if "head" in name else 1e-3] * 3 for name in compare.BUILDS}
    assert compare.verdict(compared(**slow)) == "slower"


def test_older_commits_need_nothing_but_the_public_interface():
    """compare.py runs these files in environments of commits that have other private modules."""
    for file in environments.FILES["pyoptk"]:
        text = file.read_text()
        assert "pyoptk._" not in text
        assert "import _" not in text
        assert "pyoptk.duel import" not in text


def test_the_quick_set_has_every_kernel_and_rounds_of_several_games_are_one():
    every = {row["kernel"] for row in work.kernels()}
    assert {row["kernel"] for row in work.kernels(quick=True)} == every
    games = [{"rows": [{"label": "a", "errors": {}, "seconds": {"base": [t]}}]} for t in (1, 2)]
    assert compare.pool(games)[0]["seconds"] == {"base": [1, 2]}
