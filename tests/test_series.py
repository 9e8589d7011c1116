"""How the demo reads a CSV file: numbers, gaps, names, the order of rows; one line for the rest."""

from pathlib import Path

import numpy as np
import pytest
from commands import SEASONAL, call, swapped, wave, write

from pyoptk.demo import forecast, series

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.usefixtures("_no_duel")
def test_own_series_with_gaps_and_empty_ends_is_forecast(capsys):
    cells = swapped(wave(), r1="", r2="nan", r40="", r60="NaN", r120="")
    own = write(cells)
    arguments = ("--column", "x", "--season", "4", "--epochs", "1", "--no-plot")
    assert call("demo", "--data", own, *arguments) == 0
    shown = capsys.readouterr().out
    assert "rows       117, d3 to d119, season 4" in shown
    assert "gaps       2 values interpolated: d40, d60" in shown
    assert "cut off    3 rows without a value at the ends" in shown
    assert "held out   29 rows, d91 to d119" in shown


def test_row_next_to_a_held_out_gap_is_not_scored():
    data = series.read(Path(write(swapped(wave(), r110=""))), None, 4)
    task = forecast.prepare(data, 20)
    errors = series.absolute_errors(data, 100, SEASONAL(data, 100))
    assert (task.start, errors.size) == (100, 18)
    assert np.isfinite(errors).all()


def test_single_column_file_is_labelled_by_line():
    Path("own.csv").write_text("x\n" + "\n".join(wave()) + "\n")
    data = series.read(Path("own.csv"), None, 4)
    assert (data.labels[0], data.labels[-1]) == ("line 2", "line 121")


def test_byte_order_mark_and_windows_line_ends_are_read():
    text = "\ufeffday,x\r\n" + "\r\n".join(f"d{k},{v}" for k, v in enumerate(wave())) + "\r\n"
    Path("own.csv").write_bytes(text.encode())
    assert series.read(Path("own.csv"), "x", 4).values.size == 120


@pytest.mark.parametrize("cell", ["1", "-1.5", "+.5", "2.", "1e5", "1E-3", " 7 ", "\t7"])
def test_what_others_read_as_a_number_is_one(cell):
    data = series.read(Path(write(swapped(wave(), r7=cell))), None, 4)
    assert data.values[6] == float(cell)


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "NAN"])
def test_gaps_are_empty_or_nan(cell):
    data = series.read(Path(write(swapped(wave(), r7=cell))), None, 4)
    assert data.gaps() == ["d7"]


@pytest.mark.parametrize(
    "cell",
    [
        "2020_01",
        "1_000",
        "1e1_0",
        "0x10",
        "0b1",
        "\u0661\u0662",
        "\uff11",
        "\u00b2",
        "1\u00a0",
        "nAn",
        "+nan",
        "-NaN",
        "iNf",
        "infin",
        "1e",
        "e5",
        ".",
        "-",
        "+-1",
        "1 2",
        "--5",
        "\u22125",
        "1d5",
        "1j",
        "True",
        "NA",
    ],
)
def test_what_others_do_not_read_as_a_number_is_refused(cell, capsys):
    write(swapped(wave(), r7=cell))
    assert call("demo", "--no-plot", "--data", "own.csv", "--season", "4") == 2
    line = f"pyoptk: error: own.csv, line 8, column 'x': expected a number, got {cell!r}\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.usefixtures("_no_duel")
@pytest.mark.parametrize("level", [1e6, 1e12, -1e12, 1e14])
def test_a_series_far_from_zero_is_trained_on(level):
    cells = [f"{level + 10 * float(cell):.1f}" for cell in wave()]
    outcome = forecast.run(data=Path(write(cells)), season=4, epochs=20, output=None)
    assert outcome.errors["LSTM (pyoptk)"] < outcome.errors["seasonal naive"] * 1.5


@pytest.mark.parametrize(
    ("header", "column", "first"),
    [
        ("day,2020", None, "d1"),
        (",2020", None, "d1"),
        ("d0,2020", "2020", "d1"),
        ("2019,2020", "2020", "d1"),
        ("d1,1.5", "1.5", "d1"),
    ],
)
def test_a_column_may_be_named_by_a_number(header, column, first):
    data = series.read(Path(write(wave(), header=header)), column, 4)
    assert (data.labels[0], data.values.size) == (first, 120)
    assert data.column == header.split(",")[1]


def dates(spelling, count=120):
    """Days, or months where the spelling has none, oldest first."""
    step = "D" if "%d" in spelling or "%j" in spelling else "M"
    every = np.datetime64("1999-10", step) + np.arange(count)
    return [date.astype("M8[s]").item().strftime(spelling) for date in every]


SPELLINGS = ["%Y-%m-%d", "%Y-%m", "%Y%m%d", "%Y%m", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%y"]
SPELLINGS += ["%m/%d/%y", "%m/%Y", "%m.%Y", "%b %Y", "%d %b %Y", "%B %d, %Y", "%d-%b-%y", "%b-%y"]
SPELLINGS += ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d 00:00:00+01:00", "%a, %d %b %Y", "%Y Q1 %m %d"]
SPELLINGS += ["%m/%d/%Y 1:00 PM"]


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_newest_first_is_turned_round(spelling, where):
    values = wave()
    for turned in (False, True):
        rows = [[f'"{date}"', v] for date, v in zip(dates(spelling), values, strict=True)]
        rows = [["date", "x"], *(rows[::-1] if turned else rows)]
        lines = [",".join(row if where == "first" else row[::-1]) for row in rows]
        Path("own.csv").write_text("\n".join(lines) + "\n")
        # A column of numbers alone counts as dates only where it labels the rows.
        alone = where == "last" and spelling in ("%Y%m%d", "%Y%m")
        data = series.read(Path("own.csv"), "x", 4)
        assert data.turned == (turned and not alone)
        assert (data.values[0] == float(values[0])) == (not turned or not alone)


@pytest.mark.parametrize(
    "labels",
    [
        [f"d{k}" for k in range(120, 0, -1)],
        [f"{k % 12 + 1:02}-01" for k in range(120)],
        [f"{k * 7919 % 120}" for k in range(120)],
        ["2020-01-01"] * 120,
        [f"2020-10-25 0{2 + k // 60 - k // 90}:{k % 60:02}" for k in range(120)],  # an hour twice
        ["Mon", "Tue", "Wed"] * 40,
        ["", "2020-01-01"] * 60,
    ],
    ids=lambda labels: f"{labels[0]} {labels[1]}",
)
def test_labels_without_an_order_stay_as_they_are(labels):
    Path("own.csv").write_text(
        "day,x\n" + "\n".join(map(",".join, zip(labels, wave(), strict=True))) + "\n"
    )
    data = series.read(Path("own.csv"), None, 4)
    assert not data.turned
    assert data.labels == labels


@pytest.mark.usefixtures("_no_duel")
def test_newest_first_is_said_and_gaps_are_named(capsys):
    labels = [f"{2000 - k // 12}-{12 - k % 12:02}" for k in range(120)]
    cells = swapped(wave(), r1="", r40="")
    rows = map(",".join, zip(labels, cells, strict=True))
    Path("own.csv").write_text("day,x\n" + "\n".join(rows) + "\n")
    assert call("demo", "--data", "own.csv", "--season", "4", "--epochs", "1", "--no-plot") == 0
    shown = capsys.readouterr().out
    assert "rows       119, 1991-01 to 2000-11, season 4" in shown
    assert "order      newest first in the file, turned round" in shown
    assert "interpolated: 1997-09" in shown


NAMED = "own.csv, column 'x': "
UNORDERED = [*dates("%Y-%m")[:59], "2004-12", "2004-11", *dates("%Y-%m")[59:]]
# text of the file or cells of its column x, further arguments, the one line that is printed
WRONG_DATA = {
    "missing file": (None, (), "own.csv: No such file or directory"),
    "no text": (b"day,x\nd1,\xff\n", (), "own.csv, line 2: expected UTF-8 text"),
    "empty file": (b"", (), "own.csv, line 1: expected a header, got nothing"),
    "missing column": (
        wave(),
        ("--column", "price"),
        "own.csv, line 1: no column 'price'; there are 'day', 'x'",
    ),
    "several columns": (
        b"day,x,y\nd1,1,2\n",
        (),
        "own.csv, line 1: several columns, choose with --column: 'day', 'x', 'y'",
    ),
    "column twice": (b"x,x\n1,2\n", (), "own.csv, line 1: column 'x' stands there twice"),
    "no header": (
        b"d1,1.5\n",
        (),
        (
            "own.csv, line 1: expected column names, got the number 1.5"
            " (if it is a name: --column 1.5)"
        ),
    ),
    "text": (
        swapped(wave(), r7="n/a"),
        (),
        "own.csv, line 8, column 'x': expected a number, got 'n/a'",
    ),
    "infinity": (
        swapped(wave(), r7="inf"),
        (),
        "own.csv, line 8, column 'x': expected a number of at most 1e+30, got inf",
    ),
    "decimal comma": (
        swapped(wave(), r7="1,5"),
        (),
        "own.csv, line 8: expected 2 cells as in the header, got 3",
    ),
    "long gap": (
        swapped(wave(), r7="", r8="nan"),
        (),
        (
            "own.csv, lines 8-9, column 'x': 2 missing in a row;"
            " at most 1 can be interpolated (a quarter of season 4)"
        ),
    ),
    "gap and short season": (
        swapped(wave(), r7=""),
        ("--season", "3"),
        (
            "own.csv, line 8, column 'x': 1 missing in a row;"
            " at most 0 can be interpolated (a quarter of season 3)"
        ),
    ),
    "dates up and down": (
        ("day,x\n" + "".join(f"{d},{k * k}\n" for k, d in enumerate(UNORDERED))).encode(),
        (),
        (
            "own.csv, line 62, column 'day': expected rows in the order of time,"
            " got '2004-11' after '2004-12'"
        ),
    ),
    "no values": (["", "", "nan"], (), NAMED + "expected numbers, got no value in 3 rows"),
    "no rows": ([], (), NAMED + "expected numbers, got no value in 0 rows"),
    "few rows": (
        wave(40),
        (),
        NAMED + "too few rows: 40, of which 10 are held out; season 4 needs 41 to train on",
    ),
    "much held out": (
        wave(),
        ("--holdout", "100"),
        NAMED + "too few rows: 120, of which 100 are held out; season 4 needs 41 to train on",
    ),
    "long season": (
        wave(),
        ("--season", "365"),
        NAMED + "too few rows: 120, of which 30 are held out; season 365 needs 367 to train on",
    ),
    "every other row missing": (
        [cell if k % 2 else "" for k, cell in enumerate(wave())],
        (),
        NAMED + "too few rows whose neighbours have a value, too",
    ),
    "constant": (
        ["7"] * 120,
        (),
        NAMED + "the change from row to row is the same in all training rows, to the"
        " precision of float64; there is nothing to learn",
    ),
    "straight line": (
        [f"{k / 10}" for k in range(120)],
        (),
        NAMED + "the change from row to row is the same in all training rows, to the"
        " precision of float64; there is nothing to learn",
    ),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_unusable_data_gets_one_line_that_names_the_place(case, capsys):
    content, arguments, line = WRONG_DATA[case]
    if isinstance(content, bytes):
        Path("own.csv").write_bytes(content)
    elif content is not None:
        write(content)
    season = () if "--season" in arguments else ("--season", "4")
    assert call("demo", "--no-plot", "--data", "own.csv", *season, *arguments) == 2
    assert capsys.readouterr() == ("", f"pyoptk: error: {line}\n")
