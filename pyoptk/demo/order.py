"""Whether labels of rows go up or down in time: `newest_first` reads dates of many spellings.

`series.py` calls it. A label is one number (a year, 200101, 1958.2) or a date: the numbers in it,
with month names as numbers. Where day and month could be either, both are tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
LONG = "january february march april june july august sept september october november december"
# What may stand in a date and tells nothing about the order of days.
FILLING = "t z q w h utc gmt am pm st nd rd th mon tue wed thu fri sat sun monday tuesday wednesday"
FILLING += " thursday friday saturday sunday"

Key = tuple[float, ...]
Date = list[int | str]  # numbers in the order of the label, a month's name as it is


class Unordered(Exception):
    """The labels are dates, and go up and down; `row` is the first that leaves the order."""

    def __init__(self, row: int) -> None:
        self.row = row


def newest_first(labels: Sequence[str], *, numbers: bool = True) -> bool:
    """True if the labels go down in time, False if they go up or are no dates.

    Parameters
    ----------
    labels : sequence of str
    numbers : bool
        Whether numbers count as dates.

    Raises
    ------
    Unordered
        If they are dates that do neither.
    """
    found = _numbers(labels)
    if found is not None:
        return numbers and _direction(found) == -1
    dates = [date for label in labels if (date := _date(label)) is not None]
    if len(dates) < len(labels):
        return False
    ways = [[key for date in dates if (key := way(date)) is not None] for way in WAYS]
    possible = [keys for keys in ways if len(keys) == len(labels)]
    directions = [_direction(keys) for keys in possible]
    if not possible or 1 in directions or 0 in directions:
        return False
    if -1 in directions:
        return True
    if all(any(isinstance(part, int) and part >= 1000 for part in date) for date in dates):
        raise Unordered(_first_out_of_order(possible[0]))
    return False  # without a year, days come again and again


def _numbers(labels: Sequence[str]) -> list[Key] | None:
    """The labels as numbers, if all are; 12.2000 is a month and a year instead."""
    if not all(re.fullmatch(r"[+-]?\d+(\.\d+)?", label, re.ASCII) for label in labels):
        return None
    if all(re.fullmatch(r"\d{1,2}\.\d{4}", label, re.ASCII) for label in labels):
        return None
    return [(float(label),) for label in labels]


def _date(label: str) -> Date | None:
    """The numbers and the month's name of a label; None if other words stand there."""
    parts: Date = []
    for word in re.findall(r"\d+|[^\W\d_]+", label.lower(), re.ASCII):
        if word.isdecimal():
            parts.append(int(word))
        elif word in MONTHS or word in LONG.split():
            parts.append(word[:3])
        elif word not in FILLING.split():
            return None
    if not label.isascii() or sum(isinstance(part, int) for part in parts) == 0:
        return None
    if re.search(r"[ap]m\b", label.lower()):
        return parts[:3]  # 1 pm is after 12 pm: the days have to do
    return parts


def _by(*places: int) -> Callable[[Date], Key | None]:
    """Reads a date whose year, month and day stand at these places, with a time behind them."""

    def read(date: Date) -> Key | None:
        if len(date) < len(places):
            return None
        named = [part for part in date[: len(places)] if isinstance(part, str)]
        year, month, *day = (date[place] for place in places)
        if isinstance(year, str) or (named and not isinstance(month, str)):
            return None
        if isinstance(month, str):
            month = MONTHS.index(month) + 1
        if len(places) == 3 and not (1 <= month <= 12 and 1 <= _number(day[0]) <= 31):
            return None
        if year < 100 and any(_number(part) > 31 for part in (month, *day)):
            return None  # the year stands elsewhere
        year += (2000 if year < 70 else 1900) if year < 100 else 0
        later = [float(_number(part)) for part in (*day, *date[len(places) :])]
        return (float(year), float(month), *later)

    return read


def _number(part: int | str) -> int:
    return part if isinstance(part, int) else -1


def _first_two(way: Callable[[Date], Key | None]) -> Callable[[Date], Key | None]:
    return lambda date: way(date) if len(date) == 2 else None


WAYS = (_by(0, 1, 2), _by(2, 1, 0), _by(2, 0, 1), _first_two(_by(0, 1)), _first_two(_by(1, 0)))


def _direction(keys: list[Key]) -> int | None:
    """1 up, -1 down, 0 all the same, None for up and down; a day may come twice."""
    for same_day in (
        False,
        True,
    ):  # time zones and the hour that comes twice hide the order of days
        found = {(a < b) - (a > b) for a, b in pairwise(_days(keys) if same_day else keys)} - {0}
        if len(found) < 2:
            return found.pop() if found else 0
    return None


def _days(keys: list[Key]) -> list[Key]:
    return [key[:3] for key in keys]


def _first_out_of_order(keys: list[Key]) -> int:
    steps = [(a < b) - (a > b) for a, b in pairwise(_days(keys))]
    return 1 + steps.index(-1 if sum(steps) >= 0 else 1)
