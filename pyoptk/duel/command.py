"""`python -m pyoptk bench`: a minute of duels with NumPy and PyTorch on the user's machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pyoptk

from .. import _interrupt
from . import machine, rows
from .picture import bars, svg
from .referee import OURS, Entry, Row, best, duration, median, middle, noise, ratios, run, spread

PEERS = {"NumPy": "numpy.py", "PyTorch": "torch.py"}


def way(peer: str, how: str) -> Entry:
    """One way of a library, as a contender."""
    return Entry(f"{peer} {how}", [OURS / PEERS[peer]], options={"implementation": how})


ENTRIES = [
    *(Entry(name, [OURS / f"{name}.py"]) for name in ("pyoptk", "roof")),
    *(way("NumPy", how) for how in ("in place", "plain")),
    *(way("PyTorch", how) for how in ("fused", "foreach")),
]
ROWS = [
    *(rows.step("Adam", n) for n in (1_000, 100_000, 1_000_000, 10_000_000)),
    rows.step("Adam", 1_000_000, max_norm=1.0),
    rows.step("Adam", 1_000, count=1_000),
    rows.step("RMSprop", 1_000_000),
    *(rows.layer(*size) for size in rows.LSTM[:3]),
    rows.forecaster(32),
    rows.mlp(),
]
ABOUT = """\
Every library works in a process of its own, and they take turns. How many times as long NumPy and
PyTorch take: the median of {rounds} rounds, and the range. Each in the faster of its ways: NumPy
with temporaries or in place, PyTorch fused or foreach. Roof: the share of what memory, or the
multiply-add units, would allow."""


def measure(
    chosen: Sequence[Row] = ROWS,
    entries: Sequence[Entry] = ENTRIES,
    *,
    threads: int,
    rounds: int = 5,
    block: float = 0.05,
) -> dict[str, Any]:
    """Run the duels (see `referee.run`), print a line for each; the result that `--json` writes."""
    told = machine.describe()
    print(f"pyoptk {pyoptk.__version__}, {told['isa']}, {machine.threads(threads)}, {told['cpu']}")
    print("\n" + ABOUT.format(rounds=rounds) + "\n")
    print(f"{'float32':34}{'time':>10}{'roof':>7}" + "".join(f"{peer:>24}" for peer in PEERS))

    def show(row: Row) -> None:
        print(line(row), flush=True)

    result = run(entries, chosen, threads=threads, rounds=rounds, block=block, show=show)
    print("\n" + ", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    for package in sorted(set(result["missing"].values())):
        print(f"{package} is not installed: left out")
    for row in result["rows"]:
        for name, error in row["errors"].items():
            print(f"{name}, {row['label']}: {error}")
    if busy := noise(result["rows"]):
        print(busy)
    return {**result, "machine": told}


def line(row: Row) -> str:
    """One row of the table."""
    cells = [f"{row['label']:34}{duration(median(row)):>10}"]
    cells.append(f"{middle(row, 'roof'):>7.0%}" if "roof" in row["seconds"] else f"{'-':>7}")
    cells += [f"{spread(ratios(row, best(row, peer))) or '-':>24}" for peer in PEERS]
    return "".join(cells)


def picture(result: dict[str, Any]) -> str:
    """How many times as long the others take, as bars on a logarithmic scale."""
    groups = []
    for row in result["rows"]:
        times = {peer: middle(row, best(row, peer)) for peer in reversed(PEERS)}
        members = [(peer, t, f"{t:.2f}x") for peer, t in times.items() if t]
        groups += [(row["label"], members)] if members else []
    figure = bars(
        "How many times as long as pyoptk",
        groups,
        palette=["PyTorch", "NumPy"],
        x_title="times as long; below 1 the other is faster",
        log=True,
        note=machine.note(result),
    )
    return svg(figure)


def main(options: argparse.Namespace) -> int:
    """Run the benchmark that `options` ask for; the exit status."""
    if sys.platform == "win32":
        print("pyoptk: error: bench: it needs a POSIX system, such as WSL", file=sys.stderr)
        return 2
    for name in ("json", "plot"):
        path = getattr(options, name)
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            print(f"pyoptk: error: argument --{name}: cannot write {path}", file=sys.stderr)
            return 2
    if options.plot is not None and find_spec("matplotlib") is None:
        need = "needs matplotlib: python -m pip install matplotlib"
        print(f"pyoptk: error: argument --plot: {need}", file=sys.stderr)
        return 2
    result = measure(threads=options.threads or pyoptk.get_num_threads())
    with _interrupt.held():
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if options.plot is not None:
            options.plot.write_text(picture(result), encoding="utf-8")
    if options.plot is not None:
        print(f"picture: {options.plot}")
    return 0
