"""The demos do what they print; every wrong input ends with one line and exit status 2."""

from pathlib import Path

import numpy as np
import pytest
from commands import (
    CHANGE,
    SEASONAL,
    TREND,
    call,
    swapped,
    wave,
    write,
)

from pyoptk.demo import forecast, series
from pyoptk.demo.forecaster import MAX_NORM, Forecaster
from pyoptk.demo.numpy_step import NumpyForecaster

pytestmark = pytest.mark.usefixtures("empty_folder")

# ---- the shipped series -------------------------------------------------------------------------


def test_shipped_series_is_read_whole_and_its_gaps_are_known():
    data = series.read(forecast.SHIPPED, None, 12)
    assert (data.labels[0], data.labels[-1], len(data.labels)) == ("1958-03", "2001-12", 526)
    assert data.gaps() == ["1958-06", "1958-10", "1964-02 to 1964-04"]
    assert data.values[3] == pytest.approx((data.values[2] + data.values[4]) / 2)


@pytest.mark.parametrize(
    ("baseline", "ppm"),
    [(SEASONAL, 1.53), (TREND, 3.59), (CHANGE, 0.31)],
    ids=lambda x: str(x)[:24],
)
def test_baselines_have_their_known_errors(co2, baseline, ppm):
    error, scored = series.mean_absolute_error(
        co2.series, co2.start, baseline(co2.series, co2.start)
    )
    assert scored == 120
    assert round(error, 2) == ppm


def test_linear_trend_is_the_least_squares_solution(co2):
    index = np.arange(co2.series.values.size)
    design = np.column_stack([index, index[:, None] % 12 == np.arange(12)]).astype(float)
    fit = np.linalg.lstsq(design[: co2.start], co2.series.values[: co2.start], rcond=None)[0]
    np.testing.assert_allclose(TREND(co2.series, co2.start), design[co2.start :] @ fit, rtol=1e-9)


def test_held_out_rows_do_not_touch_what_is_trained_on(co2):
    values = co2.series.values.copy()
    values[co2.start :] += np.arange(120) ** 2
    other = forecast.prepare(
        series.Series("", "", co2.series.labels, values, co2.series.observed, 12, 0), None
    )
    assert (other.mean, other.deviation) == (co2.mean, co2.deviation)
    np.testing.assert_array_equal(other.trainable, co2.trainable)
    k = co2.trainable
    np.testing.assert_array_equal(other.windows[:, k], co2.windows[:, k])
    np.testing.assert_array_equal(other.targets[k], co2.targets[k])


def test_no_change_next_to_a_gap_is_a_training_target(co2):
    rows = co2.trainable + co2.windows.shape[0] + 1
    assert rows.max() == co2.start - 1
    assert (co2.series.observed[rows] & co2.series.observed[rows - 1]).all()


def test_window_ends_before_its_target(co2):
    k, T = int(co2.trainable[100]), co2.windows.shape[0]
    changes = (np.diff(co2.series.values) - co2.mean) / co2.deviation
    np.testing.assert_allclose(co2.windows[:, k, 0], changes[k : k + T], rtol=1e-5)
    assert co2.targets[k] == pytest.approx(changes[k + T], rel=1e-5)


def test_compiled_and_numpy_training_steps_agree(co2):
    model = Forecaster(np.random.default_rng(0))
    twin = NumpyForecaster(model.params, lr=model.optimizer.lr, max_norm=MAX_NORM)
    batch = co2.trainable[:32]
    windows, targets = np.take(co2.windows, batch, axis=1), co2.targets[batch]
    losses = [(model.step(windows, targets), twin.step(windows, targets)) for _ in range(5)]
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-4)
    assert losses[-1][0] < losses[0][0]


def test_forecast_demo_beats_all_three_baselines(capsys):
    assert call("demo", "--no-plot") == 0
    shown = capsys.readouterr().out
    assert "5 values interpolated: 1958-06, 1958-10, 1964-02 to 1964-04" in shown
    assert "The model beats all three baselines." in shown
    for words in (
        "samples per second",
        "of the time in pyoptk",
        "times as long",
        "held out   120 rows",
    ):
        assert words in shown
    assert float(shown.split("LSTM (pyoptk)")[1].split()[0]) < 0.27
    assert not list(Path().iterdir())


@pytest.mark.usefixtures("_no_duel")
def test_forecast_saves_its_picture():
    pytest.importorskip("matplotlib")
    assert call("demo", "--epochs", "1", "--output", "co2.png") == 0
    assert Path("co2.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_no_duel")
def test_a_model_that_loses_is_reported(capsys):
    assert call("demo", "--epochs", "1", "--no-plot") == 0
    assert "The model does not beat: last value + change a season ago" in capsys.readouterr().out


# ---- the user's own series ----------------------------------------------------------------------


@pytest.mark.usefixtures("_no_duel")
def test_own_series_with_gaps_and_empty_ends_is_forecast(capsys):
    cells = swapped(wave(), r1="", r2="nan", r40="", r60="NaN", r120="")
    own = write(cells)
    arguments = ("--column", "x", "--season", "4", "--epochs", "1", "--no-plot")
    assert call("demo", "--data", own, *arguments) == 0
    shown = capsys.readouterr().out
    assert "rows       117, d3 to d119, season 4" in shown
    assert "gaps       2 values interpolated: d40, d60" in shown
    assert "cut off    3 rows without a value at the ends" in shown
    assert "held out   29 rows, d91 to d119" in shown


def test_row_next_to_a_held_out_gap_is_not_scored():
    data = series.read(Path(write(swapped(wave(), r110=""))), None, 4)
    task = forecast.prepare(data, 20)
    error, scored = series.mean_absolute_error(data, 100, SEASONAL(data, 100))
    assert (task.start, scored) == (100, 18)
    assert np.isfinite(error)


def test_single_column_file_is_labelled_by_line():
    Path("own.csv").write_text("x\n" + "\n".join(wave()) + "\n")
    data = series.read(Path("own.csv"), None, 4)
    assert (data.labels[0], data.labels[-1]) == ("line 2", "line 121")


def test_byte_order_mark_and_windows_line_ends_are_read():
    text = "\ufeffday,x\r\n" + "\r\n".join(f"d{k},{v}" for k, v in enumerate(wave())) + "\r\n"
    Path("own.csv").write_bytes(text.encode())
    assert series.read(Path("own.csv"), "x", 4).values.size == 120


NAMED = "own.csv, column 'x': "
# text of the file or cells of its column x, further arguments, the one line that is printed
WRONG_DATA = {
    "missing file": (None, (), "own.csv: No such file or directory"),
    "no text": (b"day,x\nd1,\xff\n", (), "own.csv, line 2: expected UTF-8 text"),
    "empty file": (b"", (), "own.csv, line 1: expected a header, got nothing"),
    "missing column": (
        wave(),
        ("--column", "price"),
        "own.csv, line 1: no column 'price'; there are 'day', 'x'",
    ),
    "several columns": (
        b"day,x,y\nd1,1,2\n",
        (),
        "own.csv, line 1: several columns, choose with --column: 'day', 'x', 'y'",
    ),
    "column twice": (b"x,x\n1,2\n", (), "own.csv, line 1: column 'x' stands there twice"),
    "no header": (b"d1,1.5\n", (), "own.csv, line 1: expected column names, got the number 1.5"),
    "text": (
        swapped(wave(), r7="n/a"),
        (),
        "own.csv, line 8, column 'x': expected a number, got 'n/a'",
    ),
    "infinity": (
        swapped(wave(), r7="inf"),
        (),
        "own.csv, line 8, column 'x': expected a number of at most 1e+30, got inf",
    ),
    "decimal comma": (
        swapped(wave(), r7="1,5"),
        (),
        "own.csv, line 8: expected 2 cells as in the header, got 3",
    ),
    "long gap": (
        swapped(wave(), r7="", r8="nan"),
        (),
        (
            "own.csv, lines 8-9, column 'x': 2 missing in a row;"
            " at most 1 can be interpolated (a quarter of season 4)"
        ),
    ),
    "gap and short season": (
        swapped(wave(), r7=""),
        ("--season", "3"),
        (
            "own.csv, line 8, column 'x': 1 missing in a row;"
            " at most 0 can be interpolated (a quarter of season 3)"
        ),
    ),
    "no values": (["", "", "nan"], (), NAMED + "expected numbers, got no value in 3 rows"),
    "no rows": ([], (), NAMED + "expected numbers, got no value in 0 rows"),
    "few rows": (
        wave(40),
        (),
        NAMED + "too few rows: 40, of which 10 are held out; season 4 needs 41 to train on",
    ),
    "much held out": (
        wave(),
        ("--holdout", "100"),
        NAMED + "too few rows: 120, of which 100 are held out; season 4 needs 41 to train on",
    ),
    "long season": (
        wave(),
        ("--season", "365"),
        NAMED + "too few rows: 120, of which 30 are held out; season 365 needs 367 to train on",
    ),
    "every other row missing": (
        [cell if k % 2 else "" for k, cell in enumerate(wave())],
        (),
        NAMED + "too few rows whose neighbours have a value, too",
    ),
    "constant": (
        ["7"] * 120,
        (),
        NAMED + "the change from row to row is the same in all training rows;"
        " there is nothing to learn",
    ),
    "straight line": (
        [f"{k / 10}" for k in range(120)],
        (),
        NAMED + "the change from row to row is the same in all training rows;"
        " there is nothing to learn",
    ),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_unusable_data_gets_one_line_that_names_the_place(case, capsys):
    content, arguments, line = WRONG_DATA[case]
    if isinstance(content, bytes):
        Path("own.csv").write_bytes(content)
    elif content is not None:
        write(content)
    season = () if "--season" in arguments else ("--season", "4")
    assert call("demo", "--no-plot", "--data", "own.csv", *season, *arguments) == 2
    assert capsys.readouterr() == ("", f"pyoptk: error: {line}\n")


WRONG_ARGUMENTS = {
    ("demo", "--season", "0"): "--season: expected a whole number of at least 1, got '0'",
    ("demo", "--season", "x"): "--season: expected a whole number of at least 1, got 'x'",
    ("demo", "--epochs", "0"): "--epochs: expected a whole number of at least 1, got '0'",
    ("demo", "--holdout", "-1"): "--holdout: expected a whole number of at least 1, got '-1'",
    ("demo", "--threads", "1.5"): "--threads: expected a whole number of at least 1, got '1.5'",
    ("demo", "--seed", "-1"): "--seed: expected a whole number of at least 0, got '-1'",
    ("demo", "--output", "a.jpg"): "--output: expected a file name ending in .png, got 'a.jpg'",
    ("demo", "--output", "no/a.png"): "--output: cannot write no/a.png",
    ("demo", "mlp", "--season", "4"): "--season: not for demo mlp",
    ("demo", "linear", "--data", "a.csv"): "--data: not for demo linear",
}


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS, ids=" ".join)
def test_nonsense_argument_gets_one_line(arguments, capsys):
    assert call(*arguments) == 2
    line = f"pyoptk: error: argument {WRONG_ARGUMENTS[arguments]}\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("arguments", [("dmeo",), ("demo", "gru"), ("demo", "--colour", "red")])
def test_unknown_word_gets_one_line(arguments, capsys):
    assert call(*arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("pyoptk: error: ")
    assert arguments[-1] in shown
    assert shown.count("\n") == 1
