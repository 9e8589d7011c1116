"""The command line: the demos do what they say, and each wrong input gets one line and status 2."""

from pathlib import Path

import numpy as np
import pytest
from commands import CHANGE, SEASONAL, TREND, call, wave, write

from pyoptk.demo import forecast, series
from pyoptk.demo.forecaster import MAX_NORM, Forecaster
from pyoptk.demo.numpy_step import NumpyForecaster

pytestmark = pytest.mark.usefixtures("empty_folder")

# ---- the shipped series -------------------------------------------------------------------------


def test_shipped_series_is_read_whole_and_its_gaps_are_known():
    data = series.shipped()
    assert (data.labels[0], data.labels[-1], len(data.labels)) == ("1958-03", "2001-12", 526)
    assert data.gaps() == ["1958-06", "1958-10", "1964-02 to 1964-04"]
    assert data.values[3] == pytest.approx((data.values[2] + data.values[4]) / 2)


@pytest.mark.parametrize(
    ("baseline", "ppm"),
    [(SEASONAL, 1.53), (TREND, 3.59), (CHANGE, 0.31)],
    ids=lambda x: str(x)[:24],
)
def test_baselines_have_their_known_errors(co2, baseline, ppm):
    errors = series.absolute_errors(co2.series, co2.start, baseline(co2.series, co2.start))
    assert errors.size == 120
    assert round(errors.mean(), 2) == ppm


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
    twin = NumpyForecaster(model.model.params, lr=model.optimizer.lr, max_norm=MAX_NORM)
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


@pytest.mark.parametrize(("cell", "name"), [("gru", "GRU"), ("rnn", "RNN"), ("mingru", "minGRU")])
def test_other_cells_are_trained_and_compared_with_the_baselines(cell, name, capsys):
    assert call("demo", "--cell", cell, "--epochs", "2", "--no-plot") == 0
    shown = capsys.readouterr().out
    assert f"{name}(64) -> {name}(32) -> Linear(1)" in shown
    assert 0 < float(shown.split(f"{name} (pyoptk)")[1].split()[0]) < 3
    assert "linear trend + season" in shown
    assert "in NumPy" not in shown


def test_next_row_is_forecast_with_the_spread_of_past_errors(capsys):
    pytest.importorskip("pandas")
    outcome = forecast.run(data=Path(write(wave())), season=4, epochs=30, output=None)
    wanted = [0, 1, 0, -1][120 % 4]  # the wave goes on
    assert abs(outcome.ahead.values[0] - wanted) < 0.5
    task = outcome.task
    errors = series.absolute_errors(task.series, task.start, outcome.forecasts["LSTM (pyoptk)"])
    assert np.count_nonzero(errors <= outcome.ahead.spread[0]) in (27, 28)  # of 30
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("  next"))
    assert "the row after d120; 9 of 10 held-out errors are below" in line


def test_window_of_the_next_row_ends_with_the_last_change(co2):
    changes = (np.diff(co2.series.values) - co2.mean) / co2.deviation
    np.testing.assert_allclose(co2.latest[:, 0, 0], changes[-24:], rtol=1e-5)


# ---- arguments ----------------------------------------------------------------------------------


WRONG_ARGUMENTS = {
    ("demo", "--season", "0"): "--season: expected a whole number of at least 1, got '0'",
    ("demo", "--season", "\u0661"): "--season: expected a whole number of at least 1, got '\u0661'",
    ("demo", "--seed", "1_0"): "--seed: expected a whole number of at least 0, got '1_0'",
    ("demo", "--season", "x"): "--season: expected a whole number of at least 1, got 'x'",
    ("demo", "--epochs", "0"): "--epochs: expected a whole number of at least 1, got '0'",
    ("demo", "--holdout", "-1"): "--holdout: expected a whole number of at least 1, got '-1'",
    ("demo", "--threads", "1.5"): "--threads: expected a whole number of at least 1, got '1.5'",
    ("demo", "--seed", "-1"): "--seed: expected a whole number of at least 0, got '-1'",
    ("demo", "--output", "a.jpg"): "--output: expected a file name ending in .png, got 'a.jpg'",
    ("demo", "--output", "no/a.png"): "--output: cannot write no/a.png",
    ("demo", "mlp", "--season", "4"): "--season: not for demo mlp",
    ("demo", "mlp", "--cell", "gru"): "--cell: not for demo mlp",
    ("demo", "linear", "--data", "a.csv"): "--data: not for demo linear",
    ("demo", "--missing", "-99.9"): "--missing: expected --data as well",
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
