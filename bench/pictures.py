"""The pictures of docs/performance.md, from the results of the duels and of scaling.py."""

import math
import statistics

from pyoptk.duel import rows
from pyoptk.duel.referee import duration, fastest, median, ratios
from pyoptk.duel.svg import Series, bars, lines

PEERS = ("PyTorch", "DeepSpeed", "JAX", "Keras", "NumPy", "thinc", "scikit-learn")
FAMILIES = {
    "PyTorch": ("PyTorch fused", "PyTorch foreach", "PyTorch for-loop"),
    "NumPy": ("NumPy in place", "NumPy plain"),
}
ALL = ("pyoptk", *PEERS)


def best(row, name):
    """The fastest way of a library at this row; empty where it was not there."""
    return fastest(row, FAMILIES.get(name, (name,)))


def adam_rows(result):
    """The rows of one tensor, by size."""
    found = [row for row in result["rows"] if row["settings"] == {"optimizer": "Adam"}]
    return [row for row in found if row["sizes"]["count"] == 1]


def note(result):
    plural = "" if result["threads"] == 1 else "s"
    machine = result["machine"]
    return f"{machine['cpu']}, {result['threads']} thread{plural}, {machine['date']}"


def by_size(result, figure, names, title, **titles):
    """A figure of the rows of Adam by their size: a line for each library that was there."""
    series = []
    for name in names:
        points = [(float(row["sizes"]["n"]), figure(row, name)) for row in adam_rows(result)]
        points = [point for point in points if not math.isnan(point[1])]
        if points:
            series.append(Series(name, points, ALL.index(name)))
    return lines(title, series, note=note(result), **titles) if series else ""


def speedup(result):
    """How many times as long the others take for a step of Adam, by size."""

    def figure(row, name):
        return statistics.median(ratios(row, best(row, name)) or [math.nan])

    title = "A step of Adam: how many times as long as pyoptk"
    titles = {"x_title": "elements", "y_title": "times as long"}
    return by_size(result, figure, (*PEERS, "pyoptk"), title, **titles)


def cost(result):
    """Nanoseconds for each parameter as the model grows."""

    def figure(row, name):
        return median(row, best(row, name)) / row["sizes"]["n"] * 1e9

    title = "A step of Adam: nanoseconds for each parameter"
    titles = {"x_title": "parameters of the model, in one tensor", "y_title": "ns"}
    return by_size(result, figure, ALL, title, **titles)


def roofs(result):
    """Share of the roof: bandwidth for steps, multiply-adds for layers."""
    groups = []
    for row in result["rows"]:
        if "roof" not in row["seconds"] or row["sizes"].get("count", 1) > 1:
            continue
        work, unit = (row["bytes"], "GB/s") if "bytes" in row else (row["flop"], "GFLOP/s")
        members = []
        for name in ("pyoptk", "PyTorch"):
            seconds = median(row, best(row, name))
            if not math.isnan(seconds):
                share = 100 * median(row, "roof") / seconds
                members.append((name, share, f"{work / seconds / 1e9:.0f} {unit}"))
        groups.append((row["label"], members))
    return groups and bars(
        "Bandwidth and arithmetic against the roof",
        groups,
        palette=("pyoptk", "PyTorch"),
        x_title="per cent of the roof: as many bytes with additions only, or as many multiply-adds",
        note=note(result),
    )


def forecaster(result):
    """Time of a training step of the forecaster for every framework."""
    groups = []
    by_label = {row["label"]: row for row in result["rows"]}
    for B in (32, 256):
        row = by_label.get(rows.forecaster(B)["label"], {"seconds": {}})
        seconds = {name: median(row, best(row, name)) for name in ALL}
        told = [(name, t * 1e3, duration(t)) for name, t in seconds.items() if not math.isnan(t)]
        if told:
            groups.append((f"batch of {B}", sorted(told, key=lambda member: member[1])))
    names = {name for _, members in groups for name, _, _ in members}
    return groups and bars(
        "A training step of the forecaster: LSTM(64), LSTM(32), Dense(1), Adam",
        groups,
        palette=[name if name in names else "" for name in ALL],
        x_title="milliseconds",
        note=note(result),
    )


OF_DUELS = {  # by file name and title
    ("speedup", "A step of Adam by size, against the others"): speedup,
    ("cost", "Cost of a parameter as the model grows"): cost,
    ("roofs", "Bandwidth and arithmetic against the roof"): roofs,
    ("forecaster", "Time per step of the forecaster"): forecaster,
}


def scaling(result):
    """How many times as fast as one thread: measured, and in the model."""
    chosen = (
        "Adam, 1,000,000 elements",
        "Adam, 10,000,000 elements",
        "LSTM, T 10, B 32, I 64, H 64",
        "LSTM, T 100, B 32, I 128, H 256",
        "LSTM, T 30, B 128, I 256, H 256",
    )
    found = {row["label"]: row for family in result["families"] for row in family["rows"]}
    series = []
    for k, label in enumerate(label for label in chosen if label in found):
        row = found[label]
        for name, times in (label, row["model"] | row["foretold"]), ("", row["measured"]):
            one = row["model" if name else "measured"]["1"]
            points = sorted((float(n), one / t) for n, t in times.items())
            series.append(Series(name, points, k, measured=not name))
    return lines(
        "How many times as fast as one thread",
        series,
        x_ticks=sorted({x for one in series for x, _ in one.points}),
        x_title="threads (lines with marks: measured; dotted: the model)",
        y_title="times",
        note=f"{result['machine']['cpu']}, {result['machine']['date']}",
    )
