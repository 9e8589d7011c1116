"""One row ahead: LSTM(64) -> LSTM(32) -> Dense(1), trained with pyoptk on a real series.

`cell` takes the layers of another cell instead of the LSTM's.

Windows. The model sees changes from row to row, standardized with the mean and the deviation of
the training rows' changes. A window holds the changes of the two seasons before a row, its target
is the change into that row, and the forecast of the row is the last value plus the predicted
change. Training uses the windows whose target lies before the held-out rows; a held-out row is
forecast from the observed rows before it, by weights that have seen none of the held-out rows.
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

from ..duel import referee, rows
from . import plot, series
from .dates import listed
from .forecaster import CELLS, LR, MAX_NORM, Forecaster
from .parallel import ParallelForecaster
from .parts import Array, DemoError, Extras, say_what_runs
from .series import Series

HELD_OUT = 120
# Chosen on the last 60 training months, not on the held-out ones.
EPOCHS = 100
BATCH = 32
MOST_WINDOWS = 40_000  # shown in all, unless --epochs says otherwise: a longer series, fewer epochs


@dataclass(frozen=True)
class Task:
    """A series cut into windows.

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
class Words:
    """How a report and a picture name the series, its axis, its unit and its rows."""

    title: str
    axis: str
    unit: str
    row: str


CO2 = Words("CO2 at Mauna Loa, monthly means", "CO2 (ppm)", "ppm", "month")


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes
    ----------
    task : Task
    forecasts, errors : dict
        By name, the model first: the held-out rows in the series' unit, mean absolute errors.
    scored : int
        Held-out rows that the errors are the means of.
    losses : list of float
        Of each step, in standardized changes.
    seconds, seconds_in_pyoptk, samples
        Of the training.
    next_value, spread : float
        The forecast of the row after the last, and what 9 of 10 held-out errors stay below.
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
    seconds_in_pyoptk: float
    samples: int
    next_value: float
    spread: float
    step_ms: float
    numpy_step_ms: float
    ranks: int
    checksum: int


def window_length(season: int) -> int:
    """Two seasons, but at least 8 rows and at most 128."""
    return min(max(2 * season, 8), 128)


def prepare(data: Series, held_out: int | None) -> Task:
    """Cut a series into standardized windows.

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

    The learning rate falls from `LR` to nearly 0 along half a cosine.
    """
    batches = -(-task.trainable.size // BATCH)
    steps = epochs * batches
    losses = []
    for step in extras.progress(range(steps), "training"):
        if step % batches == 0:
            epoch = np.array_split(rng.permutation(task.trainable), batches)
        batch = epoch[step % batches]
        model.optimizer.lr = LR * 0.5 * (1 + np.cos(np.pi * step / steps))
        losses.append(model.step(np.take(task.windows, batch, axis=1), task.targets[batch]))
    return losses


def predict(model: Forecaster, task: Task) -> NDArray[np.float64]:
    """Forecasts of the held-out rows, each from the rows before it."""
    first = task.start - task.windows.shape[0] - 1
    parts = [
        model.forward(np.ascontiguousarray(task.windows[:, k : k + 256]))
        for k in range(first, task.windows.shape[1], 256)
    ]
    change = np.concatenate(parts).astype(np.float64) * task.deviation + task.mean
    return task.series.values[task.start - 1 : -1] + change


def predict_next(model: Forecaster, task: Task) -> float:
    """The forecast of the row after the last, which nobody knows yet."""
    change = float(model.forward(task.latest)[0]) * task.deviation + task.mean
    return float(task.series.values[-1]) + change


def evaluate(
    task: Task, epochs: int | None, seed: int, extras: Extras, cell: str = "lstm", comm: Any = None
) -> Outcome | None:
    """Train on the training rows, then forecast the held-out ones beside the baselines.

    None on every rank of `comm` but the first.
    """
    rng = np.random.default_rng(seed)
    model = Forecaster(rng, cell) if comm is None else ParallelForecaster(rng, cell, comm)
    if epochs is None:
        epochs = min(max(MOST_WINDOWS // task.trainable.size, 1), EPOCHS)
    start = time.perf_counter()
    losses = train(model, task, epochs, rng, extras)
    seconds, inside = time.perf_counter() - start, model.watch.seconds
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
    if comm is None and cell == "lstm":  # else the other ranks would run beside it
        step_ms, numpy_step_ms = time_steps(batch.size, len(task.windows))
    return Outcome(
        task=task,
        forecasts=forecasts,
        errors={key: float(error.mean()) for key, error in errors.items()},
        scored=errors[name].size,
        losses=losses,
        seconds=seconds,
        seconds_in_pyoptk=inside,
        samples=epochs * task.trainable.size,
        next_value=predict_next(model, task),
        spread=float(np.quantile(errors[name], 0.9)),
        step_ms=step_ms,
        numpy_step_ms=numpy_step_ms,
        ranks=0 if comm is None else comm.size,
        checksum=zlib.crc32(b"".join(param.tobytes() for param in model.params.values())),
    )


def time_steps(B: int, T: int) -> tuple[float, float]:
    """Milliseconds of a training step on B windows of T, by pyoptk and in NumPy, by turns."""
    entries = [referee.Entry(n, [referee.OURS / f"{n}.py"]) for n in ("pyoptk", "numpy")]
    (row,) = referee.run(entries, [rows.forecaster(B, T)], threads=1)["rows"]
    return referee.median(row, "pyoptk") * 1e3, referee.median(row, "numpy") * 1e3


def beaten_by(outcome: Outcome) -> list[str]:
    """The baselines that the model does not beat."""
    (_, ours), *baselines = outcome.errors.items()
    return [name for name, error in baselines if not ours < error]


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
    cell: str = "lstm",
    comm: Any = None,
) -> Outcome | None:
    """Train on a series, print the report, save the picture.

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
    words = (
        Words(f"{data.name}: {task.series.column}", task.series.column, "", "row") if data else CO2
    )
    if not extras.rank:
        say_what_runs()
        _print_task(task, words, CELLS[cell].__name__)
    outcome = evaluate(task, epochs, seed, extras, cell, comm)
    if outcome is None:
        return None
    _print_outcome(outcome, words)
    if output is not None:
        extras.picture(lambda figure: plot.forecast(figure, outcome, words), output)
    extras.report()
    return outcome


def _print_task(task: Task, words: Words, cell: str) -> None:
    data, labels, start = task.series, task.series.labels, task.start
    print(words.title)
    print(f"  rows       {len(labels)}, {labels[0]} to {labels[-1]}, season {data.season}")
    gaps = data.gaps()
    for word, sentence in data.notes:
        print(f"  {word:10} {sentence}")
    if gaps:
        filled = np.count_nonzero(~data.observed)
        print(f"  gaps       {filled} values interpolated: {listed(gaps)}")
    if data.cut:
        print(f"  cut off    {data.cut} rows without a value at the ends")
    print(f"  held out   {len(labels) - start} rows, {labels[start]} to {labels[-1]}")
    print(
        f"  model      {cell}(64) -> {cell}(32) -> Dense(1), float32,"
        f" on windows of {task.windows.shape[0]} changes"
    )
    print(f"  training   MSE, norm clipped at {MAX_NORM:g}, Adam, batches of {BATCH}", flush=True)


def _print_outcome(outcome: Outcome, words: Words) -> None:
    width = max(map(len, outcome.errors))
    unit = f", {words.unit}" if words.unit else ""
    plural = "" if outcome.scored == 1 else "s"
    title = f"one {words.row} ahead, {outcome.scored} held-out {words.row}{plural}"
    print(f"\n{title:{width}}   mean absolute error{unit}")
    smallest = min((error for error in outcome.errors.values() if error > 0), default=1.0)
    digits = max(0, 2 - math.floor(math.log10(smallest)))
    for name, error in outcome.errors.items():
        print(f"  {name:{width}} {error:20.{digits}f}")
    lost = beaten_by(outcome)
    if lost:
        print(f"  The model does not beat: {', '.join(lost)}.")
    else:
        print("  The model beats all three baselines.")
    print(
        f"\n  next       {outcome.next_value:.{digits}f}{unit.replace(',', '')}, the {words.row}"
        f" after {outcome.task.series.labels[-1]};"
        f" 9 of 10 held-out errors are below {outcome.spread:.{digits}f}"
    )
    print(
        f"  training   {len(outcome.losses)} steps in {outcome.seconds:.1f} s,"
        f" {outcome.samples / outcome.seconds:,.0f} samples per second,"
        f" {outcome.seconds_in_pyoptk / outcome.seconds:.0%} of the time in pyoptk"
    )
    if outcome.ranks:
        plural = "" if outcome.ranks == 1 else "s"
        print(f"  weights    CRC-32 {outcome.checksum:08x}, on {outcome.ranks} rank{plural}")
    if math.isnan(outcome.step_ms):
        return
    print(
        f"  one step   {outcome.step_ms:.2f} ms, in NumPy {outcome.numpy_step_ms:.2f} ms,"
        f" {outcome.numpy_step_ms / outcome.step_ms:.1f} times as long (one thread each)"
    )
