"""Reading a series from a CSV file, its gaps, and the forecasts that any model has to beat.

A file has a header line and one row per step in time. The first column, if it is not the value
column, labels the rows. Rows whose dates go down are turned round; dates that go up and down are
refused. An empty cell or ``nan`` is a gap: gaps at either end are cut off, gaps inside of up to a
quarter of a season are filled by linear interpolation, and both are reported. What cannot be read
raises `DemoError` with file, line and column.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import order
from .parts import DemoError

LARGEST = 1e30  # beyond it the squares of float32 changes are not safe, and no measurement lies
# What pandas and NumPy read, too; Python's float() reads 2020_01 and the digits of any script.
NUMBER = re.compile(
    r"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|Inf|INF|infinity|Infinity)", re.ASCII
)
GAPS = ("", "nan", "NaN", "NAN")
BLANKS = " \t\r\n\f\v"


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
    turned : bool
        True if the file has the newest row first.
    """

    name: str
    column: str
    labels: list[str]
    values: NDArray[np.float64]
    observed: NDArray[np.bool_]
    season: int
    cut: int
    turned: bool = False

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
    turned: bool


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
        turned=rows.turned,
    )


def _read_rows(path: Path, column: str | None) -> Rows:
    """The cells of `column` with their line numbers and labels, oldest first."""
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        start = next(reader, [])
        at = _find_column(path, header, start, column)
        lines, rows = [], []
        for row in chain([start], reader):
            if not row:
                continue
            if len(row) != len(header):
                raise DemoError(
                    f"{path}, line {reader.line_num}: expected {len(header)} cells"
                    f" as in the header, got {len(row)}"
                )
            lines.append(reader.line_num)
            rows.append([cell.strip(BLANKS) for cell in row])
    except csv.Error as error:
        raise DemoError(f"{path}, line {reader.line_num}: {error}") from error
    labels = [row[0] if at else f"line {line}" for line, row in zip(lines, rows, strict=True)]
    turned = _newest_first(path, header, lines, rows, at)
    way = slice(None, None, -1 if turned else 1)
    return Rows(header[at], lines[way], labels[way], [row[at] for row in rows][way], turned)


def _newest_first(
    path: Path, header: list[str], lines: list[int], rows: list[list[str]], at: int
) -> bool:
    """Whether the dates of any other column go down, or the numbers of the first column."""
    for k, name in enumerate(header):
        try:
            if k != at and order.newest_first([row[k] for row in rows], numbers=k == 0):
                return True
        except order.Unordered as error:
            if k > 0:
                continue  # dates of something else
            before, there = rows[error.row - 1][k], rows[error.row][k]
            raise DemoError(
                f"{path}, line {lines[error.row]}, column '{name}': expected rows in the order of"
                f" time, got {_shown(there)} after {_shown(before)}"
            ) from None
    return False


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


def _find_column(path: Path, header: list[str], start: list[str], column: str | None) -> int:
    """The index of `column` in the header, or of the only one it can be; `start` is line 2."""
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
    # A number may be a name such as 2020, below a word and above labels that are none.
    named = at > 0 and not _has_digit(header[0]) and _has_digit(*start[:1])
    if column is None and NUMBER.fullmatch(header[at]) and not named:
        raise DemoError(
            f"{path}, line 1: expected column names, got the number {header[at]}"
            f" (if it is a name: --column {header[at]})"
        )
    return at


def _has_digit(text: str = "") -> bool:
    return any(character.isdigit() for character in text)


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


def _number(path: Path, line: int, column: str, cell: str) -> float:
    """The cell's number; NaN for a gap."""
    if cell in GAPS:
        return math.nan
    place = f"{path}, line {line}, column '{column}'"
    if not NUMBER.fullmatch(cell):
        raise DemoError(f"{place}: expected a number, got {_shown(cell)}")
    number = float(cell)
    if abs(number) > LARGEST:
        shown = cell if len(cell) <= 40 else cell[:37] + "..."
        raise DemoError(f"{place}: expected a number of at most {LARGEST:g}, got {shown}")
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
            low, high = sorted((lines[first], lines[last]))
            where = f"line {low}" if length == 1 else f"lines {low}-{high}"
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
