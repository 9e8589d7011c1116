"""Everything that docs/performance.md shows, measured anew: ``python -m bench --peers DIR``.

Runs the parts one after another, each with its own command line, and then the report on what they
wrote; a part that fails is named and costs no other. `--only` measures one part, if the machine is
not free for all of them at once, and `--report` writes the report on what is there. `--quick` is to
see that it works: its figures mean nothing, and the report is not written.
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
    parser.add_argument("--only", default="", metavar="PART", help="this part, and no report")
    parser.add_argument("--report", action="store_true", help="the report, and no part")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    peers = ["--peers", options.peers] if options.peers else []
    peers += [word for pair in options.python for word in ("--python", pair)]
    commands = parts(options.folder.resolve(), peers, options.rounds, options.quick)
    if options.only and options.only not in commands:
        parser.error(f"--only: expected one of {', '.join(commands)}, got {options.only}")
    chosen = [options.only] if options.only else [] if options.report else [*commands]
    failed = [name for name in chosen if not measure(commands[name])]
    if not options.quick and not options.only:
        files = [file for command in commands.values() if Path(file := command[-1]).exists()]
        subprocess.run([sys.executable, "-m", "bench.report", *files], check=True, cwd=ROOT)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def measure(command: list[str]) -> bool:
    """Run a part, which writes the file that its command ends with; whether all went well."""
    Path(command[-1]).unlink(missing_ok=True)  # an older one must not get into the report
    print("\n== python", *command, flush=True)
    start = time.monotonic()
    done = subprocess.run([sys.executable, *command], check=False, cwd=ROOT)
    print(f"== {time.monotonic() - start:.0f} s, status {done.returncode}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()
