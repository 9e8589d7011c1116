"""Two commits side by side: ``python -m bench.compare BASE [HEAD]``.

Builds each commit twice: as it is, and with functions and loops on other addresses. All four take
turns at the quick set of the kernels, by the contenders of this checkout, in several games of fresh
processes whose stacks begin at other addresses. In a round, the faster build of a commit counts;
the noise is how far its two builds are apart. A row is slower only if HEAD takes longer in every
round, and in the median by more than that noise in any round (but for one round in eight, in which
something else may have run), than 3 %, and than 50 ns, of which a few come and go with the layout
of a process. Exit status 1 if one is. Rows that a commit cannot do are left out. So 3 to 8 % in
calls of a microsecond are not seen: count instructions for those.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from pyoptk.duel.referee import Entry, run, spread

from . import work
from .environments import FILES
from .report import ROOT

LEAST, BRIEF = 0.03, 50e-9  # share, seconds: less than either is nobody's business
PLACES = {"": "", "'": "-falign-functions=64 -falign-loops=32 -falign-jumps=32"}
BUILDS = [commit + place for commit in ("base", "head") for place in PLACES]


def build(commit, folder, flags):
    """Install one commit into an environment of its own; the Python of that."""
    git = ["git", "-C", str(ROOT), "archive", "--format=tar", commit]
    archive = subprocess.run(git, check=True, capture_output=True).stdout
    source, python = folder / "source", folder / "env" / "bin" / "python"
    source.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
    venv.create(folder / "env", with_pip=True)
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    with_flags = os.environ | {"CFLAGS": f"{os.environ.get('CFLAGS', '')} {flags}"}
    subprocess.run([*install, str(source)], check=True, env=with_flags)
    return str(python)


def pool(games):
    """The rows of several runs as one: their rounds together."""
    rows = []
    for same in zip(*(game["rows"] for game in games), strict=True):
        names = set.intersection(*(set(row["seconds"]) for row in same))
        seconds = {name: [t for row in same for t in row["seconds"][name]] for name in names}
        errors = {name: said for row in same for name, said in row["errors"].items()}
        rows.append({"label": same[0]["label"], "seconds": seconds, "errors": errors})
    return rows


def ratios(row):
    """By round, sorted: HEAD over BASE, each in its faster build; and the noise, at least 1."""
    if not {*BUILDS} <= row["seconds"].keys():
        return [], []
    rounds = [*zip(*(row["seconds"][name] for name in BUILDS), strict=True)]
    found = sorted(min(c, d) / min(a, b) for a, b, c, d in rounds)
    return found, sorted(max(a / b, b / a, c / d, d / c) for a, b, c, d in rounds)


def verdict(row):
    """`slower`, `faster`, or nothing while the ratio may be noise."""
    found, apart = ratios(row)
    if not found:
        absent = {name.rstrip("'") for name in BUILDS if name not in row["seconds"]}
        return f"left out: not in {' and '.join(sorted(absent))}"
    middle, k = statistics.median(found), len(found) // 8
    base = min(statistics.median(row["seconds"][name]) for name in BUILDS[:2])
    limit = max(apart[-1 - k], 1 + LEAST, 1 + BRIEF / base)
    if found[k] > 1 and middle > limit:
        return "slower"
    return "faster" if found[-1 - k] < 1 and 1 / middle > limit else ""


def line(row):
    """The row's ratios, and the noise beside them."""
    told = "".join(f"{spread(found) or '-':>24}" for found in ratios(row))
    errors = [f"{name}: {error}" for name, error in row["errors"].items()]
    return "  ".join([f"{row['label']:56}{told}", *errors, verdict(row)])


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    add = parser.add_argument
    add("base", help="a commit")
    add("head", nargs="?", default="HEAD", help="another (default: HEAD)")
    add("--games", type=int, default=3, help="times that processes start afresh")
    add("--rounds", type=int, default=3, help="turns in a game")
    add("--block", type=float, default=0.05, help="seconds of a turn")
    add("--threads", type=int, default=1)
    add("--all", action="store_true", help="every size, not the quick set")
    add("--only", default="", help="rows whose label contains this")
    options = parser.parse_args()
    rows = [row for row in work.kernels(not options.all) if options.only in row["label"]]
    how = {"threads": options.threads, "rounds": options.rounds, "block": options.block}
    with tempfile.TemporaryDirectory() as scratch:
        pythons = {}
        for name in BUILDS:
            commit, flags = getattr(options, name.rstrip("'")), PLACES[name[4:]]
            print(f"building {commit} {flags}", flush=True)
            pythons[name] = build(commit, Path(scratch) / name, flags)
        games = []
        for game in range(options.games):
            moved = {"PADDING": "x" * (game * 1_040)}  # the stack begins elsewhere
            entries = [Entry(n, FILES["pyoptk"], p, environment=moved) for n, p in pythons.items()]
            games.append(run(entries, rows, **how))
    for name, why in games[0]["missing"].items():
        sys.exit(f"{name} does not run: {why}")
    print(f"\n{'time of head over base; of one build over the other':56}{'head':>24}{'noise':>24}")
    rows = pool(games)
    print("\n".join(line(row) for row in rows))
    verdicts = [verdict(row) for row in rows]
    left = sum(said.startswith("left out") for said in verdicts)
    slower = verdicts.count("slower")
    print(f"\n{slower} of {len(rows) - left} slower beyond the noise; {left} rows left out")
    sys.exit(slower > 0)


if __name__ == "__main__":
    main()
