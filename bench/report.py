"""docs/performance.md and README's table: ``python -m bench.report RESULT.json ...``.

Takes the files that ``python -m bench`` wrote, in any order; no figure in either text is typed.
Rows where a peer is faster stay, in bold.
"""

import json
import statistics
import sys
from pathlib import Path

from pyoptk.duel import rows
from pyoptk.duel.referee import duration, fastest, median, ratios, spread

from . import bars, pictures, roofline, scaling

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
BEGIN, END = "<!-- table: python -m bench.report -->", "<!-- end of table -->"

IN_README = [
    *(rows.step("Adam", n) for n in (1_000, 100_000, 1_000_000, 10_000_000)),
    rows.step("Adam", 1_000, count=1_000),
    rows.step("Adam", 10_000_000, max_norm=1.0),
    rows.step("Adam", 10_000_000, max_norm=1.0, ema_decay=0.999, zero_grad=True),
    *(rows.step(name, 1_000_000) for name in ("SGD", "RMSprop", "AdaGrad")),
    *(rows.layer(*size) for size in rows.LSTM),
    rows.forecaster(32),
    rows.forecaster(256),
    rows.mlp(),
]


def markdown(heads, lines):
    """A table."""
    told = [
        "|" + "|".join(f" {c} " if c else " " for c in cells) + "|" for cells in (heads, *lines)
    ]
    return "\n".join([told[0], "|---" * len(heads) + "|", *told[1:]])


def threads(k):
    return f"{k} thread{'s'[: int(k) > 1]}"


def where(result, versions=True):
    """Machine, date and versions in a sentence."""
    machine = result["machine"]
    told = [machine["cpu"], f"{machine['cores']} cores", machine["isa"], machine["system"]]
    told += [machine["date"], f"commit {machine['commit']}; Python {machine['python']}"]
    return ", ".join([*told, *(f"{k} {v}" for k, v in result["versions"].items())]) + "."


def bold(told, ratio):
    """In bold where the other is faster."""
    return f"**{told}**" if round(ratio, 2) < 1 else told


# ---- README --------------------------------------------------------------------------------------


def short(row, peer):
    """How many times as long the peer takes."""
    if not (found := ratios(row, peer)):
        return ""
    middle = statistics.median(found)
    return bold(f"{middle:.{2 if middle < 2 else 1 if middle < 10 else 0}f}", middle)


def readme_table(result):
    """The table of one run, with machine, versions and date."""
    first = f"{threads(result['threads'])}, float32: times as long as pyoptk"
    by_label = {row["label"]: row for row in result["rows"]}
    others = [peer for peer in pictures.PEERS if peer not in ("NumPy", "PyTorch")]
    lines = []
    for row in (by_label[r["label"]] for r in IN_README if r["label"] in by_label):
        other = fastest(row, others)
        both = [short(row, pictures.best(row, peer)) for peer in ("NumPy", "PyTorch")]
        lines.append([row["label"], *both, f"{short(row, other)} ({other})" if other else ""])
    how = (
        "Bold: the other is faster. Each in the fastest of its ways, in a process of its own, by "
        "turns; medians of rounds. [docs/performance.md](docs/performance.md) has the noise, other "
        "libraries and pictures; `python -m pyoptk bench` measures yours."
    )
    table = markdown([first, "NumPy", "PyTorch", "the fastest other"], lines)
    return f"{table}\n\n{where(result)} {how}"


# ---- docs/performance.md -------------------------------------------------------------------------

PREFACE = """\
# Performance

How many times as long another library takes: the median over the rounds, and their range. **Bold**
where it is faster. Written by `python -m bench`; only ratios inside a run mean anything. Every
contender works in a process of its own, held to as many cores as it has threads. They take turns,
start from the same numbers and have to arrive at the same. The settings of each library, and the
reasons for them, stand at the top of its file in bench/contenders and pyoptk/duel/contenders. The
roof of a step is as many bytes, streamed with additions only; the roof of a layer is its
multiply-adds in registers.

`python -m bench --setup DIR && python -m bench --peers DIR` repeats all of it."""

TASKS = {
    "step": "Optimizer steps",
    "layer": "LSTM, forward and backward with the gradient of the input",
    "forecaster": "A training step of LSTM(64), LSTM(32), Dense(1): MSE, Adam, 10 steps in time",
    "mlp": "A training step of a classifier written in NumPy, with pyoptk's step dropped in",
}


def how(result):
    """The command, the turns, and how far apart rounds of the same work were."""
    apart = sorted(
        (max(ours) - min(ours)) / statistics.median(ours)
        for row in result["rows"]
        if (ours := row["seconds"].get("pyoptk"))
    )
    noise = (
        f"The rounds of a row lie within {statistics.median(apart):.0%} of its median (median row) "
        f"and {apart[int(0.9 * len(apart))]:.0%} (nine rows in ten)."
    )
    turns = f"{result['rounds']} round{'s'[: result['rounds'] > 1]} of {result['block']:g} s"
    return f"`{result['machine']['command']}`: {turns}. {where(result)} {noise}"


def with_noise(row, peer):
    """Median and range of the ratios; bold where a peer is faster, which the roof is not."""
    if not (found := ratios(row, peer)):
        return row["errors"].get(peer, "")
    return spread(found) if peer == bars.ROOF else bold(spread(found), statistics.median(found))


def table(some):
    """Rows by all who took part in any of them."""
    names = [n for n in dict.fromkeys(n for row in some for n in row["seconds"]) if n != "pyoptk"]
    lines = [
        [row["label"], duration(median(row)), *(with_noise(row, name) for name in names)]
        for row in some
    ]
    return markdown(["", "pyoptk", *names], lines)


def duels(result):
    """The tables of one run against other libraries."""
    parts = [f"## Against other libraries, {threads(result['threads'])}", how(result)]
    if result["missing"]:
        missing = [f"{name} ({why})" for name, why in result["missing"].items()]
        parts.append(f"Not measured: {', '.join(missing)}.")
    for task, title in TASKS.items():
        if some := [row for row in result["rows"] if row["task"] == task]:
            parts += [f"### {title}", table(some)]
    return "\n\n".join(parts)


def kernels(results):
    """Every kernel by size: its time, its share of the roof, how many times as long others take."""
    about = (
        "Time; the roof's share of it; then how many times as long the NumPy twin and PyTorch take "
        "(fused or else foreach). The roof of a step is a call, too, and at 1,000 elements not a "
        "faster one."
    )
    parts = ["## Every kernel", about, *(how(result) for result in results)]
    by_kernel = {}
    for result in results:
        for row in result["rows"]:
            if "kernel" in row:
                dtype = row["sizes"]["dtype"]
                size = row["label"].partition(", ")[2].removesuffix(", float64")
                column = f"{dtype}, {threads(result['threads'])}"
                by_kernel.setdefault(row["kernel"], {}).setdefault(size, {})[column] = cell(row)
    for kernel, sizes in by_kernel.items():
        columns = sorted({column for cells in sizes.values() for column in cells})
        lines = [[size, *(cells.get(c, "") for c in columns)] for size, cells in sizes.items()]
        parts += [f"### {kernel}", markdown(["", *columns], lines)]
    for result in results:
        title = f"### Calls, decayed moments, dense gradients, {threads(result['threads'])}"
        parts += [title, table([row for row in result["rows"] if "kernel" not in row])]
    return "\n\n".join(parts)


def cell(row):
    """Our time, the roof's share, the twin, PyTorch."""
    told = [duration(median(row))]
    told += [f"{median(row, bars.ROOF) / median(row):.0%}"] if bars.ROOF in row["seconds"] else []
    for who in ("twin", "PyTorch"):
        found = ratios(row, who)
        middle = statistics.median(found) if found else 0
        told.append(bold(f"{middle:.2f}", middle) if found else "-")
    return ", ".join(told)


def model(result):
    """The model of scaling.py: its coefficients, how well it fits, and its predictions."""
    machine = result["machine"]
    peak = ", ".join(f"{threads(k)} {p / 1e9:.0f} GFLOP/s" for k, p in machine["peak"].items())
    about = (
        f"`{machine['command']}`, {machine['date']}; the terms stand at the top of "
        "bench/scaling.py. Coefficients in seconds for one unit, fitted to runs on one and two "
        f"threads. Peak: {peak}; L2 {machine['l2'] >> 20} MiB, L3 {machine['l3'] >> 20} MiB."
    )
    parts = [f"## A model of time per step: {machine['cpu']}, {machine['cores']} cores", about]
    for family in result["families"]:
        counts = list(family["rows"][0]["measured"])
        more = [k for k in family["rows"][0]["foretold"] if int(k) > max(map(int, counts))]
        heads = [f"{threads(k)}: measured, model" for k in counts]
        lines = []
        for row in family["rows"]:
            told = [f"{duration(row['measured'][k])}, {duration(row['model'][k])}" for k in counts]
            lines.append([row["label"], *told, *(duration(row["foretold"][k]) for k in more)])
        fitted = ", ".join(f"{k} {v:.3g}" for k, v in family["coefficients"].items())
        parts += [f"### {family['family']}", f"{fitted}."]
        parts.append(markdown(["", *heads, *(f"{threads(k)}: predicted" for k in more)], lines))
        checks = [("left out", 1, "each case against a fit without it")]
        checks += [("model", 3, "three and more threads against the fit to one and two")]
        errors = [(words, scaling.errors(family, which, k)) for which, k, words in checks]
        told = [
            f"{words}, median {statistics.median(found):.0%}, most {found[-1]:.0%}"
            for words, found in errors
            if found
        ]
        parts.append(f"Error: {'; '.join(told)}.")
    return "\n\n".join(parts)


def unmet(results, scaled):
    """What falls short of bars.py, with the reason."""
    every = bars.outcomes(results, scaled)
    short_of = [one for one in every if not one.met]
    said = f"{len(every) - len(short_of)} of {len(every)} bars of bench/bars.py are met."
    if scaled:
        peak = scaled["machine"]["peak"]["1"]
        said += (
            f" They were set where a core does {bars.PEAK / 1e9:.0f} GFLOP/s of multiply-adds with "
            f"{bars.ISA}; this one does {peak / 1e9:.0f} with {scaled['machine']['isa']}."
        )
    if not short_of:
        return f"## What is not met yet\n\nNothing: {said}"
    lines = []
    for one in short_of:
        why = one.reason or "not known yet"
        lines.append([one.what, str(one.threads), one.wanted, one.measured, why])
        if not one.reason:
            print(f"no reason in bench/bars.py for: {one.what}", file=sys.stderr)
    heads = ["", "threads", "wanted", "measured", "why"]
    return "\n\n".join(["## What is not met yet", said, markdown(heads, lines)])


def draw(results, models):
    """Write the pictures, that of scaling from the largest machine; the text that shows them."""
    drawn = {words: picture(results[0]) for words, picture in pictures.OF_DUELS.items()}
    if models:
        most = max(models, key=lambda model: model["machine"]["cores"])
        drawn["scaling", "Scaling with threads"] = pictures.scaling(most)
        drawn["roofline", "LSTM shapes under the roofs"] = roofline.picture(models[0])
    folder = DOCS / "performance"
    folder.mkdir(exist_ok=True)
    shown = []
    for (name, words), svg in drawn.items():
        if svg:
            (folder / f"{name}.svg").write_text(svg)
            shown.append(f"![{words}](performance/{name}.svg)")
        else:  # nobody was there
            (folder / f"{name}.svg").unlink(missing_ok=True)
    return "\n\n".join(shown)


def write(files):
    """README's table, docs/performance.md and its pictures."""
    read = [json.loads(Path(file).read_text()) for file in files]
    kinds = {
        kind: [r for r in read if r["kind"] == kind] for kind in ("peers", "kernels", "scaling")
    }
    for kind in ("peers", "kernels"):
        kinds[kind].sort(key=lambda result: result["threads"])
    results, models = kinds["peers"], kinds["scaling"]
    if not results:
        sys.exit("bench.report: expected a result of a part peers-N among the files, got none")
    before, rest = README.read_text().split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{readme_table(results[0])}\n{END}{rest.split(END)[1]}")
    parts = [PREFACE, unmet(results, models[0] if models else None), draw(results, models)]
    parts += [duels(result) for result in results]
    for one in models[:1]:
        about, *limits = roofline.table(one)
        parts += ["## What limits the LSTM on one thread", about, markdown(*limits)]
    parts += [kernels(kinds["kernels"])] if kinds["kernels"] else []
    parts += [model(one) for one in models]
    (DOCS / "performance.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    write(sys.argv[1:])
