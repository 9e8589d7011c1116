"""docs/performance.md and README's table: ``python -m bench.report RESULT.json ...``.

Takes the files that ``python -m bench`` wrote, in any order; no figure in either text is typed.
README's table is taken from the other text by readme.py. Rows where a peer is faster stay, in bold.
"""

import json
import statistics
import sys
from pathlib import Path

from pyoptk.duel.machine import threads
from pyoptk.duel.picture import svg
from pyoptk.duel.referee import duration, median, middle, ratios, spread

from . import bars, pictures, readme, roofline, scaling
from .work import ROOF

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
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
# accuracy.py and elsewhere.py write these sections.
ELSEWHERE = "## The bars on a second machine"
ELSEWHERE_NARROW = "## The bars of narrow steps on a second machine"
ACCURACY = '## Accuracy of compute="bfloat16"'
STATES = "## Accuracy of narrow states"
TEXT = "## A text classifier by spaCy"
TASKS = {
    "step": "Optimizer steps",
    "narrow": "Steps with narrow states or parameters; PyTorch: of float32, DeepSpeed: its states",
    "layer": "Recurrent layers, forward and backward with the gradient of the input",
    "scan": "A linear recurrence over time, forward and backward",
    "linear": "Dense layers, forward and backward with the gradient of the input",
    "layer_norm": "Layer normalization, forward and backward",
    "loss": "Losses and their gradients",
    "classifier": "A training step of a classifier: cross entropy, Adam",
    "forecaster": "A training step of LSTM(64), LSTM(32), Dense(1): MSE, Adam, 10 steps in time",
    "fitted": "The same by `fit`",
    "mlp": "A training step of a classifier written in NumPy, with pyoptk's step dropped in",
    "halves": "Steps of bfloat16 parameters beside PyTorch's, whose states are of bfloat16, too",
}
ABOUT_KERNELS = (
    "Time; the roof's share of it; then how many times as long the NumPy twin and PyTorch take "
    "(fused or else foreach). The roof of a step is a call, too, and at 1,000 elements not a "
    "faster one."
)
CHECKS = (  # of the model
    ("left out", 1, "each case against a fit without it"),
    ("model", 3, "three and more threads against the fit to one and two"),
)


def markdown(heads, lines):
    """A table."""
    told = [
        "|" + "|".join(f" {c} " if c else " " for c in cells) + "|" for cells in (heads, *lines)
    ]
    return "\n".join([told[0], "|---" * len(heads) + "|", *told[1:]])


def where(result):
    """Machine, date and versions in a sentence."""
    told = "{cpu}, {cores} cores, {isa}, {system}, {date}, commit {commit}; Python {python}"
    versions = (f"{name} {version}" for name, version in result["versions"].items())
    return ", ".join([told.format(**result["machine"]), *versions]) + "."


def bold(told, ratio):
    """In bold where the other is faster."""
    return f"**{told}**" if round(ratio, 2) < 1 else told


def how(result):
    """The command, the turns, and how far apart rounds of the same work were."""
    ours = [row["seconds"]["pyoptk"] for row in result["rows"] if "pyoptk" in row["seconds"]]
    apart = sorted((max(times) - min(times)) / statistics.median(times) for times in ours)
    return (
        f"`{result['machine']['command']}`: {result['rounds']} "
        f"round{'s'[: result['rounds'] > 1]} of {result['block']:g} s. {where(result)} "
        f"The rounds of a row lie within {statistics.median(apart):.0%} of its median (median row) "
        f"and {apart[int(0.9 * len(apart))]:.0%} (nine rows in ten)."
    )


def with_noise(row, peer):
    """Median and range of the ratios; bold where a peer is faster, which the roof is not."""
    told = spread(ratios(row, peer)) or row["errors"].get(peer, "")
    return told if peer == ROOF else bold(told, middle(row, peer) or 1)


def table(some):
    """Rows by all who took part in any of them."""
    names = [n for n in dict.fromkeys(n for row in some for n in row["seconds"]) if n != "pyoptk"]
    cells = [[with_noise(row, name) for name in names] for row in some]
    lines = [[r["label"], duration(median(r)), *more] for r, more in zip(some, cells, strict=True)]
    return markdown(["", "pyoptk", *names], lines)


def duels(result):
    """The tables of one run against other libraries."""
    yield from (f"## Against other libraries, {threads(result['threads'])}", how(result))
    if result["missing"]:
        missing = [f"{name} ({why})" for name, why in result["missing"].items()]
        yield f"Not measured: {', '.join(missing)}."
    for task, title in TASKS.items():
        if some := [row for row in result["rows"] if row["task"] == task]:
            yield from (f"### {title}", table(some))


def kernels(results):
    """Every kernel by size: its time, its share of the roof, how many times as long others take."""
    yield from ("## Every kernel", ABOUT_KERNELS, *(how(result) for result in results))
    by_kernel = {}
    for result in results:
        for row in result["rows"]:
            if "kernel" in row:
                size = row["label"].partition(", ")[2].removesuffix(", float64")
                column = f"{row['sizes']['dtype']}, {threads(result['threads'])}"
                by_kernel.setdefault(row["kernel"], {}).setdefault(size, {})[column] = cell(row)
    for kernel, sizes in by_kernel.items():
        columns = sorted({column for cells in sizes.values() for column in cells})
        lines = [[size, *(cells.get(c, "") for c in columns)] for size, cells in sizes.items()]
        yield from (f"### {kernel}", markdown(["", *columns], lines))
    for result in results:
        yield f"### Calls, decayed moments, dense gradients, {threads(result['threads'])}"
        yield table([row for row in result["rows"] if "kernel" not in row])


def cell(row):
    """Our time, the roof's share, the twin, PyTorch."""
    times = [middle(row, who) for who in ("twin", "PyTorch")]
    told = [f"{middle(row, ROOF):.0%}"] if ROOF in row["seconds"] else []
    told += [bold(f"{t:.2f}", t) if t else "-" for t in times]
    return ", ".join([duration(median(row)), *told])


def model(result):
    """The model of scaling.py: its coefficients, how well it fits, and its predictions."""
    machine = result["machine"]
    peak = ", ".join(f"{threads(k)} {p / 1e9:.0f} GFLOP/s" for k, p in machine["peak"].items())
    yield f"## A model of time per step: {machine['cpu']}, {machine['cores']} cores"
    yield (
        f"`{machine['command']}`, {machine['date']}; the terms stand at the top of "
        "bench/scaling.py. Coefficients in seconds for one unit, fitted to runs on one and two "
        f"threads. Peak: {peak}; L2 {machine['l2'] >> 20} MiB, L3 {machine['l3'] >> 20} MiB."
    )
    for family in result["families"]:
        counts = list(family["rows"][0]["measured"])
        more = [k for k in family["rows"][0]["foretold"] if int(k) > max(map(int, counts))]
        heads = [f"{threads(k)}: measured, model" for k in counts]
        heads += [f"{threads(k)}: predicted" for k in more]
        lines = []
        for row in family["rows"]:
            told = [f"{duration(row['measured'][k])}, {duration(row['model'][k])}" for k in counts]
            lines.append([row["label"], *told, *(duration(row["foretold"][k]) for k in more)])
        fitted = ", ".join(f"{k} {v:.3g}" for k, v in family["coefficients"].items())
        yield from (f"### {family['family']}", f"{fitted}.", markdown(["", *heads], lines))
        told = []
        for which, least, words in CHECKS:
            if found := scaling.errors(family, which, least):
                told += [f"{words}, median {statistics.median(found):.0%}, most {found[-1]:.0%}"]
        yield f"Error: {'; '.join(told)}."


def unmet(results, scaled):
    """What falls short of bars.py, with the reason."""
    every = [*bars.outcomes(results, scaled)]
    short_of = [one for one in every if not one.met]
    yield "## What is not met yet"
    said = f"{len(every) - len(short_of)} of {len(every)} bars of bench/work.py are met."
    if scaled:
        peak = scaled["machine"]["peak"]["1"]
        said += (
            f" They were set where a core does {bars.PEAK / 1e9:.0f} GFLOP/s of multiply-adds with "
            f"{bars.ISA}; this one does {peak / 1e9:.0f} with {scaled['machine']['isa']}."
        )
    yield said
    lines = []
    for what, k, wanted, measured, _, reason in short_of:
        lines.append([what, str(k), wanted, measured, reason or "not known yet"])
        if not reason:
            print(f"no reason in bench/bars.py for: {what}", file=sys.stderr)
    if lines:
        yield markdown(["", "threads", "wanted", "measured", "why"], lines)


def draw(results, models):
    """Write the pictures, that of scaling from the largest machine; the text that shows them."""
    drawn = {words: picture(results[0]) for words, picture in pictures.OF_DUELS.items()}
    if models:
        most = max(models, key=lambda model: model["machine"]["cores"])
        drawn["scaling", "Scaling with threads"] = pictures.scaling(most)
        drawn["roofline", "LSTM shapes under the roofs"] = roofline.picture(models[0])
    (DOCS / "performance").mkdir(exist_ok=True)
    for (name, words), figure in drawn.items():
        file = DOCS / "performance" / f"{name}.svg"
        if figure:
            file.write_text(svg(figure))
            yield f"![{words}](performance/{name}.svg)"
        else:  # nobody was there
            file.unlink(missing_ok=True)


def section(text, name):
    """The section of that name as it stands in a document; empty if it has none."""
    _, found, rest = text.partition(name)
    return (found + rest.partition("\n## ")[0]).strip()


def put(name, new):
    """Write a section into docs/performance.md, in the place of the old one or at the end."""
    file = DOCS / "performance.md"
    before = file.read_text()
    old = section(before, name)
    file.write_text(before.replace(old, new) if old else f"{before.rstrip()}\n\n{new}\n")


def write(files):
    """README's table, docs/performance.md and its pictures."""
    read = [json.loads(Path(file).read_text()) for file in files]
    read.sort(key=lambda result: result.get("threads", 0))
    kinds = ("peers", "kernels", "scaling")
    results, singles, models = ([r for r in read if r["kind"] == kind] for kind in kinds)
    if not results:
        sys.exit("bench.report: expected a result of a part peers-N among the files, got none")
    parts = [PREFACE, *unmet(results, models[0] if models else None), *draw(results, models)]
    for result in results:
        parts += duels(result)
    parts += roofline.table(models[0], markdown) if models else []
    parts += kernels(singles) if singles else []
    for one in models:
        parts += model(one)
    file = DOCS / "performance.md"
    old = file.read_text() if file.exists() else ""
    kept = (ELSEWHERE, ELSEWHERE_NARROW, ACCURACY, STATES, TEXT)
    parts += filter(None, [section(old, name) for name in kept])
    file.write_text("\n\n".join(parts) + "\n")
    if results[0]["threads"] == 1:
        readme.write(README, file)


if __name__ == "__main__":
    write(sys.argv[1:])
