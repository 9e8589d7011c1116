"""The rows after the last one: their forecasts, and a spread from the errors of earlier ones.

`forecast.py` calls it. A forecast of several rows ahead uses the forecasts of the rows before it
as if they were observed. The spread of the k-th row is a quantile, `SHARE`, of the errors of
forecasts k rows ahead from each held-out row, by the same weights, which have seen none of these
rows. It holds if the series goes on as it did there.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _interrupt
from .parts import DemoError

if TYPE_CHECKING:
    from .forecast import Task

Floats = NDArray[np.float64]
SHARE = 0.9
LEAST = 9  # errors: the largest of so many exceeds the next one with a probability of 0.9


@dataclass(frozen=True)
class Ahead:
    """The rows after the last: labels, values [N], and how far off 9 of 10 past ones were [N]."""

    labels: list[str]
    values: Floats
    spread: Floats

    def write(self, path: Path, column: str) -> None:
        """A CSV file with the columns row, the series' own, low and high."""
        text, decimals = io.StringIO(), decimals_of(self.spread[0])
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["row", column, "low", "high"])
        for label, *numbers in zip(
            self.labels,
            self.values,
            self.values - self.spread,
            self.values + self.spread,
            strict=True,
        ):
            table.writerow([label, *(f"{number:.{decimals}f}" for number in numbers)])
        try:
            with _interrupt.held():
                path.write_text(text.getvalue(), "utf-8")
        except OSError as error:
            raise DemoError(f"{path}: cannot save the forecast: {error.strerror}") from error


def decimals_of(number: float) -> int:
    """Decimals that show three digits of `number`."""
    return max(0, 2 - math.floor(math.log10(number))) if number > 0 else 2


def check(task: Task, count: int) -> None:
    """Refuse more rows ahead than the held-out rows have errors for."""
    few = np.flatnonzero(_scored(task, count).sum(axis=0) < LEAST)
    if few.size:
        raise DemoError(
            f"argument --ahead: expected at most {few[0]} rows, of which the held-out rows give"
            f" {LEAST} errors each, got {count}; --holdout N takes more of them"
        )


def forecast(model: Any, task: Task, count: int) -> Ahead:
    """`count` rows after the last, by a model that was trained on `task`."""
    size = task.series.values.size
    return Ahead(
        labels=[task.series.later(k) for k in range(1, count + 1)],
        values=paths(model, task, np.array([size - 1]), count)[0],
        spread=spread(errors(model, task, count)),
    )


def paths(model: Any, task: Task, origins: NDArray[np.intp], count: int) -> Floats:
    """Forecasts [M, count] of the rows after each of M rows, from that row and those before it."""
    T = len(task.windows)
    steps = np.empty((T + count, origins.size, 1), np.float32)
    steps[:T] = np.concatenate([task.windows, task.latest], axis=1)[:, origins - T]
    for k in range(count):
        steps[T + k] = model.predict(steps[k : T + k])
    changes = steps[T:, :, 0].T.astype(np.float64) * task.deviation + task.mean
    rows: Floats = task.series.values[origins, None] + np.cumsum(changes, axis=1)
    return rows


def errors(model: Any, task: Task, count: int) -> Floats:
    """Errors of forecasts 1..count rows ahead, [M, count] from M rows; NaN if not known.

    From each row before a held-out one. A filled row has no true value; and it was filled from the
    row after it, which a forecast from there must not know.
    """
    values, origins = task.series.values, _origins(task)
    made = paths(model, task, origins, count)
    truth = np.append(values, np.zeros(count))[origins[:, None] + np.arange(1, count + 1)]
    return np.where(_scored(task, count), np.abs(made - truth), np.nan)


def spread(errors: Floats) -> Floats:
    """The bound for the next error with a probability of `SHARE`, by column, not decreasing.

    The k-th smallest of n errors, k = ceil(SHARE (n + 1)): the next one is as likely in each of the
    n + 1 places between them (split conformal prediction, Lei et al. 2018), if they are
    exchangeable. If there are fewer than `LEAST`, it is the largest.
    """
    known = np.sort(errors, axis=0)  # NaN last
    n = np.count_nonzero(~np.isnan(errors), axis=0)
    k = np.minimum(np.ceil(SHARE * (n + 1)).astype(np.intp), n)
    found: Floats = np.maximum.accumulate(known[k - 1, np.arange(k.size)])
    return found


def _origins(task: Task) -> NDArray[np.intp]:
    return np.arange(task.start - 1, task.series.values.size - 1)


def _scored(task: Task, count: int) -> NDArray[np.bool_]:
    """Whether the forecasts of `errors` have a true value and do not start from a filled row."""
    observed, origins = np.append(task.series.observed, np.zeros(count, bool)), _origins(task)
    both: NDArray[np.bool_] = (
        observed[origins, None] & observed[origins[:, None] + np.arange(1, count + 1)]
    )
    return both
