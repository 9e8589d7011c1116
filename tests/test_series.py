"""How the demo reads a CSV file: text, numbers, gaps, names, dates; one line for the rest."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from commands import SEASONAL, call, swapped, wave, write

from pyoptk.demo import forecast, series
from pyoptk.demo.parts import DemoError

pytest.importorskip("pandas")
pytestmark = pytest.mark.usefixtures("empty_folder")


def read(content, column=None, **options):
    """A series of season 4 from a file with this text or these bytes."""
    data = content.encode() if isinstance(content, str) else content
    Path("own.csv").write_bytes(data)
    return series.read(Path("own.csv"), column, 4, **options)


def table(cells, labels=None, separator=",", header=("day", "x"), comment=""):
    """The text of a file of two columns."""
    labels = labels or [f"d{k}" for k in range(1, len(cells) + 1)]
    rows = [header, *zip(labels, cells, strict=True)]
    return comment + "".join(separator.join(row) + "\n" for row in rows)


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


VALUES = [float(cell) for cell in wave()]
GERMAN = [cell.replace(".", ",") for cell in wave()]
PLAIN = table(wave())
# content of the file, and the words of the notes that are made about it
FILES = {
    "Windows": (PLAIN.replace("\n", "\r\n"), []),
    "old Macintosh": (PLAIN.replace("\n", "\r"), []),
    "byte order mark": (PLAIN.encode("utf-8-sig"), []),
    "UTF-16": (PLAIN.encode("utf-16"), ["encoding"]),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), ["encoding"]),
    "UTF-16, big end first": (PLAIN.encode("utf-16-be"), ["encoding"]),
    "Latin-1": (table(wave(), header=("Tag", "Stra\u00dfe")).encode("latin-1"), ["encoding"]),
    "gzip": (gzip.compress(PLAIN.encode()), []),
    "tab": (table(wave(), separator="\t"), []),
    "semicolon": (table(wave(), separator=";"), []),
    "semicolon and decimal comma": (table(GERMAN, separator=";"), ["numbers"]),
    "tab and decimal comma": (table(GERMAN, separator="\t"), ["numbers"]),
    "quoted decimal comma": (table([f'"{cell}"' for cell in GERMAN]), ["numbers"]),
    "semicolon in the header alone": (table(wave(), header=("day", "x; y")), []),
    "separator in a quoted label": (table(wave(), [f'"a,{k}"' for k in range(120)]), []),
    "lines in a quoted label": (table(wave(), [f'"a\nb{k}"' for k in range(120)]), []),
    "comments": (table(wave(), comment="# a, b\n#\n\n") + "# the end\n", []),
    "blanks": (table([f"  {cell}\t " for cell in wave()]), []),
    "separators at the ends": (PLAIN.replace("\n", ",\n"), []),
    "Excel's first line": ("sep=;\n" + table(wave(), separator=";"), []),
    "emptied rows at the end": (
        table(wave(), [str(np.datetime64("2000-01") + k) for k in range(120)]) + ",\n,\n",
        [],
    ),
    "no-break space": (table([cell + "\u00a0" for cell in wave()]), []),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_read_and_what_was_done_is_noted(kind):
    content, notes = FILES[kind]
    data = read(content)
    np.testing.assert_array_equal(data.values, VALUES)
    assert [word for word, _ in data.notes] == notes


# cells, separator, and the values of the first two
NUMBERS = {
    "thousands": (['"1,234.5"', '"2,000,000"'], ",", [1234.5, 2e6]),
    "thousands alone": (['"1,234"', '"12,345"'], ",", [1234, 12345]),
    "thousandths": (["1.234", "12.345"], ",", [1.234, 12.345]),
    "thousandths with a comma": (["1,234", "12,345"], ";", [1.234, 12.345]),
    "points and comma": (["1.234,5", "-2.000.000"], ";", [1234.5, -2e6]),
    "points twice": (["1.234", "2.000.000"], ";", [1234, 2e6]),
    "blank": (["1 234,5", "12\u00a0345"], ";", [1234.5, 12345]),
    "apostrophe": (["1'234.5", "12\u2019345"], ";", [1234.5, 12345]),
    "below one": (["0,123", "12,345"], "\t", [0.123, 12.345]),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_thousands_and_decimals_are_told_apart(kind):
    cells, separator, values = NUMBERS[kind]
    data = read(table(cells * 60, separator=separator))
    assert list(data.values[:2]) == values


@pytest.mark.parametrize(("decimal", "value"), [(".", 1.234), (",", 1234)])
def test_what_can_be_read_in_two_ways_has_an_option(decimal, value, capsys):
    text = table(["1.234", "2.345"] * 60, separator=";")
    assert read(text, decimal=decimal).values[0] == value
    assert call("demo", "--no-plot", "--data", "own.csv") == 2
    wanted = "own.csv, line 2, column 'x': '1.234' can be read in two ways: choose with --decimal"
    assert wanted in capsys.readouterr().err
    ((_, said),) = read(text.replace(";", "\t")).notes
    assert said == "'1.234' is read with a decimal point; if it separates thousands: --decimal ,"


@pytest.mark.parametrize("sentinel", ["-99.99", "-99.990", "-999900e-4", "closed", "-9999.50"])
def test_a_cell_can_be_said_to_be_missing(sentinel):
    cells = swapped(wave(), r7=sentinel, r9="NA")
    data = read(table(cells), missing=["-99.99", "closed", "-9,999.5"])
    assert data.gaps() == ["d7", "d9"]
    assert data.notes == [("missing", "by --missing: 1")]


@pytest.mark.parametrize("cell", ["1", "-1.5", "+.5", "2.", "1e5", "1E-3", " 7 ", "\t7"])
def test_what_others_read_as_a_number_is_one(cell):
    data = series.read(Path(write(swapped(wave(), r7=cell))), None, 4)
    assert data.values[6] == float(cell)


@pytest.mark.parametrize(
    "cell", ["", " ", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "None", "?", "."]
)
def test_gaps_are_empty_or_words_that_others_write(cell):
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
        "+nan",
        "-NaN",
        "inf",
        '"1,23,4"',
        '"1,2345"',
        "5%",
        "1e",
        "e5",
        "-",
        "+-1",
        "1 2",
        "1 23",
        "--5",
        "\u22125",
        "1d5",
        "1j",
        "True",
    ],
)
def test_what_others_do_not_read_as_a_number_is_refused(cell, capsys):
    write(swapped(wave(), r7=cell))
    assert call("demo", "--no-plot", "--data", "own.csv", "--season", "4") == 2
    got = repr(cell.strip('"'))
    line = f"pyoptk: error: own.csv, line 8, column 'x': expected a number, got {got}\n"
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


NAMED = "own.csv, column 'x': "
OPEN = "own.csv, line 3: expected a quote that ends, got one that is open at the end"
# text of the file or cells of its column x, further arguments, the one line that is printed
WRONG_DATA = {
    "missing file": (None, (), "own.csv: No such file or directory"),
    "no text": (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        (),
        "own.csv, line 3: expected text, got a file of another kind",
    ),
    "another alphabet": (
        b"day,x\nd1,\xff\n",
        (),
        "own.csv, line 2, column 'x': expected a number, got '\xff'",
    ),
    "half a gzip file": (
        gzip.compress(PLAIN.encode())[:100],
        (),
        (
            "own.csv: damaged gzip file:"
            " Compressed file ended before the end-of-stream marker was reached"
        ),
    ),
    "open quote": (b'day,x\nd1,1\nd2,"2\nd3,3', (), OPEN),
    "one cell too few": (
        PLAIN.replace("d7,", "d7 ").encode(),
        (),
        "own.csv, line 8: expected 2 cells as in the header, got 1",
    ),
    "below comments": (
        b"# a\n\nday,x\n# b\nd1,1\nd2,y\n",
        (),
        "own.csv, line 6, column 'x': expected a number, got 'y'",
    ),
    "point in German": (
        table(swapped(GERMAN, r7="1.5"), separator=";").encode(),
        (),
        "own.csv, line 8, column 'x': expected a number with a decimal comma, got '1.5'",
    ),
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
        swapped(wave(), r7="n.a."),
        (),
        "own.csv, line 8, column 'x': expected a number, got 'n.a.'",
    ),
    "too large": (
        swapped(wave(), r7="1e31"),
        (),
        "own.csv, line 8, column 'x': expected a number of at most 1e+30, got '1e31'",
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


ODD = [
    "",
    "NA",
    "1,5",
    "1.234,5",
    "x",
    "#",
    '"',
    "'",
    "-99",
    "1e400",
    "\u0663",
    "2020-13-45",
    "Mon",
]
HEADERS = [("day", "x"), ("day", "x"), ("x", "day"), ("year", "x"), ("", "x"), ("x", "x")]


def read_or_refusal(data):
    try:
        return read(data, "x", missing=["-99"])
    except DemoError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_read_or_refused_in_one_line(seed):
    rng = np.random.default_rng(seed)
    for _ in range(15):
        labels = [str(np.datetime64("2019-12-28") + k) for k in range(rng.choice([0, 1, 40]))]
        cells = [f"{k * k % 7}.5" for k in range(len(labels))]
        for k in rng.integers(0, 60, 3):
            if k < len(cells):
                (cells, labels)[k % 2][k] = rng.choice(ODD)
        text = table(cells, labels, rng.choice(list(",;\t")), rng.choice(HEADERS))
        data = bytearray(text.encode(rng.choice(["utf-8", "utf-16"])))
        for k in rng.integers(0, 9 * len(data), 2):  # often none
            data[k : k + 1] = rng.bytes(1) if k < len(data) else b""
        found = read_or_refusal(bytes(data))
        if isinstance(found, str):
            assert found.startswith(("own.csv, ", "own.csv: "))
            assert "\n" not in found
        else:
            assert np.isfinite(found.values).all()
            assert len(found.values) == len(found.labels) == len(found.observed)
