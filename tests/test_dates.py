"""How the demo orders the rows of a CSV file by their dates."""

from pathlib import Path

import numpy as np
import pytest
from commands import call, swapped, wave

from pyoptk.demo import series

pytest.importorskip("pandas")
pytestmark = pytest.mark.usefixtures("empty_folder")
TURNED = ("order", "newest first in the file, turned round")


def write_rows(rows):
    Path("own.csv").write_text("".join(",".join(row) + "\n" for row in rows))


def read(rows):
    """Column x of a file of these rows, of season 4."""
    write_rows(rows)
    return series.read(Path("own.csv"), "x", 4)


def dates(spelling, count=120):
    """Days, or months where the spelling has none, oldest first."""
    step = "D" if "%d" in spelling or "%j" in spelling else "M"
    every = np.datetime64("1999-10", step) + np.arange(count)
    return [date.astype("M8[s]").item().strftime(spelling) for date in every]


SPELLINGS = ["%Y-%m-%d", "%Y-%m", "%Y%m%d", "%Y%m", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%y"]
SPELLINGS += ["%m/%d/%y", "%m/%Y", "%m.%Y", "%b %Y", "%d %b %Y", "%B %d, %Y", "%d-%b-%y", "%b-%y"]
SPELLINGS += ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d 00:00:00+01:00", "%a, %d %b %Y", "%Y-%-m-%-d"]
SPELLINGS += ["%m/%d/%Y 1:00 PM"]


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_dates_of_any_spelling_are_read_and_turned_round(spelling, where):
    values = wave()
    rows = [[f'"{date}"', v] for date, v in zip(dates(spelling), values, strict=True)]
    for turned in (False, True):
        ordered = [["date", "x"], *(rows[::-1] if turned else rows)]
        data = read([row if where == "first" else row[::-1] for row in ordered])
        assert data.values[0] == float(values[0])
        assert data.notes == ([TURNED] if turned else [])


@pytest.mark.parametrize(
    "labels",
    [
        [f"d{k}" for k in range(120)],
        [f"{k % 12 + 1:02}-01" for k in range(120)],
        [f"{2000 + k // 12}" for k in range(120)],
        ["Mon", "Tue", "Wed"] * 40,
        ["", "2020-01-01"] * 60,
    ],
    ids=lambda labels: f"{labels[0]} {labels[1]}",
)
def test_labels_without_an_order_stay_as_they_are(labels):
    data = read([("day", "x"), *zip(labels, wave(), strict=True)])
    assert data.notes == []
    assert data.labels == labels


@pytest.mark.parametrize("label", ["{}", "{:04}", "week {}", "2001-W{:03}", "2001.{:03}"])
def test_different_labels_in_no_order_stay_as_they_are_and_that_is_said(label):
    labels = [label.format(k * 7919 % 120) for k in range(120)]
    data = read([("day", "x"), *zip(labels, wave(), strict=True)])
    said = "as in the file; column 'day' is in no order and is not read as dates; if it should be,"
    assert data.notes == [("order", f"{said} sort the rows")]
    assert data.labels == labels


@pytest.mark.parametrize("label", ["d{0}", "week {0:03}", "{1:02}:{2:02}"])
def test_labels_whose_numbers_go_down_stay_as_they_are_and_that_is_said(label):
    labels = [label.format(k, k // 60, k % 60) for k in range(120, 0, -1)]
    data = read([("day", "x"), *zip(labels, wave(), strict=True)])
    said = f"as in the file, from '{labels[0]}' to '{labels[-1]}'; if that is newest first, turn it"
    assert data.notes == [("order", f"{said} round")]
    assert data.labels == labels


@pytest.mark.usefixtures("_no_duel")
def test_newest_first_is_said_and_gaps_are_named(capsys):
    labels = [f"{2000 - k // 12}-{12 - k % 12:02}" for k in range(120)]
    write_rows([("day", "x"), *zip(labels, swapped(wave(), r1="", r40=""), strict=True)])
    assert call("demo", "--data", "own.csv", "--season", "4", "--epochs", "1", "--no-plot") == 0
    shown = capsys.readouterr().out
    assert "rows       119, 1991-01 to 2000-11, season 4" in shown
    assert "order      newest first in the file, turned round" in shown
    assert "interpolated: 1997-09" in shown


def shuffled(rows):
    return [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]


DAILY, MONTHLY = dates("%Y-%m-%d"), dates("%Y-%m")
WORKING = [str(np.busday_offset("1999-10-01", k)) for k in range(120)]
HOURS = [str(np.datetime64("1999-10-01T00") + k) + ":00" for k in range(120)]
QUARTERS = [f"Q{k % 4 + 1} {1980 + k // 4}" for k in range(120)]
MONTH_ENDS = [str(np.datetime64(month) + 1 - np.timedelta64(1, "D")) for month in MONTHLY]
EVEN = {
    "days": DAILY,
    "weeks": dates("%d.%m.%Y", 840)[::7],
    "working days": WORKING,
    "months": MONTHLY,
    "ends of months": MONTH_ENDS,
    "quarters": QUARTERS,
    "years": [str(1850 + k) for k in range(120)],
    "hours": HOURS,
    "months, day first": dates("01.%m.%Y"),
}


@pytest.mark.parametrize("spacing", EVEN)
def test_rows_are_sorted_doubled_ones_left_out_and_missing_ones_added(spacing):
    rows = list(zip(EVEN[spacing], wave(), strict=True))
    data = read([("day", "x"), *shuffled([*rows[:50], *rows[51:], rows[7], rows[0]])])
    assert len(data.labels) == 120
    np.testing.assert_array_equal(np.flatnonzero(~data.observed), [50])
    np.testing.assert_array_equal(data.values[51:], [float(value) for _, value in rows[51:]])
    notes = dict(data.notes)
    assert notes["order"] == "not that of time in the file, sorted by column 'day'"
    assert notes["doubled"].startswith("2 rows, left out: ")
    assert notes["added"].startswith(f"1 row that the file lacks: {data.labels[50]}")


ROWS = list(zip(DAILY, wave(), strict=True))


def test_an_added_row_is_named_as_the_others():
    for labels in (DAILY, WORKING, MONTHLY, HOURS, EVEN["years"]):
        rows = list(zip(labels, wave(), strict=True))
        assert read([("day", "x"), *rows[:50], *rows[51:]]).labels == labels


HOUR, DAY = np.timedelta64(60, "m"), np.timedelta64(1440, "m")
AT = np.datetime64("1999-10-01T23:00")
ZONED = {  # the distance of rows, the offset of each from UTC in hours, what stands after the last
    "hours": (HOUR, [2] * 120, "1999-10-07T01:00"),
    "hours of two zones": (HOUR, [1] * 60 + [2] * 60, "1999-10-06T23:00Z"),
    "days": (DAY, [-3] * 120, "2000-01-29"),
    "days by the clock of two zones": (DAY, [1] * 60 + [2] * 60, "2000-01-30"),
}

WITH_ZONE = ["%Y-%m-%d %H:%M {:+03}00", "%Y%m%dT%H%M%S{:+03}00", "%Y-%m-%dT%H{:+03}:00"]


@pytest.mark.parametrize("rows", ZONED)
def test_later_rows_have_the_clock_of_the_file_or_say_that_it_is_utc(rows):
    step, offsets, later = ZONED[rows]
    by_clock = [AT + k * step + hours * HOUR for k, hours in enumerate(offsets)]
    if "clock" in rows:
        by_clock = [AT + HOUR + k * step for k in range(120)]
    for way in ("%Y-%m-%dT%H:%M:%S{:+03}:00", "%Y-%m-%d %H:%M:%S {:+03}:00", *WITH_ZONE):
        pairs = zip(by_clock, offsets, strict=True)
        labels = [t.item().strftime(way).format(hours) for t, hours in pairs]
        data = read([("day", "x"), *zip(labels, wave(), strict=True)])
        assert (data.notes, data.later(1)) == ([], later), labels[0]


def test_columns_named_year_and_month_are_dates():
    rows = [(*month.split("-"), value) for month, value in zip(MONTHLY, wave(), strict=True)]
    data = read([("Year", "Month", "x"), *rows[:3], *rows[4:]])
    assert data.labels == MONTHLY
    assert data.gaps() == [MONTHLY[3]]


@pytest.mark.parametrize(
    ("names", "every"),
    [
        (("year", "Month"), dates("%Y %B")),
        (("Day", "Month", "Year"), dates("%d %b %Y")),
        (("Date", "Time"), dates("%d.%m.%Y 6:00")),
        (("Date", "Time"), [time.replace("T", " ") for time in HOURS]),
    ],
    ids=["months by name", "days and months by name", "days and a time", "hours"],
)
def test_dates_may_stand_in_several_columns(names, every):
    rows = [(*date.split(), value) for date, value in zip(every, wave(), strict=True)]
    data = read([(*names, "x"), *shuffled(rows)])
    assert [word for word, _ in data.notes] == ["order"]
    np.testing.assert_array_equal(data.values, [float(value) for value in wave()])


MOMENTS = [time.replace("T", " ") for time in HOURS]
MINUTES = [f"{day} 10:{k % 7:02}" for k, day in enumerate(DAILY)]
COLUMNS = {  # names, cells joined by blanks, the first label, the label after the last
    "weekdays": ("Year Month Day", dates("%Y %m %a"), "1999-10", "2009-10"),
    "weekdays of days": ("Year Month Day", ["2000 1 Sat", "2000 1 Sun"] * 60, "2000", ""),
    "hours": ("year month day time", [t.replace("-", " ") for t in MOMENTS], MOMENTS[0], "T00:00"),
    "no time": ("date time", ["1999-10-01 ", *MOMENTS[1:]], "1999-10-01", "1999-10-06T00:00"),
    "minutes": ("date time", MINUTES, DAILY[0], "2000-01-29"),
    "minutes of numbers": ("year month day time", [t.replace("-", " ") for t in MINUTES], DAILY[0],
        "2000-01-29"),
}  # fmt: skip


@pytest.mark.parametrize("columns", COLUMNS)
def test_columns_are_joined_only_where_that_tells_rows_apart(columns):
    names, every, first, later = COLUMNS[columns]
    head = names.split()
    rows = [(*row.split(" ")[: len(head)], v) for row, v in zip(every, wave(), strict=False)]
    data = read([(*head, "x"), *rows])
    assert (data.notes, data.labels[0]) == ([], first)
    assert data.later(1).endswith(later)


def test_dates_beside_the_index_of_a_data_frame_are_found():
    rows = [(str(k), date, value) for k, (date, value) in enumerate(shuffled(ROWS))]
    assert read([("", "day", "x"), *rows]).labels == DAILY


def test_uneven_dates_are_steps_and_that_is_said():
    labels = [str(np.datetime64("1999-10-01") + k * k) for k in range(120)]
    data = read([("day", "x"), *zip(labels, wave(), strict=True)])
    assert data.labels == labels
    assert data.notes == [("spacing", "uneven; each row counts as one step")]


# Days of the year that have these numbers both ways round.
EITHER = shuffled([(f"{a:02}/{b:02}/2000", f"{a}{b}") for a in range(1, 13) for b in range(1, 13)])
TWICE = "expected each date once, got '{}' as in line {}, with another value"
REFUSED = {
    "other value": (
        [*ROWS, (DAILY[4], "9")],
        "own.csv, line 122, column 'day': " + TWICE.format(DAILY[4], 6),
    ),
    "one date": (
        [("2020-01-01", value) for value in wave()],
        "own.csv, line 3, column 'day': " + TWICE.format("2020-01-01", 2),
    ),
    "no date": (
        [*ROWS, ("Total", "9")],
        f"own.csv, line 122, column 'day': expected a date such as '{DAILY[0]}', got 'Total'",
    ),
    "no day": (
        [*ROWS[:9], ("1999-10-32", "9"), *ROWS[10:]],
        f"own.csv, line 11, column 'day': expected a date such as '{DAILY[0]}', got '1999-10-32'",
    ),
    "days or months first": (
        EITHER,
        "own.csv, line 2, column 'day': the rows are not in the order of time, and "
        + f"'{EITHER[0][0]}' can be read in two ways: sort the rows",
    ),
    "days are missing": (
        ROWS[:50] + ROWS[52:],
        f"own.csv, after line 51, column 'x': 2 missing in a row, from {DAILY[50]};"
        + " at most 1 can be interpolated (a quarter of season 4)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_are_no_series_get_one_line_that_names_the_place(case, capsys):
    rows, line = REFUSED[case]
    write_rows([("day", "x"), *rows])
    assert call("demo", "--no-plot", "--data", "own.csv", "--season", "4") == 2
    assert capsys.readouterr() == ("", f"pyoptk: error: {line}\n")
