"""The command line: `python -m pyoptk info`, `demo` and `bench`.

Whatever is wrong with the user's input is said in one line on stderr, with exit status 2 and no
traceback. The demos and the benchmark are imported only when one is asked for.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

import pyoptk

DEMO = """\
forecast  LSTM(64) -> LSTM(32) -> Dense(1) on the monthly CO2 at Mauna Loa, or on your own series
          (--data), one row ahead, beside three simple baselines
mlp       a ReLU and softmax classifier: Adam, RMSprop, AdaGrad, momentum and SGD side by side
linear    the line y = 3x + 2, recovered from noisy points
"""
SERIES = """\
--data takes a CSV file with a header line and one row per step in time, oldest first; the first of
several columns labels the rows. An empty cell or 'nan' is a gap. Gaps of up to a quarter of a
season are interpolated; rows without a value at either end are cut off.

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
        if not text.isdecimal() or len(text) > 18 or int(text) < least:
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
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    about = "version, instruction sets, threads, NumPy and caches"
    commands.add_parser("info", help=about, description=f"Print {about}.")
    demo = commands.add_parser(
        "demo",
        help="train a model on real data and report how good and how fast it is",
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


# ---- demo ---------------------------------------------------------------------------------------


def demo(options: argparse.Namespace) -> int:
    """Run the demo that `options` name; the exit status."""
    from .demo.parts import DemoError

    try:
        _check_demo(options)
        _run_demo(options)
    except DemoError as error:
        message = " ".join(str(error).splitlines())
        print(f"pyoptk: error: {message}", file=sys.stderr)
        return 2
    return 0


def _check_demo(options: argparse.Namespace) -> None:
    """Refuse what would fail only after the training, and what would have no effect."""
    from .demo.parts import DemoError

    if options.what != "forecast":
        for name in ("data", "column", "season", "holdout"):
            if getattr(options, name) is not None:
                raise DemoError(f"argument --{name}: not for demo {options.what}")
    if options.output is None:
        options.output = Path(f"pyoptk-{options.what}.png")
    folder = options.output.parent
    if not options.no_plot and (options.output.is_dir() or not os.access(folder, os.W_OK)):
        raise DemoError(f"argument --output: cannot write {options.output}")
    if options.threads is not None:
        try:
            pyoptk.set_num_threads(options.threads)
        except (ValueError, OverflowError) as error:
            raise DemoError(f"argument --threads: {error}") from error


def _run_demo(options: argparse.Namespace) -> None:
    from .demo import forecast, linear, mlp

    output = None if options.no_plot else options.output
    if options.what == "forecast":
        forecast.run(
            data=options.data,
            column=options.column,
            season=options.season or 12,
            held_out=options.holdout,
            epochs=options.epochs,
            seed=options.seed,
            output=output,
        )
    elif options.what == "mlp":
        mlp.run(epochs=options.epochs, seed=options.seed, output=output)
    else:
        linear.run(epochs=options.epochs, seed=options.seed, output=output)


def bench(options: argparse.Namespace) -> int:
    """Run the benchmark; the exit status."""
    from .duel import command

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
    sys.exit(main())
