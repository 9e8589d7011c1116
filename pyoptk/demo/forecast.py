"""One row ahead: LSTM(64) -> LSTM(32) -> Linear(1), trained with pyoptk on a real series.

`cell` takes the layers of another cell instead of the LSTM's.

Windows. The model sees changes from row to row, standardized with the mean and the deviation of
the training rows' changes. A window holds the changes of the two seasons before a row, its target
is the change into that row, and the forecast of the row is the last value plus the predicted
change. Training uses the windows whose target lies before the held-out rows; a held-out row is
forecast from the observed rows before it, by weights that have seen none of the held-out rows.
Rows after the last one are forecast in `ahead.py`; what is printed is in `report.py`.
A change next to a filled gap may be an input but is no training target, and is not scored.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import schedules
from ..duel import referee, rows
from . import ahead, plot, report, series
from .ahead import Ahead
from .forecaster import CELLS, LR, MAX_NORM, Forecaster
from .parallel import ParallelForecaster
from .parts import Array, DemoError, Extras, say_what_runs
from .report import CO2, Words
from .series import Series

HELD_OUT = 120
# Chosen on the last 60 training months, not on the held-out ones.
EPOCHS = 100
BATCH = 32
MOST_WINDOWS = 40_000  # shown in all, unless --epochs says otherwise: a longer series, fewer epochs


@dataclass(frozen=True)
class Task:
    """A series divided into windows.

    Attributes
    ----------
    series : Series
    start : int
        The first held-out row.
    windows : float32 array [T, N, 1]
        Standardized changes; column ``k`` belongs to row ``k + T + 1``.
    targets : float32 array [N]
    trainable : int array
        The columns to train on.
    latest : float32 array [T, 1, 1]
        The window of the row after the last.
    mean, deviation : float
        Of the training rows' changes.
    """

    series: Series
    start: int
    windows: Array
    targets: Array
    trainable: NDArray[np.intp]
    latest: Array
    mean: float
    deviation: float


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes
    ----------
    task : Task
    forecasts, errors : dict
        By name, the model first: the held-out rows in the series' unit, mean absolute errors.
    scored : int
        The number of held-out rows over which the errors are means.
    losses : list of float
        Of each step, in standardized changes.
    seconds, samples
        Of the training.
    ahead : Ahead
        The rows after the last.
    step_ms, numpy_step_ms : float
        One training step, by pyoptk and in NumPy, on one thread each; NaN with MPI, and of other
        cells than the LSTM.
    ranks : int
        That trained; 0 without MPI.
    checksum : int
        CRC-32 of the weights.
    """

    task: Task
    forecasts: dict[str, NDArray[np.float64]]
    errors: dict[str, float]
    scored: int
    losses: list[float]
    seconds: float
    samples: int
    ahead: Ahead
    step_ms: float
    numpy_step_ms: float
    ranks: int
    checksum: int


def window_length(season: int) -> int:
    """Two seasons, but at least 8 rows and at most 128."""
    return min(max(2 * season, 8), 128)


def prepare(data: Series, held_out: int | None) -> Task:
    """Divide a series into standardized windows.

    Parameters
    ----------
    data : Series
    held_out : int or None
        Rows kept for the test; None: 120, or a quarter of a shorter series.

    Raises
    ------
    DemoError
        If too few rows are left for training, or if they change by the same amount in every row.
    """
    rows, T = data.values.size, window_length(data.season)
    held = min(HELD_OUT, rows // 4) if held_out is None else held_out
    start = rows - held
    needed = max(T + 1 + BATCH, data.season + 2)
    if start < needed:
        raise DemoError(
            f"{data.name}: too few rows: {rows}, of which {held} are held out;"
            f" season {data.season} needs {needed} to train on"
        )
    changes = np.diff(data.values)
    known = data.observed[1:] & data.observed[:-1]
    trainable = np.flatnonzero(known[T : start - 1])
    if trainable.size < BATCH or not known[start - 1 :].any():
        raise DemoError(f"{data.name}: too few rows whose neighbours have a value, too")
    training = changes[: start - 1][known[: start - 1]]
    mean, deviation = float(training.mean()), float(training.std())
    if not deviation > 2 * np.finfo(np.float64).eps * np.abs(data.values).max():
        raise DemoError(
            f"{data.name}: the change from row to row is the same in all training rows, to the"
            " precision of float64; there is nothing to learn"
        )
    standard = ((changes - mean) / deviation).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(standard[:-1], T).T[:, :, None]
    return Task(
        series=data,
        start=start,
        windows=np.ascontiguousarray(windows),
        targets=standard[T:],
        trainable=trainable,
        latest=standard[-T:, None, None].copy(),
        mean=mean,
        deviation=deviation,
    )


def train(
    model: Forecaster, task: Task, epochs: int, rng: np.random.Generator, extras: Extras
) -> list[float]:
    """Train `model` in place; the loss of each step.

    The learning rate falls from `LR` to 0 along half a cosine.
    """
    batches = -(-task.trainable.size // BATCH)
    steps = epochs * batches
    losses = []
    model.optimizer.lr = schedules.cosine(LR, steps)
    for step in extras.progress(range(steps), "training"):
        if step % batches == 0:
            epoch = np.array_split(rng.permutation(task.trainable), batches)
        batch = epoch[step % batches]
        losses.append(model.step(np.take(task.windows, batch, axis=1), task.targets[batch]))
    return losses


def predict(model: Forecaster, task: Task) -> NDArray[np.float64]:
    """Forecasts of the held-out rows, each from the rows before it."""
    first = task.start - task.windows.shape[0] - 1
    change = model.model.predict(task.windows[:, first:])[:, 0].astype(np.float64)
    return task.series.values[task.start - 1 : -1] + change * task.deviation + task.mean


def evaluate(
    task: Task,
    epochs: int | None,
    seed: int,
    extras: Extras,
    cell: str = "lstm",
    comm: Any = None,
    count: int = 1,
) -> Outcome | None:
    """Train on the training rows, then forecast the held-out ones beside the baselines.

    And `count` rows after the last one.

    None on every rank of `comm` but the first.
    """
    rng = np.random.default_rng(seed)
    model = Forecaster(rng, cell) if comm is None else ParallelForecaster(rng, cell, comm)
    if epochs is None:
        epochs = min(max(MOST_WINDOWS // task.trainable.size, 1), EPOCHS)
    start = time.perf_counter()
    losses = train(model, task, epochs, rng, extras)
    seconds = time.perf_counter() - start
    if comm is not None and comm.rank:
        return None
    name = f"{CELLS[cell].__name__} (pyoptk)"
    forecasts = {
        name: predict(model, task),
        "last value + change a season ago": series.seasonal_change(task.series, task.start),
        "seasonal naive": series.seasonal_naive(task.series, task.start),
        "linear trend + season": series.linear_trend(task.series, task.start),
    }
    errors = {
        key: series.absolute_errors(task.series, task.start, forecast)
        for key, forecast in forecasts.items()
    }
    batch = task.trainable[:BATCH]
    step_ms = numpy_step_ms = math.nan
    if comm is None and cell == "lstm":  # with MPI the other ranks would run at the same time
        step_ms, numpy_step_ms = time_steps(batch.size, len(task.windows))
    return Outcome(
        task=task,
        forecasts=forecasts,
        errors={key: float(error.mean()) for key, error in errors.items()},
        scored=errors[name].size,
        losses=losses,
        seconds=seconds,
        samples=epochs * task.trainable.size,
        ahead=ahead.forecast(model.model, task, count),
        step_ms=step_ms,
        numpy_step_ms=numpy_step_ms,
        ranks=0 if comm is None else comm.size,
        checksum=zlib.crc32(b"".join(param.tobytes() for param in model.model.params.values())),
    )


def time_steps(B: int, T: int) -> tuple[float, float]:
    """Milliseconds of a training step on B windows of T, by pyoptk and in NumPy, by turns."""
    entries = [referee.Entry(n, [referee.OURS / f"{n}.py"]) for n in ("pyoptk", "numpy")]
    (row,) = referee.run(entries, [rows.forecaster(B, T)], threads=1)["rows"]
    return referee.median(row, "pyoptk") * 1e3, referee.median(row, "numpy") * 1e3


def run(
    *,
    data: Path | None = None,
    column: str | None = None,
    season: int = 12,
    missing: Sequence[str] = (),
    decimal: str | None = None,
    held_out: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    output: Path | None = Path("pyoptk-forecast.png"),
    rows_ahead: int | None = None,
    table: Path = Path("pyoptk-forecast.csv"),
    cell: str = "lstm",
    comm: Any = None,
) -> Outcome | None:
    """Train on a series, print the report, save the picture and the forecast.

    Parameters
    ----------
    data : Path or None
        CSV file; None takes the CO2 series that comes with pyoptk.
    column : str or None
        None takes the only column there is beside the first.
    season : int
        Rows per season.
    missing, decimal
        As `series.read` takes them.
    held_out : int or None
        Last rows, kept for the test; None: 120, or a quarter of a shorter series.
    epochs : int or None
        None: 100, fewer for a long series.
    seed : int
        Of the initial weights and of the batches.
    output : Path or None
        The picture; None for no picture.
    rows_ahead : int or None
        Rows after the last to write to `table`, a CSV file; None writes none.
    cell : {"lstm", "gru", "rnn", "mingru"}
        Of the recurrent layers.
    comm : mpi4py.MPI.Comm or None
        The ranks to train on, all of which call this; the first one reports.

    Returns
    -------
    Outcome or None
        None on the other ranks.

    Raises
    ------
    DemoError
        If the data cannot be used; the message is one line and names the place.
    """
    extras = Extras(None if comm is None else comm.rank)
    found = series.read(data, column, season, missing, decimal) if data else series.shipped(season)
    task = prepare(found, held_out)
    if rows_ahead:
        ahead.check(task, rows_ahead)
    title = f"{data.name}: {task.series.column}" if data else ""
    words = Words(title, task.series.column, "", "row") if data else CO2
    if not extras.rank:
        say_what_runs()
        report.task(task, words, CELLS[cell].__name__, f"norm clipped at {MAX_NORM:g}", BATCH)
    outcome = evaluate(task, epochs, seed, extras, cell, comm, rows_ahead or 1)
    if outcome is None:
        return None
    report.outcome(outcome, words)
    if rows_ahead:
        outcome.ahead.write(table, task.series.column)
        print(f"\nforecast: {table}")
    if output is not None:
        extras.picture(lambda figure: plot.forecast(figure, outcome, words), output)
    extras.report()
    return outcome
