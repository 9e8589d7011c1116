"""A series without gaps, and the forecasts that any model has to beat.

`read` takes one column of a CSV file (table.py), `shipped` the series that comes with pyoptk. Gaps
at either end are cut off, gaps inside of up to a quarter of a season are filled by linear
interpolation, and both are reported. What cannot be used raises `DemoError` with file, line and
column.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import table
from .dates import Notes, Rows, label_of
from .parts import DemoError

SHIPPED = Path(__file__).with_name("co2_mauna_loa_monthly.csv")


@dataclass(frozen=True)
class Series:
    """A series without gaps, and where its gaps were.

    Attributes
    ----------
    name : str
        The place to name in an error: file and column.
    column : str
    labels : list of str
        One per row: the first column, or the row's line number.
    values : float64 array [N]
        Gaps filled.
    observed : bool array [N]
        False where the value was filled.
    season : int
        Rows per season.
    cut : int
        Rows without a value that were cut off at the two ends.
    later : function
        The label of the k-th row after the last.
    notes : list of (str, str)
        For the report, what was done with the file: a word and a sentence.
    """

    name: str
    column: str
    labels: list[str]
    values: NDArray[np.float64]
    observed: NDArray[np.bool_]
    season: int
    cut: int
    later: Callable[[int], str] = str
    notes: Notes = field(default_factory=list)

    def gaps(self) -> list[str]:
        """The labels of the filled gaps: ``'1958-06'``, ``'1964-02 to 1964-04'``."""
        spans = []
        for first, last in _runs(~self.observed):
            single = first == last
            spans.append(
                self.labels[first] if single else f"{self.labels[first]} to {self.labels[last]}"
            )
        return spans


def read(
    path: Path,
    column: str | None,
    season: int,
    missing: Sequence[str] = (),
    decimal: str | None = None,
) -> Series:
    """Read one column of a CSV file and fill its gaps.

    Parameters
    ----------
    path : Path
    column : str or None
        Name in the header; None takes the only column that is not the first one.
    season : int
        Rows per season; gaps of up to a quarter of it are interpolated.
    missing : sequence of str
        Cells that stand for a gap, besides `table.GAPS`.
    decimal : str or None
        ``"."`` or ``","``; None finds out.

    Returns
    -------
    Series

    Raises
    ------
    DemoError
        With file, line and column of what cannot be used.
    """
    return _filled(path, *table.read(path, column, missing, decimal), season)


def shipped(season: int = 12) -> Series:
    """The monthly CO2 at Mauna Loa; it takes no pandas."""
    with SHIPPED.open(encoding="ascii", newline="") as file:
        (_, column), *cells = csv.reader(file)
    labels, every = [label for label, _ in cells], np.arange(len(cells))
    values = np.array([float(cell or "nan") for _, cell in cells])
    rows = Rows(every, every + 2, labels, label_of(np.array(labels, "M8[us]")))
    return _filled(SHIPPED, column, rows, values, [], season)


def _filled(
    path: Path, column: str, rows: Rows, raw: NDArray[np.float64], notes: Notes, season: int
) -> Series:
    """The series from its first value to its last."""
    known = np.flatnonzero(~np.isnan(raw))
    name = f"{path}, column '{column}'"
    if known.size == 0:
        raise DemoError(f"{name}: expected numbers, got no value in {raw.size} rows")
    inside = slice(known[0], known[-1] + 1)
    values, observed = raw[inside], ~np.isnan(raw[inside])
    label, last = rows.label, int(known[-1])
    rows = Rows(rows.taken[inside], rows.lines[inside], rows.labels[inside], None)
    _check_gaps(path, column, rows, observed, season)
    index = np.arange(values.size)
    return Series(
        name=name,
        column=column,
        labels=rows.labels,
        values=np.interp(index, index[observed], values[observed]),
        observed=observed,
        season=season,
        cut=raw.size - values.size,
        later=lambda k: label(last + k) if label else f"{rows.labels[-1]} + {k}",
        notes=notes,
    )


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]


def _check_gaps(
    path: Path, column: str, rows: Rows, observed: NDArray[np.bool_], season: int
) -> None:
    longest = season // 4
    for first, last in _runs(~observed):
        length = last - first + 1
        if length <= longest:
            continue
        low, high = sorted((int(rows.lines[first]), int(rows.lines[last])))
        where, which = f"line {low}" if low == high else f"lines {low}-{high}", ""
        if (rows.taken[first : last + 1] < 0).all():
            where, which = f"after line {low}", f", from {rows.labels[first]}"
        raise DemoError(
            f"{path}, {where}, column '{column}': {length} missing in a row{which};"
            f" at most {longest} can be interpolated (a quarter of season {season})"
        )


# ---- baselines ----------------------------------------------------------------------------------


def seasonal_naive(series: Series, start: int) -> NDArray[np.float64]:
    """The value of a season ago, for the rows from `start` on."""
    return series.values[start - series.season : -series.season]


def seasonal_change(series: Series, start: int) -> NDArray[np.float64]:
    """The last value plus the change of a season ago, for the rows from `start` on."""
    v, season = series.values, series.season
    return v[start - 1 : -1] + v[start - season : -season] - v[start - season - 1 : -season - 1]


def linear_trend(series: Series, start: int) -> NDArray[np.float64]:
    """A straight line plus one offset per row of the season, least squares on the rows before
    `start`, for the rows from `start` on."""
    index = np.arange(series.values.size, dtype=np.float64)
    phase = np.arange(series.values.size) % series.season
    count = np.bincount(phase[:start], minlength=series.season)
    mean_index = np.bincount(phase[:start], index[:start], series.season) / count
    mean_value = np.bincount(phase[:start], series.values[:start], series.season) / count
    # The slope from what is left when each offset has taken its mean (Frisch & Waugh 1933).
    across = index[:start] - mean_index[phase[:start]]
    up = series.values[:start] - mean_value[phase[:start]]
    slope = (across @ up) / (across @ across)
    fit: NDArray[np.float64] = mean_value[phase] + slope * (index - mean_index[phase])
    return fit[start:]


def absolute_errors(
    series: Series, start: int, forecast: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The errors of the rows that can be scored.

    A filled row has no truth, and the row after it was used to fill it, so that a forecast of it
    would know the answer: neither is scored.
    """
    fair = (series.observed[1:] & series.observed[:-1])[start - 1 :]
    errors: NDArray[np.float64] = np.abs(series.values[start:] - forecast)[fair]
    return errors
