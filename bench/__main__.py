"""Everything that docs/performance.md shows, measured anew: ``python -m bench --peers DIR``.

Runs the parts one after another, each with its own command line, and then the report. `--quick` is
to see that it works: its figures mean nothing, and the report is not written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pyoptk

ROOT = Path(__file__).parents[1]


def parts(folder: Path, peers: list[str], rounds: int, quick: bool) -> dict[str, list[str]]:
    """The command of each part, which writes a JSON file of the same name."""
    most = pyoptk.get_num_threads()
    turns = ["--rounds", "1", "--block", "0.01"] if quick else ["--rounds", str(rounds)]
    commands = {
        "kernels": ["-m", "pytest", "-q", "bench", *(["--quick"] if quick else [])],
        "scaling": ["bench/scaling.py", *(turns if quick else [])],
    }
    for threads in sorted({1, most}):
        few = ["--only", "forecaster"] if quick else []
        how = [*peers, "--threads", str(threads), *turns, *few]
        commands[f"peers-{threads}"] = ["-m", "bench.peers", *how]
    out = {name: "--benchmark-json" if name == "kernels" else "--json" for name in commands}
    return {
        name: [*command, out[name], str(folder / f"{name}.json")]
        for name, command in commands.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--peers", metavar="DIR", help="as for bench.peers")
    parser.add_argument("--python", action="append", default=[], help="as for bench.peers")
    parser.add_argument("--rounds", type=int, default=7, help="of the duels")
    parser.add_argument("--folder", type=Path, default=Path("build/measured"), metavar="DIR")
    parser.add_argument("--only", default="", help="the part of this name, and no report")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    peers = ["--peers", options.peers] if options.peers else []
    peers += [word for pair in options.python for word in ("--python", pair)]
    commands = parts(options.folder.resolve(), peers, options.rounds, options.quick)
    if options.only:
        commands = {options.only: commands[options.only]}
    for command in commands.values():
        print("\n== python", *command, flush=True)
        start = time.monotonic()
        subprocess.run([sys.executable, *command], check=True, cwd=ROOT)
        print(f"== {time.monotonic() - start:.0f} s", flush=True)
    if not options.quick and not options.only:
        files = [str(options.folder.resolve() / f"{name}.json") for name in commands]
        subprocess.run([sys.executable, "-m", "bench.report", *files], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
