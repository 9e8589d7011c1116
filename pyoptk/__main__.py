"""The command line: `python -m pyoptk info`, `demo` and `bench`.

An error in the user's input is one line on stderr and exit status 2, never a traceback. The demos
(demo/command.py) and the benchmark (duel/command.py) are imported only when one is asked for.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

import pyoptk

from . import _interrupt
from .demo.arguments import add_demo, at_least, file


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        self.exit(2, f"pyoptk: error: {message}\n")


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
    add_demo(commands)
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
