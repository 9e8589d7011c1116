"""The command line: `python -m pyoptk info`, `demo` and `bench`.

An error in the user's input is one line on stderr and exit status 2, never a traceback. The demos
(demo/command.py) and the benchmark (duel/command.py) are imported only when one is asked for;
their arguments are in demo/arguments.py.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import numpy as np

import pyoptk

from . import _interrupt
from .demo.arguments import add_bench, add_demo
from .duel.machine import cache_sizes


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; None takes ``sys.argv``.

    Returns
    -------
    int
        The exit status: 0, 1 if the output cannot be written, 2 for what the user gave, 130 if
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
            folder = {"demo": "demo", "bench": "duel"}[options.command]
            return int(import_module(f".{folder}.command", "pyoptk").main(options))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:
        # Nobody reads any more, or the disk is full; keep Python's own flush at exit from
        # complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"pyoptk: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    _interrupt.catch()
    sys.exit(main())
