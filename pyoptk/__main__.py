"""The command line: `python -m pyoptk info`, `demo` and `bench`.

An error in the user's input is one line on stderr and exit status 2, never a traceback. The demos
(demo/command.py) and the benchmark (bench/command.py) are imported only when one is asked for.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

import pyoptk

from . import _interrupt

DEMO = """\
forecast  LSTM(64) -> LSTM(32) -> Dense(1) on the monthly CO2 at Mauna Loa, or on your own series
          (--data), one row ahead, beside three simple baselines
mlp       a ReLU and softmax classifier: Adam, RMSprop, AdaGrad, momentum and SGD side by side, on
          the handwritten digits of scikit-learn where it is installed, else on made-up points
linear    the line y = 3x + 2, recovered from made-up noisy points
"""
SERIES = """\
--data takes a CSV file in UTF-8 with a header line and one row per step in time; the first of
several columns labels the rows. Rows with the newest first are turned round if their dates say so.
An empty cell or 'nan' is a gap. Gaps of up to a quarter of a season are interpolated; rows without
a value at either end are cut off.

example: python -m pyoptk demo --data sales.csv --column units --season 12
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        self.exit(2, f"pyoptk: error: {message}\n")


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


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="python -m pyoptk",
        description="Compiled optimizer and LSTM kernels that work in place on NumPy buffers.",
    )
    parser.add_argument("--version", action="version", version=f"pyoptk {pyoptk.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    about = "version, instruction sets, threads, NumPy and caches"
    commands.add_parser("info", help=about, description=f"Print {about}.")
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
    series = demo.add_argument_group("forecast only")
    series.add_argument("--data", type=Path, metavar="FILE.csv", help="your own series")
    series.add_argument(
        "--column", metavar="NAME", help="its column (default: the only one beside the first)"
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
    add_bench(commands)
    return parser


def add_bench(commands: argparse._SubParsersAction[Parser]) -> None:
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


# ---- info ---------------------------------------------------------------------------------------


def info() -> None:
    """Print what a bug report should say about this machine and this build."""
    built = pyoptk.isas()
    usable = [name for name, ok in built.items() if ok]
    rows = {
        "pyoptk": pyoptk.__version__,
        "instruction sets built": " ".join(built),
        "usable here": " ".join(usable),
        "chosen": pyoptk.isa(),
        "threads": f"{pyoptk.get_num_threads()} ({pyoptk.threads_backend()})",
        "NumPy": np.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "caches": ", ".join(cache_sizes()) or "unknown",
    }
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:{width}}  {text}")


def cache_sizes() -> list[str]:
    """The caches of the first core, as in ``['L1d 32 KiB', 'L2 1 MiB']``; empty if not known."""
    if sys.platform == "darwin":
        return _cache_sizes_of_macos()
    sizes = []
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (cache / name).read_text().strip() for name in ("level", "type", "size")
            )
            if kind != "Instruction":
                suffix = "d" if kind == "Data" else ""
                sizes.append(f"L{level}{suffix} {_bytes(int(size.removesuffix('K')) * 1024)}")
        except (OSError, ValueError):
            continue
    return sizes


def _cache_sizes_of_macos() -> list[str]:
    sizes = []
    for title, key in (("L1d", "l1dcachesize"), ("L2", "l2cachesize"), ("L3", "l3cachesize")):
        try:
            command = ["/usr/sbin/sysctl", "-n", f"hw.{key}"]
            text = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=5
            ).stdout
            sizes.append(f"{title} {_bytes(int(text))}")
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
    return sizes


def _bytes(size: int) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


# ---- demo and bench -----------------------------------------------------------------------------


def demo(options: argparse.Namespace) -> int:
    """Run the demo that `options` name; the exit status."""
    from .demo import command

    return command.demo(options)


def bench(options: argparse.Namespace) -> int:
    """Run the benchmark; the exit status."""
    from .bench import command

    for name in ("json", "plot"):
        path = getattr(options, name)
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            print(f"pyoptk: error: argument --{name}: cannot write {path}", file=sys.stderr)
            return 2
    command.bench(options.threads, options.json, options.plot)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; None takes ``sys.argv``.

    Returns
    -------
    int
        The exit status: 0, 1 if nobody reads the output, 2 for what the user gave, 130 if
        interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks: \u2082
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        if options.command is None:
            parser.print_help()
        elif options.command == "info":
            info()
        else:
            return {"demo": demo, "bench": bench}[options.command](options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Nobody reads any more; keep Python's own flush at exit from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    _interrupt.catch()
    sys.exit(main())
