"""For report.py: the tables of ``pytest bench --benchmark-json`` and of scaling.py."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from pyoptk.bench.command import duration

from .scaling import CASES, errors

Result = dict[str, Any]


def kernels(result: Result) -> str:
    """Every kernel by size: its time, its share of the roof, how much longer others take."""
    groups: dict[tuple[Any, ...], dict[str, float]] = defaultdict(dict)
    names: dict[str, dict[str, str]] = defaultdict(dict)
    words = {}
    for bench in result["benchmarks"]:
        told = bench["extra_info"]
        if "kernel" not in told:
            continue
        key = (told["kernel"], told["dtype"], told["threads"], str(told["size"]))
        groups[key][told["contender"]] = bench["stats"]["median"]
        names[told["kernel"]][told["contender"]] = bench["name"]
        words[key] = bench["group"].split(maxsplit=2)[2].rpartition(",")[0]
    machine = result["machine_info"]["described"]
    told = ", ".join(f"{k} {v}" for k, v in result["machine_info"]["versions"].items())
    how = (
        f"`{machine['command']}`, one process, medians, of which {noise(result)}; "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}, {machine['system']}, "
        f"{machine['date']}; Python {machine['python']}, {told}. Time; share of the roof; then how "
        "many times as long the NumPy twin and PyTorch take. The roof of a step is a call, too, "
        "and at 1,000 elements not a faster one."
    )
    parts = ["## Every kernel", how]
    for name, called in names.items():
        lines = [f"### {name}", ", ".join(f"{who}: `{it}`" for who, it in called.items())]
        heads = [f"{d}, {k} thread{'s'[: k > 1]}" for d, k in columns(groups, name)]
        rows = [f"| | {' | '.join(heads)} |"]
        rows.append("|---" * (1 + len(columns(groups, name))) + "|")
        sizes = dict.fromkeys(key[3] for key in groups if key[0] == name)
        for size in sizes:
            cells = [cell(groups.get((name, d, k, size), {})) for d, k in columns(groups, name)]
            label = next(w for key, w in words.items() if (key[0], key[3]) == (name, size))
            rows.append(f"| {label} | {' | '.join(cells)} |")
        parts += [*lines, "\n".join(rows)]
    return "\n\n".join(parts)


def noise(result: Result) -> str:
    """How far apart the times of one row are: between the quartiles, over the median."""
    spread = sorted(
        row["stats"]["iqr"] / row["stats"]["median"]
        for row in result["benchmarks"]
        if "kernel" in row["extra_info"]
    )
    tenth = spread[int(0.9 * len(spread))]
    return (
        "the middle half of the calls is spread over "
        f"{statistics.median(spread):.0%} (median row) and {tenth:.0%} (nine rows in ten)"
    )


def columns(groups: Any, name: str) -> list[tuple[str, int]]:
    return list(dict.fromkeys((d, k) for kernel, d, k, _ in groups if kernel == name))


def cell(times: dict[str, float]) -> str:
    """Our time, the roof's share, the twin, PyTorch."""
    if "ours" not in times:
        return ""
    ours = times["ours"]
    told = [duration(ours)]
    if "roof" in times:
        told.append(f"{times['roof'] / ours:.0%}")
    told += [mark(times[who] / ours) if who in times else "-" for who in ("twin", "torch")]
    return ", ".join(told)


def mark(ratio: float) -> str:
    return f"**{ratio:.2f}**" if round(ratio, 2) < 1 else f"{ratio:.2f}"


def scaling(result: Result) -> str:
    """The model: its coefficients, how well it fits, and what it foretells."""
    machine = result["machine"]
    peak = ", ".join(f"{k} threads {p / 1e9:.0f} GFLOP/s" for k, p in machine["peak"].items())
    how = (
        f"`{machine['command']}`, {machine['date']}; the terms stand at the top of it. "
        "Coefficients in seconds for one unit, fitted to runs on one and two threads. "
        f"Peak: {peak}; "
        f"L2 {machine['l2'] >> 20} MiB, L3 {machine['l3'] >> 20} MiB."
    )
    parts = [f"## A model of time per step: {machine['cpu']}, {machine['cores']} cores", how]
    for family in result["families"]:
        fitted = ", ".join(f"{k} {v:.3g}" for k, v in family["coefficients"].items())
        assert family["family"] in CASES
        counts = list(family["rows"][0]["measured"])
        foretold = [k for k in family["rows"][0]["foretold"] if int(k) > max(map(int, counts))]
        heads = [
            *(f"{k} threads: measured, model" for k in counts),
            *(f"{k}: foretold" for k in foretold),
        ]
        lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        for row in family["rows"]:
            cells = [f"{duration(row['measured'][k])}, {duration(row['model'][k])}" for k in counts]
            cells += [duration(row["foretold"][k]) for k in foretold]
            lines.append(f"| {row['label']} | {' | '.join(cells)} |")
        parts += [f"### {family['family']}", f"{fitted}.", "\n".join(lines), checked(family)]
    return "\n\n".join(parts)


def checked(family: Result) -> str:
    """How far the model is from what it was not fitted to."""
    told = []
    for which, least, words in (
        ("left out", 1, "each case against a fit without it"),
        ("model", 3, "three and more threads against the fit to one and two"),
    ):
        found = errors(family, which, least)
        if found:
            told.append(f"{words}, median {statistics.median(found):.0%}, most {found[-1]:.0%}")
    return f"Error: {'; '.join(told)}."
