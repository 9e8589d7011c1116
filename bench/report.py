"""docs/performance.md and README's table: ``python -m bench.report RESULT.json ...``.

Takes what ``bench.peers``, ``scaling.py`` and ``pytest bench --benchmark-json`` wrote, in any
order; nothing in either text is typed. Rows where a peer is faster stay in, in bold.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from pyoptk.bench import rows
from pyoptk.bench.command import duration
from pyoptk.bench.duel import fastest, median, ratios

from . import bars, kernel_tables, pictures, roofline

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
BEGIN, END = "<!-- table: python -m bench.report -->", "<!-- end of table -->"
Result = dict[str, Any]

IN_README = [
    *(rows.step("Adam", n) for n in (1_000, 100_000, 1_000_000, 10_000_000)),
    rows.step("Adam", 1_000, count=1_000),
    rows.step("Adam", 10_000_000, max_norm=1.0),
    rows.step("Adam", 10_000_000, max_norm=1.0, ema_decay=0.999, zero_grad=True),
    *(rows.step(name, 1_000_000) for name in ("SGD", "RMSprop", "AdaGrad")),
    *(rows.lstm(*size) for size in rows.LSTM),
    rows.forecaster(32),
    rows.forecaster(256),
    rows.mlp(),
]


# ---- README --------------------------------------------------------------------------------------


def short(row: Result, peer: str) -> str:
    """How many times as long the peer takes; bold where it is faster."""
    found = ratios(row, peer, "pyoptk")
    if not found:
        return ""
    middle = statistics.median(found)
    told = f"{middle:.{2 if middle < 2 else 1 if middle < 10 else 0}f}"
    return f"**{told}**" if round(middle, 2) < 1 else told


def readme_table(result: Result) -> str:
    """The table of one run, with machine, versions and date."""
    plural = "" if result["threads"] == 1 else "s"
    first = f"{result['threads']} thread{plural}, float32: times as long as pyoptk"
    lines = [f"| {first} | NumPy | PyTorch | the fastest other |", "|---|---|---|---|"]
    by_label = {row["label"]: row for row in result["rows"]}
    others = [peer for peer in pictures.PEERS if peer not in ("NumPy", "PyTorch")]
    for row in (by_label[r["label"]] for r in IN_README if r["label"] in by_label):
        other = fastest(row, others)
        cells = [short(row, pictures.best(row, peer)) for peer in ("NumPy", "PyTorch")]
        cells.append(f"{short(row, other)} ({other})" if other else "")
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    how = (
        "Bold: the other is faster. Each in the fastest of its ways, in a process of its own, by "
        "turns; medians of rounds. [docs/performance.md](docs/performance.md) has the noise, other "
        "libraries and pictures; `python -m pyoptk bench` measures yours."
    )
    return "\n".join([*lines, "", f"{where(result)} {how}"])


def where(result: Result) -> str:
    """Machine, date and versions in a sentence."""
    machine = result["machine"]
    told = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}, {machine['system']}, "
        f"{machine['date']}, commit {machine['commit']}; Python {machine['python']}, {told}."
    )


# ---- docs/performance.md -------------------------------------------------------------------------


def with_noise(row: Result, peer: str) -> str:
    """Median and range of the ratios; bold where a peer is faster, which the roof is not."""
    found = ratios(row, peer, "pyoptk")
    if not found:
        return row["errors"].get(peer, "")
    middle = statistics.median(found)
    told = f"{middle:.2f} ({found[0]:.2f} to {found[-1]:.2f})"
    return f"**{told}**" if round(middle, 2) < 1 and peer != bars.ROOF else told


def table(result: Result, task: str) -> str:
    """All rows of one task by all who took part in any of them."""
    chosen = [row for row in result["rows"] if row["task"] == task]
    present = {name for row in chosen for name in row["seconds"]}
    order = [name for row in result["rows"] for name in row["seconds"]]
    names = [n for n in dict.fromkeys(order) if n in present and n != "pyoptk"]
    lines = [f"| | pyoptk | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for row in chosen:
        cells = " | ".join(with_noise(row, name) for name in names)
        lines.append(f"| {row['label']} | {duration(median(row, 'pyoptk'))} | {cells} |")
    return "\n".join(lines)


TASKS = {
    "step": "Optimizer steps",
    "lstm": "LSTM, forward and backward with the gradient of the input",
    "forecaster": "A training step of LSTM(64), LSTM(32), Dense(1): MSE, Adam, 10 steps in time",
    "mlp": "A training step of a classifier written in NumPy, with pyoptk's step dropped in",
}


def duels(result: Result) -> str:
    """The tables of one run of bench.peers."""
    plural = "" if result["threads"] == 1 else "s"
    turns = f"{result['rounds']} round{'s'[: result['rounds'] > 1]} of {result['block']:g} s"
    parts = [
        f"## Against other libraries, {result['threads']} thread{plural}",
        f"`{result['machine']['command']}`: {turns}. {where(result)}",
    ]
    if result["missing"]:
        missing = [f"{name} ({why})" for name, why in result["missing"].items()]
        parts.append(f"Not measured: {', '.join(missing)}.")
    for task, title in TASKS.items():
        if any(row["task"] == task for row in result["rows"]):
            parts += [f"### {title}", table(result, task)]
    return "\n\n".join(parts)


def unmet(results: list[Result], scaling: Result | None) -> str:
    """What falls short of bars.py, with the reason."""
    every = bars.outcomes(results, scaling)
    short_of = [one for one in every if not one.met]
    said = f"{len(every) - len(short_of)} of {len(every)} bars of bench/bars.py are met."
    if scaling:
        peak = scaling["machine"]["peak"]["1"]
        said += (
            f" They were set where a core does {bars.PEAK / 1e9:.0f} GFLOP/s of multiply-adds with "
            f"{bars.ISA}; this one does {peak / 1e9:.0f} with {scaling['machine']['isa']}."
        )
    if not short_of:
        return f"## What is not met yet\n\nNothing: {said}"
    lines = ["| | threads | wanted | measured | why |", "|---|---|---|---|---|"]
    for one in short_of:
        why = one.reason or "not known yet"
        lines.append(f"| {one.what} | {one.threads} | {one.wanted} | {one.measured} | {why} |")
        if not one.reason:
            print(f"no reason in bench/bars.py for: {one.what}", file=sys.stderr)
    return "\n".join(["## What is not met yet", "", said, "", *lines])


PREFACE = """\
# Performance

How many times as long a peer takes: the median over the rounds, and their range. **Bold** where the
peer is faster. Written by `python -m bench.report`; only ratios inside a run mean anything. Every
contender works in a process of its own, held to as many cores as it has threads; they take turns,
start from the same numbers and have to arrive at the same. What settings a peer gets, and why,
stands at the top of its file in bench/peers/contenders and pyoptk/bench/contenders. The roof of a
step is as many bytes, streamed with additions only; that of a layer its multiply-adds in registers.

`python -m bench.peers --setup DIR && python -m bench --peers DIR` repeats all of it."""


def draw(results: list[Result], models: list[Result]) -> str:
    """Write the pictures, that of scaling from the largest machine; the text that shows them."""
    first = results[0]
    drawn = {
        "speedup": ("A step of Adam by size, against the others", pictures.speedup(first)),
        "cost": ("Cost of a parameter as the model grows", pictures.cost(first)),
        "roofs": ("Bandwidth and arithmetic against the roof", pictures.roofs(first)),
        "forecaster": ("Time per step of the forecaster", pictures.forecaster(first)),
    }
    if models:
        most = max(models, key=lambda model: model["machine"]["cores"])
        drawn["scaling"] = ("Scaling with threads", pictures.scaling(most))
        drawn["roofline"] = ("LSTM shapes under the roofs", roofline.picture(models[0]))
    folder = DOCS / "performance"
    folder.mkdir(exist_ok=True)
    shown = []
    for name, (words, svg) in drawn.items():
        if not svg:  # nobody was there
            (folder / f"{name}.svg").unlink(missing_ok=True)
            continue
        (folder / f"{name}.svg").write_text(svg)
        shown.append(f"![{words}](performance/{name}.svg)")
    return "\n\n".join(shown)


def main() -> None:
    read = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    results = sorted(
        (r for r in read if r.get("kind") == "peers"), key=lambda result: result["threads"]
    )
    if not results:
        sys.exit("bench.report: expected a result of bench.peers among the files, got none")
    models = [r for r in read if r.get("kind") == "scaling"]
    before, rest = README.read_text().split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{readme_table(results[0])}\n{END}{after}")
    parts = [PREFACE, unmet(results, models[0] if models else None)]
    parts.append(draw(results, models))
    parts += [duels(result) for result in results]
    parts += [roofline.table(model) for model in models[:1]]
    parts += [kernel_tables.kernels(r) for r in read if "benchmarks" in r]
    parts += [kernel_tables.scaling(model) for model in models]
    (DOCS / "performance.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
