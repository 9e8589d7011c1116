"""`python -m pyoptk demo`: checks the arguments that the parser cannot, then runs the demo."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pyoptk

from . import forecast, linear, mlp
from .parallel import end_all, says, world
from .parts import DemoError

FORECAST_ONLY = ["data", "column", "season", "missing", "decimal"]
FORECAST_ONLY += ["holdout", "ahead", "mpi", "cell"]


def main(options: argparse.Namespace) -> int:
    """Run the demo that `options` name; the exit status."""
    options.comm = None
    try:
        _check(options)
        options.comm = world(options.threads) if options.mpi else None
        _run(options)
    except DemoError as error:
        message = " ".join(str(error).splitlines())
        if options.comm is None or says(options.comm):
            print(f"pyoptk: error: {message}", file=sys.stderr, flush=True)
        return 2
    except BaseException:
        if options.comm is not None:
            end_all(1)
        raise
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what would fail only after the training, and what would have no effect."""
    if options.what != "forecast":
        for name in FORECAST_ONLY:
            if getattr(options, name) is not None:
                raise DemoError(f"argument --{name}: not for demo {options.what}")
    for name in ("column", "missing", "decimal"):
        if options.data is None and getattr(options, name) is not None:
            raise DemoError(f"argument --{name}: expected --data as well")
    if options.output is None:
        options.output = Path(f"pyoptk-{options.what}.png")
    folder = options.output.parent
    if not options.no_plot and (options.output.is_dir() or not os.access(folder, os.W_OK)):
        raise DemoError(f"argument --output: cannot write {options.output}")
    table = options.output.with_suffix(".csv")
    if options.ahead and (table.is_dir() or not os.access(folder, os.W_OK)):
        raise DemoError(f"argument --ahead: cannot write {table}")
    if options.ahead and options.data and table.exists() and table.samefile(options.data):
        raise DemoError(f"argument --output: {table} is what --data reads")
    if options.threads is not None:
        try:
            pyoptk.set_num_threads(options.threads)
        except (ValueError, OverflowError) as error:
            raise DemoError(f"argument --threads: {error}") from error


def _run(options: argparse.Namespace) -> None:
    output = None if options.no_plot else options.output
    if options.what == "forecast":
        forecast.run(
            comm=options.comm,
            data=options.data,
            column=options.column,
            season=options.season or 12,
            missing=options.missing or (),
            decimal=options.decimal,
            held_out=options.holdout,
            epochs=options.epochs,
            seed=options.seed,
            output=output,
            rows_ahead=options.ahead,
            table=options.output.with_suffix(".csv"),
            cell=options.cell or "lstm",
        )
    elif options.what == "mlp":
        mlp.run(epochs=options.epochs, seed=options.seed, output=output)
    else:
        linear.run(epochs=options.epochs, seed=options.seed, output=output)
