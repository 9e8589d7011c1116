"""The arguments of `python -m pyoptk demo` and `bench`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEMO = """\
forecast  LSTM(64) -> LSTM(32) -> Linear(1) on the monthly CO2 at Mauna Loa, or on your own series
          (--data), one row ahead, beside three simple baselines
mlp       a ReLU and softmax classifier: Adam, RMSprop, AdaGrad, momentum and SGD side by side, on
          the handwritten digits of scikit-learn where it is installed, else on made-up points
linear    the line y = 3x + 2, recovered from made-up noisy points
"""
SERIES = """\
--data takes a CSV file, .gz as well, with a header line and one row per step in time. Cells are
separated by ',' ';' or tabs; the decimal sign is '.' or ','; thousands may be separated. Lines that
begin with # are comments. Rows are sorted by their dates, which stand in the first column or in
columns named year and month, or date and time; rows that stand there twice are used once. A cell
that is empty or one of NA, nan, null, ? and . is a gap, and so is a row that the dates lack. Gaps
of up to a quarter of a season are interpolated; rows without a value at either end are cut off. The
report says all that was done. Files are read by pandas: python -m pip install pandas

example: python -m pyoptk demo --data sales.csv --column units --season 12 --ahead 12
"""


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers of at least `least`."""

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) <= 18
        if not digits or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, got {text[:40]!r}"
            )
        return int(text)

    return parse


def file(ending: str) -> Callable[[str], Path]:
    """A parser of file names with this ending."""

    def parse(text: str) -> Path:
        if Path(text).suffix != ending:
            raise argparse.ArgumentTypeError(
                f"expected a file name ending in {ending}, got {text!r}"
            )
        return Path(text)

    return parse


def add_demo(commands: argparse._SubParsersAction[Any]) -> None:
    """The parser of `demo`."""
    demo = commands.add_parser(
        "demo",
        help="train a small model and report how good and how fast it is",
        description=f"Train a model and report how good and how fast it is.\n\n{DEMO}",
        epilog=SERIES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "what",
        nargs="?",
        choices=("forecast", "mlp", "linear"),
        default="forecast",
        help="which demo (default: forecast)",
    )
    common = demo.add_argument_group("all demos")
    common.add_argument("--epochs", type=at_least(1), metavar="N", help="passes over the data")
    common.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of everything random (default: 0)"
    )
    common.add_argument(
        "--threads", type=at_least(1), metavar="N", help="threads of pyoptk (default: see info)"
    )
    common.add_argument(
        "--output",
        type=file(".png"),
        metavar="FILE.png",
        help="where to save the picture (default: pyoptk-forecast.png, pyoptk-mlp.png, ...)",
    )
    common.add_argument("--no-plot", action="store_true", help="save no picture")
    _add_forecast(demo)


def _add_forecast(demo: argparse.ArgumentParser) -> None:
    series = demo.add_argument_group("forecast only")
    series.add_argument(
        "--mpi",
        action="store_true",
        default=None,
        help="train on all ranks of MPI: mpiexec -n 4 python -m mpi4py -m pyoptk demo --mpi",
    )
    series.add_argument(
        "--cell",
        choices=("lstm", "gru", "rnn", "mingru"),
        help="of both recurrent layers (default: lstm)",
    )
    series.add_argument("--data", type=Path, metavar="FILE.csv", help="your own series")
    series.add_argument(
        "--column", metavar="NAME", help="its column (default: the only one beside the first)"
    )
    series.add_argument(
        "--missing",
        action="append",
        metavar="CELL",
        help="a cell that stands for a gap, such as -99.99; may be given several times",
    )
    series.add_argument(
        "--decimal", choices=(".", ","), help="its decimal sign, where numbers leave it open"
    )
    series.add_argument(
        "--season", type=at_least(1), metavar="N", help="rows per season (default: 12)"
    )
    series.add_argument(
        "--holdout",
        type=at_least(1),
        metavar="N",
        help="last rows, kept for the test (default: 120, or a quarter of a shorter series)",
    )
    series.add_argument(
        "--ahead",
        type=at_least(1),
        metavar="N",
        help="write the next N rows to a CSV file beside the picture, and what 9 of 10 held-out"
        " errors of such forecasts were below",
    )


def add_bench(commands: argparse._SubParsersAction[Any]) -> None:
    """The parser of `bench`."""
    about = "time optimizer steps, LSTMs and a forecaster against NumPy and PyTorch"
    bench = commands.add_parser(
        "bench",
        help=about,
        description=f"In about a minute: {about} (where it is installed), and against the roof.",
    )
    bench.add_argument(
        "--threads", type=at_least(1), metavar="N", help="of every library (default: see info)"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all rounds there")
    bench.add_argument("--plot", type=file(".svg"), metavar="FILE.svg", help="draw a picture")
