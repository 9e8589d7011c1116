"""The pictures of docs/performance.md, from the results of the duels and of scaling.py."""

from typing import NamedTuple

from pyoptk.duel.machine import note
from pyoptk.duel.picture import COLORS, bars, page
from pyoptk.duel.referee import best, duration, median, middle

from .work import BRIEF

PEERS = ("PyTorch", "DeepSpeed", "JAX", "Keras", "NumPy", "thinc", "scikit-learn")
ALL = ("pyoptk", *PEERS)  # in the order of their colours


class Series(NamedTuple):
    """A line: its name, its points, and whether they were measured (marks) or computed (dots)."""

    name: str
    points: list
    color: int
    measured: bool = True


def lines(title, series, *, x_title, y_title, note="", x_ticks=()):
    """A chart on logarithmic axes, with a legend at the right in the order of the lines' ends."""
    from matplotlib.ticker import EngFormatter, LogLocator

    figure, axes = page(title, 4.5, note)
    axes.set(xscale="log", yscale="log", xlabel=x_title, ylabel=y_title)
    named = {}
    for one in series:
        style = {"marker": "o", "markersize": 4} if one.measured else {"linestyle": ":"}
        width = 3 if one.color == 0 and one.measured else 1.6
        (line,) = axes.plot(*zip(*one.points, strict=True), color=COLORS[one.color],
                            linewidth=width, **style)  # fmt: skip
        if one.name:
            named[one.name] = (one.points[-1][1], line)
    least, most = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if most / least > 1e3 else (1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_major_formatter(EngFormatter())
    if x_ticks:
        axes.set_xticks(x_ticks)
        if max(x_ticks) < 10_000:
            axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    order = sorted(named, key=lambda name: -named[name][0])
    figure.legend([named[name][1] for name in order], order, loc="outside right upper")
    return figure


def adam_rows(result):
    """The rows of one tensor, by size."""
    found = [row for row in result["rows"] if row["settings"] == {"optimizer": "Adam"}]
    return [row for row in found if row["sizes"]["count"] == 1]


def by_size(result, title, figure, **titles):
    """A figure of the rows of Adam by their size: a line for each library that was there."""
    series = []
    for color, library in enumerate(ALL):
        there = [(row, name) for row in adam_rows(result) if (name := best(row, library))]
        points = [(float(row["sizes"]["n"]), figure(row, name)) for row, name in there]
        series += [Series(library, points, color)] if points else []
    return lines(title, series, note=note(result), **titles) if series else ""


def speedup(result):
    """How many times as long the others take for a step of Adam, by size."""
    title = "A step of Adam: how many times as long as pyoptk"
    return by_size(result, title, middle, x_title="elements", y_title="times as long")


def cost(result):
    """Nanoseconds for each parameter as the model grows."""

    def figure(row, name):
        return median(row, name) / row["sizes"]["n"] * 1e9

    title = "A step of Adam: nanoseconds for each parameter"
    x_title = "parameters of the model, in one tensor"
    return by_size(result, title, figure, x_title=x_title, y_title="ns")


def roofs(result):
    """Share of the roof in README's rows: bandwidth for steps, multiply-adds for layers."""
    groups = []
    for row in result["rows"]:
        if "roof" in row["seconds"] and row["label"] in BRIEF:
            work, unit = (row["bytes"], "GB/s") if "bytes" in row else (row["flop"], "GFLOP/s")
            names = [(name, best(row, name)) for name in ("pyoptk", "PyTorch") if best(row, name)]
            seconds = [(name, median(row, way)) for name, way in names]
            members = [
                (name, 100 * median(row, "roof") / t, f"{work / t / 1e9:.0f} {unit}")
                for name, t in seconds
            ]
            groups.append((row["label"], members))
    return groups and bars(
        "Bandwidth and arithmetic against the roof",
        groups,
        palette=("pyoptk", "PyTorch"),
        x_title="per cent of the roof",
        note=note(result),
    )


def forecaster(result):
    """Time of a training step of the forecaster for every framework."""
    groups = []
    for row in result["rows"]:
        if row["task"] == "forecaster":
            told = sorted((median(row, way), name) for name in ALL if (way := best(row, name)))
            members = [(name, t * 1e3, duration(t)) for t, name in told]
            groups.append((f"batch of {row['sizes']['B']}", members))
    return groups and bars(
        "A training step of the forecaster: LSTM(64), LSTM(32), Dense(1), Adam",
        groups,
        palette=ALL,
        x_title="milliseconds",
        note=note(result),
    )


OF_DUELS = {  # by file name and title
    ("speedup", "A step of Adam by size, against the others"): speedup,
    ("cost", "Cost of a parameter as the model grows"): cost,
    ("roofs", "Bandwidth and arithmetic against the roof"): roofs,
    ("forecaster", "Time per step of the forecaster"): forecaster,
}
SCALED = (
    "Adam, 1,000,000 elements",
    "Adam, 10,000,000 elements",
    "LSTM, T 10, B 32, I 64, H 64",
    "LSTM, T 100, B 32, I 128, H 256",
    "LSTM, T 30, B 128, I 256, H 256",
)


def scaling(result):
    """How many times as fast as one thread: measured, and in the model."""
    found = {row["label"]: row for family in result["families"] for row in family["rows"]}
    series = []
    for k, label in enumerate(label for label in SCALED if label in found):
        row = found[label]
        foretold = row["model"] | row["foretold"]
        for name, times in (label, foretold), ("", row["measured"]):
            points = sorted((float(n), times["1"] / t) for n, t in times.items())
            series.append(Series(name, points, k, measured=not name))
    return lines(
        "How many times as fast as one thread",
        series,
        x_ticks=sorted({x for one in series for x, _ in one.points}),
        x_title="threads (lines with marks: measured; dotted: the model)",
        y_title="times",
        note=f"{result['machine']['cpu']}, {result['machine']['date']}",
    )
