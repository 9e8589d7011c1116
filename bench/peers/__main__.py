"""Duels with other libraries: ``python -m bench.peers --setup DIR``, then ``--peers DIR``.

Each contender works in a process of its own, held to as many cores as it gets threads, and they
take turns: a block of time each per round. Everybody gets the same inputs and must arrive at the
same numbers. Which settings a peer gets, and why, stands at the top of its file (contenders/ here
and in pyoptk/bench). What is missing is named and left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pyoptk.bench import machine, rows
from pyoptk.bench.command import duration
from pyoptk.bench.duel import Row, median, ratios, run

from .environments import entries, set_up

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)


def cases() -> Iterator[Row]:
    """Every row, from the smallest to the largest within its kind."""
    for n in SIZES:
        yield rows.step("Adam", n)
    yield rows.step("Adam", 1_000, count=1_000)
    for optimizer in ("SGD", "RMSprop", "AdaGrad"):
        yield rows.step(optimizer, 1_000_000)
    yield rows.step("Adam", 10_000_000, max_norm=1.0)
    yield rows.step("Adam", 10_000_000, max_norm=1.0, ema_decay=0.999, zero_grad=True)
    for size in rows.LSTM:
        yield rows.lstm(*size)
    yield rows.lstm(50, 32, 64, 128, dtype="float64")
    yield rows.lstm(50, 32, 64, 128, packed=True)
    yield rows.stack(50, 32, 64, 128)
    yield rows.forecaster(32)
    yield rows.forecaster(256)
    yield rows.mlp()


def commit() -> str:
    """What is checked out here; "" where it is no repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def show(row: Row) -> None:
    """One row for the terminal: our time, then how many times longer each of the others takes."""
    ours = median(row, "pyoptk")
    told = [f"{row['label']}: {duration(ours)}"]
    if "flop" in row:
        told.append(f"({row['flop'] / ours / 1e9:.0f} GFLOP/s)")
    for peer in row["seconds"]:
        found = ratios(row, peer, "pyoptk")
        if peer != "pyoptk" and found:
            told.append(f"{peer} {found[len(found) // 2]:.2f} ({found[0]:.2f}..{found[-1]:.2f})")
    told += [f"{name}: {error}" for name, error in row["errors"].items()]
    print("  ".join(told), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--setup", type=Path, metavar="DIR", help="install the peers there, and stop"
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where --setup put them")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="ENVIRONMENT=PATH",
        help="another Python for torch, jax, keras, thinc or sklearn; may be repeated",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block", type=float, default=0.1, help="seconds of a turn")
    parser.add_argument("--only", default="", help="rows whose label contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.setup is not None:
        failed = set_up(options.setup)
        print("\n".join(["could not be installed:", *failed] if failed else ["all installed"]))
        return
    given = dict(pair.split("=", 1) for pair in options.python)
    result = run(
        entries(options.peers, given, options.threads),
        (row for row in cases() if options.only in row["label"]),
        threads=options.threads,
        rounds=options.rounds,
        block=options.block,
        show=show,
    )
    for name, package in result["missing"].items():
        print(f"{name} is left out: {package}", file=sys.stderr)
    if options.json:
        kept = {"rounds": options.rounds, "block": options.block}
        kept["machine"] = {**machine.describe(), "commit": commit()}
        options.json.write_text(json.dumps({"kind": "peers", **kept, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
