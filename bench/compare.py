"""Two commits side by side: ``python -m bench.compare BASE [HEAD]``.

Builds each commit twice, in environments of their own: as it is, and with functions and loops on
other addresses. All four take turns at the quick set of the kernels, with the contenders of this
checkout, in several games of fresh processes whose stacks begin at other addresses. In a round, the
faster build of a commit counts; the noise is how far its two builds are apart. So a row is slower
only if the commit is slower wherever a compiler may place its loops: if HEAD takes longer in every
round, by more than that noise in any round, than 3 % and than 50 ns, of which a few come and go
with the layout of a process. Exit status 1 if a row is slower so. Rows that BASE cannot do are left
out. A change of 3 to 8 % in calls of a microsecond is not seen: count instructions for those.
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
from .environments import files

ROOT = Path(__file__).parents[1]
LEAST, BRIEF = 0.03, 50e-9  # share, seconds: less than either is nobody's business
PLACES = {"": "", "'": "-falign-functions=64 -falign-loops=32 -falign-jumps=32"}
BUILDS = [commit + place for commit in ("base", "head") for place in PLACES]


def build(commit, folder, flags):
    """Install one commit into an environment of its own; the Python of that."""
    source = folder / "source"
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", commit], check=True, capture_output=True
    )
    source.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, check=True)
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
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
    apart = sorted(max(a / b, b / a, c / d, d / c) for a, b, c, d in rounds)
    return found, apart


def verdict(row):
    """`slower`, `faster`, or nothing while the ratio may be noise."""
    found, apart = ratios(row)
    if not found:
        return ""
    middle = statistics.median(found)
    base = min(statistics.median(row["seconds"][name]) for name in ("base", "base'"))
    limit = max(apart[-1], 1 + LEAST, 1 + BRIEF / base)
    if found[0] > 1 and middle > limit:
        return "slower"
    return "faster" if found[-1] < 1 and 1 / middle > limit else ""


def line(row):
    """The row's ratios, and the noise beside them."""
    found, apart = ratios(row)
    told = [f"{row['label']:56}{spread(found) or '-':>24}{spread(apart) or '-':>24}"]
    told += [verdict(row)] if found else ["left out: " + lacking(row)]
    return "  ".join([*told, *(f"{name}: {error}" for name, error in row["errors"].items())])


def lacking(row):
    """Which commit cannot do the row."""
    absent = {name.rstrip("'") for name in BUILDS if name not in row["seconds"]}
    return f"not in {' and '.join(sorted(absent))}"


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("base", help="a commit")
    parser.add_argument("head", nargs="?", default="HEAD", help="another (default: HEAD)")
    parser.add_argument("--games", type=int, default=3, help="times that processes start afresh")
    parser.add_argument("--rounds", type=int, default=3, help="turns in a game")
    parser.add_argument("--block", type=float, default=0.05, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="every size, not the quick set")
    parser.add_argument("--only", default="", help="rows whose label contains this")
    options = parser.parse_args()
    rows = [row for row in work.kernels(not options.all) if options.only in row["label"]]
    with tempfile.TemporaryDirectory() as scratch:
        pythons = {}
        for commit in ("base", "head"):
            for place, flags in PLACES.items():
                print(f"building {getattr(options, commit)} {flags}", flush=True)
                folder = Path(scratch) / f"{commit}{len(flags)}"
                pythons[commit + place] = build(getattr(options, commit), folder, flags)
        games = []
        for game in range(options.games):
            moved = {"PYOPTK_BENCH_PADDING": "x" * (game * 1_040)}  # the stack begins elsewhere
            entries = [
                Entry(name, files("pyoptk"), python, environment=moved)
                for name, python in pythons.items()
            ]
            games.append(run(entries, rows, threads=options.threads, rounds=options.rounds,
                             block=options.block))  # fmt: skip
        for name, why in games[0]["missing"].items():
            sys.exit(f"{name} does not run: {why}")
    print(f"\n{'time of head over base; of one build over the other':56}{'head':>24}{'noise':>24}")
    pooled = pool(games)
    for row in pooled:
        print(line(row))
    slower = [row["label"] for row in pooled if verdict(row) == "slower"]
    print(f"\n{len(slower)} of {len(pooled)} slower beyond the noise")
    sys.exit(bool(slower))


if __name__ == "__main__":
    main()
