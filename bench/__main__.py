"""Everything that docs/performance.md shows: ``python -m bench --setup DIR``, then ``--peers DIR``.

Measures the parts named, or all, and writes a JSON file for each; then the report on what is there,
unless parts were named. A part that fails costs no other, so the whole can be done by parts on a
machine that is free for a while only. What is missing is named and left out.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import pyoptk
from pyoptk.duel import machine
from pyoptk.duel.referee import duration, median, noise, ratios, run, spread

from . import environments, report, scaling, work


def parts(options):
    """What measures each part, and returns its result."""
    python = environments.pythons(options.peers, dict(p.split("=", 1) for p in options.python))
    turns = {"rounds": options.rounds, "block": options.block, "show": show}
    cores, found = pyoptk.get_num_threads(), {}
    for k in [options.threads] if options.threads else sorted({1, cores}):
        kernels = [*work.kernels(options.quick), *work.calls()]
        for kind, entries, rows in (
            ("peers", environments.peers(python, k), work.peers()),
            ("kernels", environments.kernels(python), kernels),
        ):
            chosen = [row for row in rows if any(x in row["label"] for x in options.only or [""])]
            found[f"{kind}-{k}"] = partial(duel, kind, entries, chosen, threads=k, **turns)
    counts = [*(2**k for k in range(cores.bit_length()) if 2**k < cores), cores]
    counts = [options.threads] if options.threads else counts
    return found | {"scaling": partial(scaling.measure, counts, **turns)}


def duel(kind, entries, rows, **how):
    result = run(entries, rows, **how)
    for name, package in result["missing"].items():
        print(f"{name} is left out: {package}", file=sys.stderr)
    print(noise(result["rows"]))
    return {"kind": kind, "machine": machine.describe(), **result}


def show(row):
    """One row for the terminal: our time, then how many times as long each of the others takes."""
    first, *others = row["seconds"] or ["pyoptk"]
    told = [f"{row['label']}: {duration(median(row, first))}"]
    told += [f"({row['flop'] / median(row, first) / 1e9:.0f} GFLOP/s)"] if "flop" in row else []
    told += [f"{peer} {spread(ratios(row, peer, first))}" for peer in others]
    told += [f"{name}: {error}" for name, error in row["errors"].items()]
    print("  ".join(told), flush=True)


def measure(name, part, folder):
    """Write the result of a part to the file of its name; whether all went well."""
    file, start = folder / f"{name}.json", time.monotonic()
    file.unlink(missing_ok=True)  # an older one must not get into the report
    print(f"\n== {name}", flush=True)
    try:
        result = part()
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return False
    git = ["git", "-C", str(report.ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    result["machine"] |= {"commit": commit, "part": name, "seconds": time.monotonic() - start}
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"== {time.monotonic() - start:.0f} s", flush=True)
    return True


def main():
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench", description=__doc__, formatter_class=how)
    add = parser.add_argument
    add("parts", nargs="*", help="such as kernels-1, peers-2 or scaling; default: all")
    add("--setup", type=Path, metavar="DIR", help="install the peers there, and stop")
    add("--peers", type=Path, metavar="DIR", help="where --setup put them")
    add("--python", action="append", default=[], metavar="ENVIRONMENT=PATH",
        help="another Python for torch, jax, keras, thinc or sklearn; may be repeated")  # fmt: skip
    add("--threads", type=int, help="these alone (default: 1, and all cores)")
    add("--rounds", type=int, default=5)
    add("--block", type=float, default=0.1, help="seconds of a turn")
    add("--only", action="append", metavar="TEXT",
        help="rows of duels whose label contains this; may be repeated")  # fmt: skip
    add("--folder", type=Path, default=Path("build/measured"), metavar="DIR")
    add("--report", action="store_true", help="only the report on what is there")
    add("--quick", action="store_true", help="to see that it works: a round of few rows, no report")
    options = parser.parse_args()
    if options.setup is not None:
        failed = environments.set_up(options.setup)
        print("\n".join(["could not be installed:", *failed] if failed else ["all installed"]))
        return
    if options.quick:
        options.rounds, options.block = 1, 0.01
    known = parts(options)
    if unknown := set(options.parts) - set(known):
        parser.error(f"expected parts among {', '.join(known)}, got {', '.join(unknown)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    chosen = [] if options.report else options.parts or known
    failed = [name for name in chosen if not measure(name, known[name], options.folder)]
    if not options.quick and not options.parts:
        report.write([file for name in known if (file := options.folder / f"{name}.json").exists()])
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
