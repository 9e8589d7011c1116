"""The rows of a table in the order of time: sorted by their dates, each once, none left out.

`table.py` calls `arrange`. Dates stand in columns named year, month and day, or date and time, or
in the first column beside the values, or in a later one that is in order. Where day and month could
be exchanged, the reading in which the rows are in order counts, and of two such readings the one
with even steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .parts import DemoError

if TYPE_CHECKING:
    from .table import Cells

# After `_plain`: one blank between the parts, names of months in three letters.
DAYS = ["%Y %m %d", "%d %m %Y", "%m %d %Y", "%d %m %y", "%m %d %y", "%Y %m", "%m %Y", "%Y%m"]
DAYS += ["%YM%m", "%b %Y", "%Y %b", "%b %y", "%d %b %Y", "%d %b %y", "%b %d %Y"]
ISO_DAY = r"^(?:[0-9]{8}|[0-9]{4}\W[0-9]{1,2}\W[0-9]{1,2})"  # before a zone stand a day and a time
ISO_TIME = r"[T\s]\s*[0-9]{1,2}(?::?[0-9]{2}(?::?[0-9]{2}(?:[.,][0-9]+)?)?)?"
ZONE = ISO_DAY + ISO_TIME + r"\s*(Z|[+-][0-9]{2}(?::?[0-9]{2})?)$"
TIMES = ["", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p"]
PARTS = (("day", "month", "year"), ("month", "year"), ("date",))  # columns of a date
WEEKDAY = r"^(?:[Mm]on|[Tt]ue|[Ww]ed|[Tt]hu|[Ff]ri|[Ss]at|[Ss]un)[a-z]*\W+"
NUMBER = r"[+-]?[0-9]+(?:\.[0-9]*)?"
YEARS = np.array(["1500", "2500"], "M8[Y]")  # four digits outside are not years
FEW = 0.1  # if more cells of a column are no dates, it is no column of dates
MOST_ADDED = 1 / 3  # of the rows; where more seem to be missing, they are not evenly spaced

Times = NDArray[np.datetime64]
Notes = list[tuple[str, str]]


@dataclass(frozen=True)
class Rows:
    """Rows in the order of time.

    Attributes
    ----------
    taken : int array [N]
        Their indices in the file; -1 for a row that it lacks.
    lines : int array [N]
        Line numbers in the file; of a row that it lacks, that of the row before.
    labels : list of str
    label : function or None
        The label of the row k steps after the first, for even steps.
    """

    taken: NDArray[np.intp]
    lines: NDArray[np.intp]
    labels: list[str]
    label: Callable[[int], str] | None


@dataclass(frozen=True)
class Dated:
    """The column `at` that dates the rows, what stands there, and as times."""

    at: int
    labels: list[str]
    times: Times
    zone: str = ""  # of labels of times, where the file has several


def arrange(pandas: Any, cells: Cells, at: int, values: NDArray[np.float64], notes: Notes) -> Rows:
    """The rows of `cells` in the order of time, for the `values` of column `at`."""
    others = [k for k in range(len(cells.header)) if k != at]
    others.sort(key=lambda k: not cells.header[k])  # without a name: the index of a data frame
    dated = _dated(pandas, cells, others)
    if dated is not None:
        taken = _in_order(dated.times, f"sorted by column '{cells.header[dated.at]}'", notes)
        taken = _once(cells, dated, values, taken, notes)
        return _complete(cells, dated, taken, notes)
    taken, labels = np.arange(len(values)), [f"line {line}" for line in cells.lines]
    if others and others[0] < at:
        labels = list(cells.frame[others[0]])
        numbers = pandas.to_numeric(cells.frame[others[0]], errors="coerce").to_numpy(float)
        if (np.diff(numbers) < 0).all():
            taken = _in_order(numbers, "", notes)
        elif _falling(labels):
            how = f"as in the file, from '{labels[0]}' to '{labels[-1]}'"
            notes.append(("order", f"{how}; if that is newest first, turn it round"))
        elif _mixed(labels):
            how = f"as in the file; column '{cells.header[others[0]]}' is in no order"
            notes.append(
                ("order", f"{how} and is not read as dates; if it should be, sort the rows")
            )
    return Rows(taken, cells.lines[taken], [labels[k] for k in taken], None)


def _falling(labels: list[str]) -> bool:
    """Whether labels that differ in a number alone, such as "week 12", are in falling order."""
    digits = [[one.lstrip("0") for one in re.findall("[0-9]+", label)] for label in labels]
    keys = [[(len(one), one) for one in found] for found in digits]
    same = len({re.sub("[0-9]+", "", label) for label in labels}) == 1
    return same and all(a > b for a, b in pairwise(keys))


def _mixed(labels: list[str]) -> bool:
    """Whether different labels, all with numbers, are in no order: not even by the last number."""
    keys = [[int(one) for one in re.findall("[0-9]+", label)] for label in labels]
    if not all(keys) or len({*labels}) < len(labels):
        return False
    return all(any(a > b for a, b in pairwise(some)) for some in (keys, [k[::-1] for k in keys]))


# ---- dates --------------------------------------------------------------------------------------


def _dated(pandas: Any, cells: Cells, others: Sequence[int]) -> Dated | None:
    """The dates of the rows; of several columns together only if those tell most rows apart."""
    numbered = _numbered(pandas, cells, others)
    texts = [(k, text, True, True) for k, text in _joined(cells, others, numbered)]
    if numbered is None:
        texts += [(k, cells.frame[k], k == others[0], False) for k in others]
    return _first_dated(pandas, cells, texts) or numbered


def _numbered(pandas: Any, cells: Cells, others: Sequence[int]) -> Dated | None:
    """The dates in columns of numbers named year and month, and day where it has numbers."""
    named = {cells.header[k].lower(): k for k in reversed(others)}
    if not len(cells.frame) or not {"year", "month"} <= set(named):
        return None
    numbers = pandas.DataFrame({name: cells.frame[named[name]] for name in ("year", "month")})
    days = [("%Y-%m-%d", cells.frame[named["day"]])] if "day" in named else []
    for shown, day in (*days, ("%Y-%m", "1")):
        built = pandas.to_datetime(numbers.assign(day=day), errors="coerce")
        doubled = built.duplicated().any() and days and shown == "%Y-%m"  # days are not told apart
        if built.notna().all() and not doubled:
            labels = list(built.dt.strftime(shown))
            return Dated(named["year"], labels, built.to_numpy("M8[us]"))
    return None


def _joined(cells: Cells, others: Sequence[int], numbered: Dated | None) -> list[tuple[int, Any]]:
    """Columns of a date in one, first with the time, if that tells more rows apart."""
    named = {cells.header[k].lower(): k for k in reversed(others)}
    parts = next((some for some in PARTS if set(some) <= set(named)), None)
    if not len(cells.frame) or parts is None or (parts == ("date",) and "time" not in named):
        return []
    k, columns = named[parts[0]], [cells.frame[named[part]] for part in parts]
    if numbered is not None:
        k, columns = numbered.at, [columns[0].copy()]
        columns[0][:] = numbered.labels
    found = [] if numbered else [(k, _words(columns))]
    if "time" in named:
        timed = _words([*columns, cells.frame[named["time"]]])
        if timed.nunique() > _words(columns).nunique():
            found.insert(0, (k, timed))
    return found


def _words(columns: Sequence[Any]) -> Any:
    """The cells of each row in one, with a blank between those that are not empty."""
    rows = zip(*columns, strict=True)
    words = [" ".join(word for word in row if word) for row in rows]
    return type(columns[0])(words, index=columns[0].index)


def _first_dated(
    pandas: Any, cells: Cells, texts: Sequence[tuple[int, Any, bool, bool]]
) -> Dated | None:
    """The first of the `texts` that are dates: column, cells, whether in any order, or joined."""
    for k, text, first, joined in texts:
        if joined and 2 * text.nunique() <= len(text):
            continue
        digits = text.str.fullmatch(NUMBER).all()
        found, odd = _readings(pandas, text) if first or not digits else ([], None)
        if first and not found and odd is not None:
            raise DemoError(
                f"{cells.place(odd, k)}: expected a date such as '{text[0]}', got '{text[odd]}'"
            )
        ordered = [times for times in found if _ordered(times)]
        found = sorted(ordered or found * first, key=_share_missing)
        even = [_share_missing(times) <= MOST_ADDED for times in found]
        if len(found) > 1 and not ordered and even[:2] != [True, False]:
            raise DemoError(
                f"{cells.place(0, k)}: the rows are not in the order of time,"
                f" and '{text[0]}' can be read in two ways: sort the rows"
            )
        # Repeated years, with the month in another column, only tell the direction.
        repeated = 2 * np.unique(found[0]).size <= text.size if found else True
        if found and not (repeated and (digits or joined)):
            several = np.unique(_offsets(text)).size > 1
            in_utc = several and np.array_equal(_in_utc(pandas, text, "ISO8601"), found[0])
            return Dated(k, list(text), found[0], "Z" * in_utc)
    return None


def _readings(pandas: Any, text: Any) -> tuple[list[Times], int | None]:
    """All readings of the cells as dates with a year.

    And, for the reading with the fewest failures, the first row that fails, if they are few.
    """
    found: list[Times] = []
    odd, fewest = None, FEW * len(text)
    plain, ways = _plain(text), [day + time for day, time in product(DAYS, TIMES)]
    for source, way in ((text, "ISO8601"), *((plain, way) for way in ways)):
        if np.isnat(_in_utc(pandas, source.iloc[:1], way)).any():
            continue  # most formats fail at the first cell
        times = _by_clock(text, _in_utc(pandas, source, way))
        none = ~((times >= YEARS[0]) & (times < YEARS[1]))  # also if it is no time
        if 0 < none.sum() < fewest:
            odd, fewest = int(none.argmax()), none.sum()
        if len(none) and not none.any() and not any(np.array_equal(times, x) for x in found):
            found.append(times)
    return found, odd


def _in_utc(pandas: Any, text: Any, way: str) -> Times:
    times = pandas.to_datetime(text, format=way, errors="coerce", utc=True)
    found: Times = times.dt.tz_localize(None).to_numpy("M8[us]")
    return found


def _offsets(text: Any) -> NDArray[np.timedelta64]:
    """The difference of each time's zone from UTC; 0 where there is none."""
    zones = text.str.extract(ZONE, expand=False).fillna("Z").str.replace(":", "")
    minutes = [0 if z == "Z" else int(z[:3]) * 60 + int(z[0] + (z[3:] or "0")) for z in zones]
    return np.array(minutes, "m8[m]")


def _by_clock(text: Any, times: Times) -> Times:
    """Times in UTC as the clocks of their zones show them, unless only UTC is evenly spaced."""
    offsets = _offsets(text)
    several = np.unique(offsets).size > 1
    return times if several and _share_missing(times) < 1 else times + offsets


def _plain(text: Any) -> Any:
    """Cells without weekdays and punctuation; quarters as their first month."""
    plain = text.str.replace(WEEKDAY, "", regex=True)
    for quarter in range(1, 5):
        plain = plain.str.replace(f"[Qq]{quarter}", f" {3 * quarter - 2:02} ", regex=True)
    plain = plain.str.replace("([A-Za-z]{3})[a-z]+", r"\1", regex=True)
    return plain.str.replace(r"[-/.,\s]+", " ", regex=True).str.strip()


def _ordered(times: Times) -> bool:
    steps = np.diff(times.astype(np.int64))
    return bool((steps >= 0).all() or (steps <= 0).all())


def _share_missing(times: Times) -> float:
    """The share of rows that are missing between the first and the last; 1 if they are uneven."""
    once = np.unique(times)
    grid = _grid(once)
    return 1.0 if grid is None else 1 - once.size / (grid[0][-1] + 1)


# ---- order --------------------------------------------------------------------------------------


def _in_order(times: NDArray[Any], how: str, notes: Notes) -> NDArray[np.intp]:
    """The rows oldest first."""
    rows, steps = np.arange(times.size), np.diff(times.astype(np.float64))
    if (steps >= 0).all():
        return rows
    if (steps <= 0).all():
        notes.append(("order", "newest first in the file, turned round"))
        return rows[::-1]
    notes.append(("order", f"not that of time in the file, {how}"))
    return np.argsort(times, kind="stable")


def _once(
    cells: Cells, dated: Dated, values: NDArray[np.float64], taken: NDArray[np.intp], notes: Notes
) -> NDArray[np.intp]:
    """The rows without those that stand there twice."""
    again = np.diff(dated.times[taken].astype(np.int64)) == 0
    a, b = taken[:-1][again], taken[1:][again]
    same = (values[a] == values[b]) | (np.isnan(values[a]) & np.isnan(values[b]))
    if not same.all():
        rows = sorted((int(a[~same][0]), int(b[~same][0])))
        raise DemoError(
            f"{cells.place(rows[1], dated.at)}: expected each date once, got"
            f" '{dated.labels[rows[1]]}' as in line {cells.lines[rows[0]]}, with another value"
        )
    if b.size:
        some = listed([dated.labels[row] for row in b])
        notes.append(("doubled", f"{b.size} row{'s' * (b.size > 1)}, left out: {some}"))
    return taken[np.append(True, ~again)] if taken.size else taken


def _complete(cells: Cells, dated: Dated, taken: NDArray[np.intp], notes: Notes) -> Rows:
    """The rows, and among them those that the file lacks."""
    grid, even = _grid(dated.times[taken]), _share_missing(dated.times) <= MOST_ADDED
    label = grid[1] if grid and even else None
    if label and dated.zone:
        label = partial(_with_zone, label, dated.zone)
    positions = grid[0] if grid and even else np.arange(taken.size)
    if taken.size > 1 and not even:
        notes.append(("spacing", "uneven; each row counts as one step"))
    rows = np.full(positions[-1] + 1 if taken.size else 0, -1)
    rows[positions] = taken
    before = taken[np.cumsum(rows >= 0) - 1]
    labels = [
        dated.labels[row] if row >= 0 else str(label and label(k)) for k, row in enumerate(rows)
    ]
    added = np.flatnonzero(rows < 0)
    if added.size:
        some = listed([labels[k] for k in added])
        notes.append(
            ("added", f"{added.size} row{'s' * (added.size > 1)} that the file lacks: {some}")
        )
    return Rows(rows, cells.lines[before], labels, label)


def _with_zone(label: Callable[[int], str], zone: str, k: int) -> str:
    return label(k) + zone * ("T" in label(k))


def listed(words: Sequence[str]) -> str:
    """Eight of them, and how many more there are."""
    more = f" and {len(words) - 8} more" if len(words) > 8 else ""
    return ", ".join(words[:8]) + more


def _grid(times: Times) -> tuple[NDArray[np.intp], Callable[[int], str]] | None:
    """The indices of the times in an even spacing, and the label of an index; None if uneven.

    Spacings are some years or months, working days, some days, or any other time.
    """
    if times.size < 2:
        return None
    days, months, years = (times.astype(f"M8[{unit}]") for unit in "DMY")
    at: NDArray[Any] = times
    if np.unique(times - days).size == 1:
        month_ends = ((days + 1).astype("M8[M]") > months).all()
        if month_ends or np.unique(days - months).size == 1:
            at = years if (months == years).all() else months
        else:
            at = days
        working = np.busday_count(days[0], days)
        if at is days and np.is_busday(days).all() and _usual(np.diff(working)) == 1:
            return working, lambda k: str(np.busday_offset(days[0], k))
    count = (at - at[0]).astype(np.int64)
    step = _usual(np.diff(count))
    if (count % step).any():
        return None
    return count // step, lambda k: str(at[0] + k * step).removesuffix(":00.000000")


def label_of(times: Times) -> Callable[[int], str] | None:
    """The label of the step k after the first of evenly spaced times."""
    grid = _grid(times)
    return None if grid is None else grid[1]


def _usual(steps: NDArray[np.int64]) -> int:
    """The most frequent step."""
    found, count = np.unique(steps, return_counts=True)
    return int(found[count.argmax()])
