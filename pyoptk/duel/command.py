"""`python -m pyoptk bench`: a minute of duels with NumPy and PyTorch on the user's machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import pyoptk

from .. import _interrupt
from . import machine, rows, svg
from .referee import OURS, Entry, Row, duration, fastest, median, noise, ratios, run

ENTRIES = [
    Entry("pyoptk", [OURS / "pyoptk.py"]),
    Entry("roof", [OURS / "roof.py"]),
    Entry("NumPy", [OURS / "numpy.py"], options={"implementation": "in place"}),
    Entry("NumPy, plain", [OURS / "numpy.py"], options={"implementation": "plain"}),
    Entry("PyTorch", [OURS / "torch.py"], options={"implementation": "fused"}),
    Entry("PyTorch, foreach", [OURS / "torch.py"], options={"implementation": "foreach"}),
]
PEERS = {"NumPy": ("NumPy", "NumPy, plain"), "PyTorch": ("PyTorch", "PyTorch, foreach")}
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
    plural = "" if threads == 1 else "s"
    print(f"pyoptk {pyoptk.__version__}, {told['isa']}, {threads} thread{plural}, {told['cpu']}\n")
    print(ABOUT.format(rounds=rounds), end="\n\n")
    print(f"{'float32':34}{'time':>10}{'roof':>7}" + "".join(f"{peer:>22}" for peer in PEERS))

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
    roof = ratios(row, "roof")
    share = f"{roof[len(roof) // 2]:.0%}" if roof else "-"
    cells = [f"{row['label']:34}{duration(median(row)):>10}{share:>7}"]
    for names in PEERS.values():
        found = ratios(row, fastest(row, names))
        range_ = f"({found[0]:.2f} to {found[-1]:.2f})" if found else ""
        cells.append(f"{found[len(found) // 2]:7.2f} {range_:>14}" if found else f"{'-':>22}")
    return "".join(cells)


def picture(result: dict[str, Any]) -> str:
    """How many times as long the others take, as bars on a logarithmic scale."""
    palette = ["PyTorch", "NumPy"]
    groups = []
    for row in result["rows"]:
        found = {peer: ratios(row, fastest(row, PEERS[peer])) for peer in palette}
        middles = {peer: times[len(times) // 2] for peer, times in found.items() if times}
        members = [(peer, middle, f"{middle:.2f}x") for peer, middle in middles.items()]
        if members:
            groups.append((row["label"], members))
    told = result["machine"]
    return svg.bars(
        "How many times as long as pyoptk",
        groups,
        palette=palette,
        x_title="times as long; below 1 the other is faster",
        log=True,
        note=f"{told['cpu']}, {result['threads']} thread(s), {told['date']}",
    )


def main(options: argparse.Namespace) -> int:
    """Run the benchmark that `options` ask for; the exit status."""
    for name in ("json", "plot"):
        path = getattr(options, name)
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            print(f"pyoptk: error: argument --{name}: cannot write {path}", file=sys.stderr)
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
