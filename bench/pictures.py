"""The pictures of docs/performance.md, from the results of bench.peers and scaling.py."""

from __future__ import annotations

import math
import statistics
from typing import Any

from pyoptk.bench import rows
from pyoptk.bench.command import duration
from pyoptk.bench.duel import fastest, median, ratios
from pyoptk.bench.svg import Series, bars, lines

Result = dict[str, Any]
PEERS = ("PyTorch", "DeepSpeed", "JAX", "Keras", "NumPy", "thinc", "scikit-learn")
FAMILIES = {
    "PyTorch": ("PyTorch fused", "PyTorch foreach", "PyTorch for-loop"),
    "NumPy": ("NumPy in place", "NumPy plain"),
}
COLORS = {name: k for k, name in enumerate(("pyoptk", *PEERS))}


def best(row: dict[str, Any], peer: str) -> str:
    """The fastest way of a library at this row; empty where it was not there."""
    return fastest(row, FAMILIES.get(peer, (peer,)))


def adam_rows(result: Result) -> list[dict[str, Any]]:
    """The rows of one tensor, by size."""
    found = [
        row
        for row in result["rows"]
        if row["settings"] == {"optimizer": "Adam"} and row["sizes"]["count"] == 1
    ]
    return sorted((row for row in found if row["sizes"]["n"] >= 1_000), key=lambda r: r["bytes"])


def note(result: Result) -> str:
    machine = result["machine"]
    plural = "" if result["threads"] == 1 else "s"
    return f"{machine['cpu']}, {result['threads']} thread{plural}, {machine['date']}"


def speedup(result: Result) -> str:
    """How many times longer the others take for a step of Adam, by size."""
    sizes = [float(row["sizes"]["n"]) for row in adam_rows(result)]
    if not sizes:
        return ""
    series = []
    for peer in PEERS:
        points = []
        for row in adam_rows(result):
            found = ratios(row, best(row, peer), "pyoptk")
            if found:
                points.append((float(row["sizes"]["n"]), statistics.median(found)))
        if points:
            series.append(Series(peer, points, COLORS[peer]))
    series.append(Series("pyoptk", [(sizes[0], 1.0), (sizes[-1], 1.0)], 0))
    return lines(
        "A step of Adam: how many times as long as pyoptk",
        series,
        x_title="elements",
        y_title="times as long",
        note=note(result),
    )


def cost(result: Result) -> str:
    """Nanoseconds for each parameter as the model grows."""
    series = []
    for name in ("pyoptk", *PEERS):
        points = []
        for row in adam_rows(result):
            seconds = median(row, "pyoptk" if name == "pyoptk" else best(row, name))
            if not math.isnan(seconds):
                points.append((float(row["sizes"]["n"]), seconds / row["sizes"]["n"] * 1e9))
        if points:
            series.append(Series(name, points, COLORS[name]))
    if not series:
        return ""
    return lines(
        "A step of Adam: nanoseconds for each parameter",
        series,
        x_title="parameters of the model, in one tensor",
        y_title="ns",
        note=note(result),
    )


def roofs(result: Result) -> str:
    """Share of the roof: bandwidth for steps, multiply-adds for layers."""
    groups = []
    for row in result["rows"]:
        if "roof" not in row["seconds"] or row["sizes"].get("count", 1) > 1:
            continue
        work, unit = (row["bytes"], "GB/s") if "bytes" in row else (row["flop"], "GFLOP/s")
        members = []
        for name in ("pyoptk", "PyTorch"):
            who = "pyoptk" if name == "pyoptk" else best(row, name)
            if who in row["seconds"]:
                share = median(row, "roof") / median(row, who)
                members.append((name, share * 100, f"{work / median(row, who) / 1e9:.0f} {unit}"))
        groups.append((row["label"], members))
    if not groups:
        return ""
    return bars(
        "Bandwidth and arithmetic against the roof",
        groups,
        palette=("pyoptk", "PyTorch"),
        x_title="per cent of the roof: as many bytes with additions only, or as many multiply-adds",
        note=note(result),
    )


def forecaster(result: Result) -> str:
    """Time of a training step of the forecaster for every framework."""
    groups = []
    for B in (32, 256):
        row = next((r for r in result["rows"] if r["label"] == rows.forecaster(B)["label"]), None)
        if row is None:
            continue
        members = []
        for name in ("pyoptk", *PEERS):
            seconds = median(row, "pyoptk" if name == "pyoptk" else best(row, name))
            if not math.isnan(seconds):
                members.append((name, seconds * 1e3, duration(seconds)))
        groups.append((f"batch of {B}", sorted(members, key=lambda member: member[1])))
    names = {name for _, members in groups for name, _, _ in members}
    if not groups:
        return ""
    return bars(
        "A training step of the forecaster: LSTM(64), LSTM(32), Dense(1), Adam",
        groups,
        palette=[name if name in names else "" for name in ("pyoptk", *PEERS)],
        x_title="milliseconds",
        note=note(result),
    )


def scaling(result: Result) -> str:
    """How many times as fast as one thread: measured, and as the model has it."""
    chosen = (
        "Adam, 1,000,000 elements",
        "Adam, 10,000,000 elements",
        "LSTM, T 10, B 32, I 64, H 64",
        "LSTM, T 100, B 32, I 128, H 256",
        "LSTM, T 30, B 128, I 256, H 256",
    )
    found = {row["label"]: row for family in result["families"] for row in family["rows"]}
    series = []
    for k, label in enumerate(chosen):
        if label not in found:
            continue
        row = found[label]
        one = row["model"]["1"]
        told = {int(n): one / t for n, t in (row["model"] | row["foretold"]).items()}
        series.append(Series(label, sorted((float(n), r) for n, r in told.items()), k, False))
        measured = {int(n): row["measured"]["1"] / t for n, t in row["measured"].items()}
        series.append(Series("", sorted((float(n), r) for n, r in measured.items()), k))
    threads = sorted({x for one in series for x, _ in one.points})
    return lines(
        "How many times as fast as one thread",
        series,
        x_ticks=threads,
        x_title="threads (lines with marks: measured; dotted: the model)",
        y_title="times",
        note=f"{result['machine']['cpu']}, {result['machine']['date']}",
    )
