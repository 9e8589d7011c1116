"""Two commits side by side: ``python -m bench.compare BASE [HEAD]``.

Builds both in environments of their own and lets them run the quick set of the benchmarks by turns,
each in a process of its own, with the benchmarks of this checkout. BASE takes part twice: how far
it is from itself is the noise. A row is beyond the noise if its ratio is on one side of 1 in every
round and its median is outside whatever the second BASE reached. Exit status 1 if one is slower so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pyoptk.bench.duel import Entry, Row, ratios, run

from . import kernel

ROOT = Path(__file__).parents[1]
LEAST = 0.03  # a median nearer to 1 than this is nobody's business


def build(commit: str, folder: Path) -> str:
    """Install one commit into an environment of its own; the Python of that."""
    source = folder / "source"
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", commit], check=True, capture_output=True
    )
    source.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, check=True)
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, str(source)], check=True)
    return str(python)


def quick_rows(only: str = "") -> list[Row]:
    """The quick set as rows of a duel."""
    rows = []
    for file in kernel.FILES:
        module = SimpleNamespace(**kernel.runpy.run_path(str(kernel.HERE / file)))
        for name, dtype, size, _, contender in kernel.rows_of(module, quick=True):
            label = f"{name} {dtype} {module.describe(size)}"
            if contender == "ours" and only in label:
                sizes = {"file": file, "name": name, "dtype": dtype, "size": size}
                rows.append({"label": label, "task": "kernel", "sizes": sizes, "settings": {}})
    return rows


def pool(games: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of several runs as one: their rounds together."""
    rows = []
    for same in zip(*(game["rows"] for game in games), strict=True):
        names = set.intersection(*(set(row["seconds"]) for row in same))
        seconds = {name: [t for row in same for t in row["seconds"][name]] for name in names}
        errors = {name: said for row in same for name, said in row["errors"].items()}
        rows.append({"label": same[0]["label"], "seconds": seconds, "errors": errors})
    return rows


def verdict(row: Row) -> str:
    """`slower`, `faster`, or nothing while the ratio may be noise."""
    found, noise = ratios(row, "head", "base"), ratios(row, "again", "base")
    if not found or not noise:
        return ""
    middle = statistics.median(found)
    if found[0] > 1 and middle > max(noise[-1], 1 + LEAST):
        return "slower"
    if found[-1] < 1 and middle < min(noise[0], 1 - LEAST):
        return "faster"
    return ""


def line(row: Row) -> str:
    """The row's ratios, and the noise beside them."""
    cells = [f"{row['label']:52}"]
    for name in ("head", "again"):
        found = ratios(row, name, "base")
        told = (
            f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})" if found else "-"
        )
        cells.append(f"{told:>24}")
    return "".join([*cells, "  ", verdict(row), *(f"  {n}: {e}" for n, e in row["errors"].items())])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("base", help="a commit")
    parser.add_argument("head", nargs="?", default="HEAD", help="another (default: HEAD)")
    parser.add_argument("--games", type=int, default=3, help="times that processes start afresh")
    parser.add_argument("--rounds", type=int, default=3, help="turns in a game")
    parser.add_argument("--block", type=float, default=0.05, help="seconds of a turn")
    parser.add_argument("--only", default="", help="rows whose label contains this")
    options = parser.parse_args()
    rows = quick_rows(options.only)
    with tempfile.TemporaryDirectory() as scratch:
        pythons = {}
        for name in ("base", "head"):
            print(f"building {getattr(options, name)}", flush=True)
            pythons[name] = build(getattr(options, name), Path(scratch) / name)
        pythons["again"] = pythons["base"]
        file = Path(kernel.__file__)
        entries = [Entry(name, file, python) for name, python in pythons.items()]
        games = [
            run(entries, rows, threads=1, rounds=options.rounds, block=options.block)
            for _ in range(options.games)
        ]
    print(f"\n{'time of head over base; of base over itself':52}{'head':>24}{'noise':>24}")
    pooled = pool(games)
    for row in pooled:
        print(line(row))
    slower = [row["label"] for row in pooled if verdict(row) == "slower"]
    print(f"\n{len(slower)} of {len(pooled)} slower beyond the noise")
    sys.exit(bool(slower))


if __name__ == "__main__":
    main()
