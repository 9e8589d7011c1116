"""One column of a user's CSV file, as numbers in the order of time; pandas reads it.

`series.py` calls `read`; `dates.py` sorts the rows. What cannot be read raises `DemoError` with
file, line and column. Everything that was not taken as it stands is a note for the report. pandas
is imported here and in `dates.py` alone, when a file is read.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import dates
from .parts import DemoError

LARGEST = 1e30  # beyond it the squares of float32 changes are not safe, and no measurement lies
GAPS = ("", "na", "n/a", "#n/a", "nan", "null", "none", "?", ".")  # in upper case as well
SPACES = " \u00a0\u202f'\u2019"  # between thousands, whatever the decimal sign is
# Which sign is the decimal one where each of them may be, by the separator of cells.
LIKELY = {(",", ","): ".", (",", "."): ".", ("\t", "."): ".", (";", ","): ","}


@dataclass(frozen=True)
class Cells:
    """The text of a file.

    Attributes
    ----------
    path : Path
    separator : str
    header : list of str
    top : int
        Line number of the header.
    lines : int array [N]
        Line numbers of the rows.
    frame : pandas.DataFrame
        Text without blanks around it, columns by their index; short rows are refused.
    """

    path: Path
    separator: str
    header: list[str]
    top: int
    lines: NDArray[np.intp]
    frame: Any

    def place(self, row: int, at: int) -> str:
        """File, line and column of a cell, for an error."""
        return f"{self.path}, line {self.lines[row]}, column '{self.header[at]}'"


def read(
    path: Path, column: str | None, missing: Sequence[str], decimal: str | None
) -> tuple[str, dates.Rows, NDArray[np.float64], dates.Notes]:
    """One column of a CSV file: its name, rows, values (NaN for a gap), and notes for the report.

    Parameters
    ----------
    path : Path
    column : str or None
        Name in the header; None takes the only column that is not the first one.
    missing : sequence of str
        Cells that stand for a gap, besides `GAPS`.
    decimal : str or None
        ``"."`` or ``","``; None finds out.

    Raises
    ------
    DemoError
        With file, line and column of what cannot be read.
    """
    try:
        import pandas
    except ImportError as error:
        raise DemoError("argument --data: needs pandas: python -m pip install pandas") from error
    notes: dates.Notes = []
    cells = _split(pandas, path, _text(path, notes))
    at = _find_column(cells, column)
    values = _numbers(cells, at, missing, decimal, notes)
    rows = dates.arrange(pandas, cells, at, values, notes)
    taken = np.append(values, np.nan)[rows.taken]  # -1 is a row that the file lacks
    return cells.header[at], rows, taken, notes


# ---- text and cells -----------------------------------------------------------------------------


def _text(path: Path, notes: dates.Notes) -> str:
    """The file's text, unpacked: UTF-8, UTF-16, or what old spreadsheets write."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DemoError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise DemoError(f"{str(path)!r}: {error}") from error
    ways = ["utf-8-sig", "cp1252", "latin-1"]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        ways = ["utf-16", *ways]
    elif data[1:2] == b"\0" or data[:1] == b"\0":
        ways = ["utf-16-be" if data[:1] == b"\0" else "utf-16-le", *ways]
    for way in ways:
        try:
            text = data.decode(way)
            break
        except UnicodeDecodeError:
            continue
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DemoError(f"{path}, line {line}: expected text, got a file of another kind")
    if way != "utf-8-sig":
        notes.append(("encoding", way))
    return text


def _split(pandas: Any, path: Path, text: str) -> Cells:
    """The cells of all lines but blank ones and comments, which begin with #."""
    every = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if re.fullmatch("sep=.", every[0]):  # for Excel
        every[0] = ""
    kept = [k for k, line in enumerate(every) if line.strip() and not line.startswith("#")]
    while kept and not every[kept[-1]].strip(" ,;\t"):  # rows that were emptied in a spreadsheet
        kept.pop()
    if not kept:
        raise DemoError(f"{path}, line 1: expected a header, got nothing")
    counts = {s: {every[k].count(s) for k in kept[:2]} for s in ";\t"}
    separator = next((s for s, found in counts.items() if len(found) == 1 and max(found)), ",")
    try:
        frame = pandas.read_csv(
            io.StringIO("\n".join(every[k] for k in kept)),
            sep=separator, header=None, dtype=str, keep_default_na=False, engine="python",
            skipinitialspace=True,
        )  # fmt: skip
    except pandas.errors.ParserError as error:
        raise DemoError(_parser_error(path, every, kept, str(error))) from error
    # Quoted cells may hold ends of lines.
    within = frame.apply(lambda cells: cells.str.count("\n").fillna(0)).sum(axis=1)
    starts = np.arange(len(frame)) + (within.cumsum() - within).to_numpy(int)
    lines = np.array(kept)[starts] + 1
    short = frame.isna()
    if short.to_numpy().any():
        row = int(short.any(axis=1).to_numpy().argmax())
        raise DemoError(
            f"{path}, line {lines[row]}: expected {frame.shape[1]} cells as in the header,"
            f" got {frame.shape[1] - int(short.iloc[row].sum())}"
        )
    frame = frame.apply(lambda cells: cells.str.strip())
    header, frame = list(frame.iloc[0]), frame.iloc[1:].reset_index(drop=True)
    used = [k for k, name in enumerate(header) if name or (frame[k] != "").any()]
    frame = frame[used].set_axis(range(len(used)), axis=1)
    return Cells(path, separator, [header[k] for k in used], int(lines[0]), lines[1:], frame)


def _parser_error(path: Path, every: list[str], kept: list[int], message: str) -> str:
    """A line about pandas' error, which counts the lines that it was given."""
    if message.startswith("unexpected end of data"):
        line = max((k for k in kept if every[k].count('"') % 2), default=kept[-1]) + 1
        return f"{path}, line {line}: expected a quote that ends, got one that is open at the end"
    found = re.fullmatch(r"Expected (\d+) fields in line (\d+), saw (\d+).*", message, re.DOTALL)
    if found is None:
        return f"{path}, line {kept[-1] + 1}: {' '.join(message.split())}"
    wanted, line, got = map(int, found.groups())
    return f"{path}, line {kept[line - 1] + 1}: expected {wanted} cells as in the header, got {got}"


def _find_column(cells: Cells, column: str | None) -> int:
    """The index of `column` in the header, or of the only one it can be."""
    where, header = f"{cells.path}, line {cells.top}", cells.header
    known = ", ".join(f"'{name}'" for name in header)
    if column is None:
        if len(header) > 2:
            raise DemoError(f"{where}: several columns, choose with --column: {known}")
        at = len(header) - 1
    elif column in header:
        at = header.index(column)
    else:
        raise DemoError(f"{where}: no column '{column}'; there are {known}")
    if header.count(header[at]) > 1:
        raise DemoError(f"{where}: column '{header[at]}' stands there twice")
    # A number may be a name such as 2020, below a word and above labels that are none.
    first = cells.frame.iat[0, 0] if len(cells.frame) else ""
    named = at > 0 and not _has_digit(header[0]) and _has_digit(first)
    if column is None and re.fullmatch(_pattern("."), header[at]) and not named:
        raise DemoError(
            f"{where}: expected column names, got the number {header[at]}"
            f" (if it is a name: --column {header[at]})"
        )
    return at


def _has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)


# ---- numbers ------------------------------------------------------------------------------------


def _pattern(decimal: str) -> str:
    """Numbers with this decimal sign, their thousands separated or not."""
    between = "[" + SPACES + (r"." if decimal == "," else ",") + "]"
    whole = rf"[1-9][0-9]{{0,2}}(?:{between}[0-9]{{3}})+|[0-9]+"
    return rf"[+-]?(?:(?:{whole})(?:\{decimal}[0-9]*)?|\{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?"


def _plain(number: str, decimal: str) -> str:
    """What matches `_pattern`, as Python writes it."""
    groups = f"[{SPACES}{'.' if decimal == ',' else ','}]"
    return re.sub(groups, "", number).replace(",", ".")


def _numbers(
    cells: Cells, at: int, missing: Sequence[str], given: str | None, notes: dates.Notes
) -> NDArray[np.float64]:
    """The column's numbers, NaN for gaps."""
    text = cells.frame[at]
    said = text.isin(missing)
    gaps = text.str.lower().isin(GAPS) | said
    decimal = given or _decimal_sign(cells, at, text[~gaps], notes)
    wrong = (~(gaps | text.str.fullmatch(_pattern(decimal)))).to_numpy(bool)
    if wrong.any():
        row = int(wrong.argmax())
        number = "number" if decimal == "." else "number with a decimal comma"
        raise DemoError(f"{cells.place(row, at)}: expected a {number}, got {_shown(text[row])}")
    plain = text.map(lambda cell: _plain(cell, decimal)).mask(gaps, "nan")
    values: NDArray[np.float64] = plain.to_numpy().astype(np.float64)
    numbers = [float(_plain(word, ".")) for word in missing if re.fullmatch(_pattern("."), word)]
    sentinels = np.isin(values, numbers)
    large = np.abs(values) > LARGEST
    if large.any():
        row = int(large.argmax())
        raise DemoError(
            f"{cells.place(row, at)}: expected a number of at most {LARGEST:g},"
            f" got {_shown(text[row])}"
        )
    changed = np.flatnonzero((plain != text) & ~gaps)
    if changed.size:
        notes.append(("numbers", f"{_shown(text[changed[0]])} is read as {plain[changed[0]]}"))
    if missing:
        notes.append(("missing", f"by --missing: {int((said | sentinels).sum())}"))
    return np.where(sentinels, np.nan, values)


def _decimal_sign(cells: Cells, at: int, text: Any, notes: dates.Notes) -> str:
    """The decimal sign that fits the most cells; of two that fit as many, the likely one."""
    fits = {sign: int(text.str.fullmatch(_pattern(sign)).sum()) for sign in ".,"}
    if fits["."] != fits[","]:
        return max(fits, key=lambda sign: fits[sign])
    signs = text[text.str.contains("[.,]", regex=True)]
    if signs.empty:
        return "."
    either = "," if "," in signs.iloc[0] else "."
    if (cells.separator, either) not in LIKELY:
        raise DemoError(
            f"{cells.place(signs.index[0], at)}: {_shown(signs.iloc[0])} can be read in two ways:"
            " choose with --decimal . or --decimal ,"
        )
    likely = LIKELY[cells.separator, either]
    if (cells.separator, either) == ("\t", "."):
        read = f"{_shown(signs.iloc[0])} is read with a decimal point"
        notes.append(("numbers", f"{read}; if it separates thousands: --decimal ,"))
    return likely


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")
