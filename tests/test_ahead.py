"""`demo --ahead`: rows after the last, and whether their spread is what it says."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import call, wave, write

from pyoptk.demo import ahead, forecast
from pyoptk.demo.forecaster import Forecaster
from pyoptk.demo.parts import Extras
from pyoptk.demo.series import Series

pytestmark = pytest.mark.usefixtures("empty_folder")


def noisy(rows):
    values = np.cumsum(np.array(wave(rows), float))
    return Series("", "", list(map(str, range(rows))), values, np.ones(rows, bool), 4, 0)


@pytest.fixture(scope="module")
def trained():
    """A short training on 300 of 400 rows of noise and a season; the task and the model."""
    task, rng = forecast.prepare(noisy(400), 100), np.random.default_rng(0)
    model = Forecaster(rng)
    forecast.train(model, task, 20, rng, Extras(1))
    return task, model.model


def test_nine_of_ten_later_values_are_inside_the_spread(trained):
    task, model = trained
    # 4000 more rows, which the weights have not seen, in the same units.
    later = forecast.prepare(noisy(4400), 4000)
    scale, shift = later.deviation / task.deviation, (later.mean - task.mean) / task.deviation
    parts = {name: getattr(later, name) * scale + shift for name in ("windows", "latest")}
    later = replace(later, mean=task.mean, deviation=task.deviation, **parts)
    blocks = ahead.errors(model, later, 8).reshape(40, 100, 8)[:-1]  # the last ones go on past it
    # The spread is that of a hundred rows, and is tried on the hundred after them.
    inside = [blocks[k + 1] <= ahead.spread(blocks[k]) for k in range(38)]
    # 8 rows ahead a hundred errors are as good as 12: a share deviates by 0.09, its mean by 0.015.
    assert (abs(np.mean(inside, axis=(0, 1)) - 0.9) < 0.045).all()


def test_spread_holds_the_next_of_few_errors_as_often_as_it_says():
    errors = np.abs(np.random.default_rng(0).standard_t(3, (20, 20_000)))
    assert np.mean(
        errors[-1] <= [ahead.spread(e[:-1, None])[0] for e in errors.T]
    ) == pytest.approx(0.9, abs=0.01)


def test_spread_leaves_out_what_is_not_known_and_does_not_fall():
    errors = np.full((30, 3), np.nan)
    errors[:20, 0], errors[:25, 1], errors[:5, 2] = 1, 2, 0.5
    np.testing.assert_array_equal(ahead.spread(errors), [1, 2, 2])


def test_the_first_row_ahead_is_the_forecast_of_the_report(trained):
    task, model = trained
    rows = np.arange(task.start - 1, 399)
    one = ahead.paths(model, task, rows, 3)[:, 0]
    holder = type("", (), {"model": model})
    np.testing.assert_allclose(one, forecast.predict(holder, task), rtol=1e-6)


def test_a_forecast_is_a_step_from_what_was_forecast_before(trained):
    task, model = trained
    values, longer = task.series.values, noisy(400)
    (first, second), *_ = ahead.paths(model, task, np.array([399]), 2)
    assert values[-1] == longer.values[-1]
    change = (first - values[-1] - task.mean) / task.deviation
    window = np.append(task.latest[1:, 0, 0], change).astype(np.float32)[:, None, None]
    step = float(model.predict(window)[0, 0]) * task.deviation + task.mean
    assert second == pytest.approx(first + step, rel=1e-6)


@pytest.mark.usefixtures("_no_duel")
def test_rows_ahead_are_written_as_csv_and_drawn(capsys):
    pytest.importorskip("matplotlib")
    assert call("demo", "--ahead", "14", "--epochs", "1", "--output", "co2.png") == 0
    rows = list(csv.reader(Path("co2.csv").read_text().splitlines()))
    assert rows[0] == ["row", "co2_ppm", "low", "high"]
    assert [row[0] for row in rows[1:]] == [f"{2002 + k // 12}-{k % 12 + 1:02}" for k in range(14)]
    value, low, high = np.array([row[1:] for row in rows[1:]], float).T
    np.testing.assert_allclose(value - low, high - value, atol=0.011)
    assert (np.diff(high - low) > -0.011).all()
    assert abs(value[0] - 372) < 5
    shown = capsys.readouterr().out
    assert "forecast: co2.csv" in shown
    assert "month 14   " in shown
    assert Path("co2.png").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--ahead", "113"),
            (
                "--ahead: expected at most 112 rows, of which the held-out rows give 9 errors each,"
                " got 113; --holdout N takes more of them"
            ),
        ),
        (("--ahead", "0"), "--ahead: expected a whole number of at least 1, got '0'"),
        (("--ahead", "4", "--output", "no/a.png"), "--output: cannot write no/a.png"),
        (
            ("--ahead", "4", "--data", "own.csv", "--output", "own.png"),
            "--output: own.csv is what --data reads",
        ),
    ],
)
def test_rows_ahead_are_refused_before_the_training(arguments, line, capsys):
    write(wave())
    assert call("demo", *arguments) == 2
    assert capsys.readouterr() == ("", f"pyoptk: error: argument {line}\n")


@pytest.mark.usefixtures("_no_duel")
def test_rows_after_labels_without_dates_are_counted():
    pytest.importorskip("pandas")
    data = write(wave())
    arguments = ("--season", "4", "--epochs", "1", "--ahead", "2", "--no-plot")
    assert call("demo", "--data", data, *arguments) == 0
    lines = Path("pyoptk-forecast.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["row", "d120 + 1", "d120 + 2"]
