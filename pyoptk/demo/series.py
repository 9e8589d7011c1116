"""Reading a series from a CSV file, its gaps, and the forecasts that any model has to beat.

A file has a header line and one row per step in time, oldest first. The first column, if it is not
the value column, labels the rows. An empty cell or ``nan`` is a gap: gaps at either end are cut
off, gaps inside of up to a quarter of a season are filled by linear interpolation, and both are
reported. Whatever cannot be read raises `DemoError` with file, line and column.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .parts import DemoError

LARGEST = 1e30  # beyond it the squares of float32 changes are not safe, and no measurement lies


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
    """

    name: str
    column: str
    labels: list[str]
    values: NDArray[np.float64]
    observed: NDArray[np.bool_]
    season: int
    cut: int

    def gaps(self) -> list[str]:
        """The labels of the filled gaps: ``'1958-06'``, ``'1964-02 to 1964-04'``."""
        spans = []
        for first, last in _runs(~self.observed):
            single = first == last
            spans.append(
                self.labels[first] if single else f"{self.labels[first]} to {self.labels[last]}"
            )
        return spans


@dataclass(frozen=True)
class Rows:
    """The text of one column: what `read` makes a `Series` of."""

    column: str
    lines: list[int]
    labels: list[str]
    cells: list[str]


def read(path: Path, column: str | None, season: int) -> Series:
    """Read one column of a CSV file and fill its gaps.

    Parameters
    ----------
    path : Path
    column : str or None
        Name in the header; None takes the only column that is not the first one.
    season : int
        Rows per season; gaps of up to a quarter of it are interpolated.

    Returns
    -------
    Series

    Raises
    ------
    DemoError
        With file, line and column of what cannot be used.
    """
    rows = _read_rows(path, column)
    raw = np.array(
        [
            _number(path, line, rows.column, cell)
            for line, cell in zip(rows.lines, rows.cells, strict=True)
        ],
        np.float64,
    )
    known = np.flatnonzero(~np.isnan(raw))
    name = f"{path}, column '{rows.column}'"
    if known.size == 0:
        raise DemoError(f"{name}: expected numbers, got no value in {raw.size} rows")
    inside = slice(known[0], known[-1] + 1)
    values, observed = raw[inside], ~np.isnan(raw[inside])
    _check_gaps(path, rows.column, rows.lines[inside], observed, season)
    index = np.arange(values.size)
    return Series(
        name=name,
        column=rows.column,
        labels=rows.labels[inside],
        values=np.interp(index, index[observed], values[observed]),
        observed=observed,
        season=season,
        cut=raw.size - values.size,
    )


def _read_rows(path: Path, column: str | None) -> Rows:
    """The cells of `column` with their line numbers and labels."""
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        at = _find_column(path, header, column)
        lines, labels, cells = [], [], []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DemoError(
                    f"{path}, line {reader.line_num}: expected {len(header)} cells"
                    f" as in the header, got {len(row)}"
                )
            lines.append(reader.line_num)
            labels.append(row[0].strip() if at else f"line {reader.line_num}")
            cells.append(row[at].strip())
    except csv.Error as error:
        raise DemoError(f"{path}, line {reader.line_num}: {error}") from error
    return Rows(header[at], lines, labels, cells)


def _text(path: Path) -> str:
    """The file's text, UTF-8 with or without a byte order mark."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise DemoError(f"{str(path)!r}: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DemoError(f"{path}, line {line}: expected UTF-8 text") from error


def _find_column(path: Path, header: list[str], column: str | None) -> int:
    """The index of `column` in the header, or of the only one it can be."""
    if not header:
        raise DemoError(f"{path}, line 1: expected a header, got nothing")
    known = ", ".join(f"'{name}'" for name in header)
    if column is None:
        if len(header) > 2:
            raise DemoError(f"{path}, line 1: several columns, choose with --column: {known}")
        at = len(header) - 1
    elif column in header:
        at = header.index(column)
    else:
        raise DemoError(f"{path}, line 1: no column '{column}'; there are {known}")
    if header.count(header[at]) > 1:
        raise DemoError(f"{path}, line 1: column '{header[at]}' stands there twice")
    if _is_number(header[at]):
        raise DemoError(f"{path}, line 1: expected column names, got the number {header[at]}")
    return at


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(path: Path, line: int, column: str, cell: str) -> float:
    """The cell's number; NaN for a gap."""
    try:
        number = float(cell or "nan")
    except ValueError:
        shown = repr(cell if len(cell) <= 40 else cell[:37] + "...")
        raise DemoError(
            f"{path}, line {line}, column '{column}': expected a number, got {shown}"
        ) from None
    if abs(number) > LARGEST:
        raise DemoError(
            f"{path}, line {line}, column '{column}':"
            f" expected a number of at most {LARGEST:g}, got {cell}"
        )
    return number


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]


def _check_gaps(
    path: Path, column: str, lines: list[int], observed: NDArray[np.bool_], season: int
) -> None:
    longest = season // 4
    for first, last in _runs(~observed):
        length = last - first + 1
        if length > longest:
            where = f"line {lines[first]}" if length == 1 else f"lines {lines[first]}-{lines[last]}"
            raise DemoError(
                f"{path}, {where}, column '{column}': {length} missing in a row;"
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


def mean_absolute_error(
    series: Series, start: int, forecast: NDArray[np.float64]
) -> tuple[float, int]:
    """The mean over the rows that can be scored, and their number.

    A filled row has no truth, and the row after it was used to fill it, so that a forecast of it
    would know the answer: neither is scored.
    """
    fair = (series.observed[1:] & series.observed[:-1])[start - 1 :]
    errors = np.abs(series.values[start:] - forecast)[fair]
    return (float(errors.mean()) if errors.size else math.nan), int(errors.size)
