"""The pictures of docs/performance.md, from the results of the duels and of scaling.py."""

from typing import NamedTuple

from pyoptk.duel import rows
from pyoptk.duel.command import PEERS as WAYS
from pyoptk.duel.picture import COLORS, bars, page
from pyoptk.duel.referee import duration, fastest, median, ratio

PEERS = ("PyTorch", "DeepSpeed", "JAX", "Keras", "NumPy", "thinc", "scikit-learn")
ALL = ("pyoptk", *PEERS)  # in the order of their colours


class Series(NamedTuple):
    """One line: its name, its points, and whether they were measured (marks) or computed."""

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
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter(EngFormatter())
    if x_ticks:
        axes.set_xticks(x_ticks)
    axes.minorticks_off()
    order = sorted(named, key=lambda name: -named[name][0])
    figure.legend([named[name][1] for name in order], order, loc="outside right upper")
    return figure


def best(row, name):
    """The fastest way of a library at this row; empty where it was not there."""
    return fastest(row, WAYS.get(name, (name,)))


def seconds(row, names=ALL):
    """By library, what its fastest way takes; only those that were there."""
    return {name: median(row, who) for name in names if (who := best(row, name))}


def plural(k, what):
    return f"{k} {what}{'s' * (int(k) > 1)}"


def note(result):
    machine = result["machine"]
    return f"{machine['cpu']}, {plural(result['threads'], 'thread')}, {machine['date']}"


def by_size(result, figure, names, title, **titles):
    """A figure of the rows of Adam over one tensor: a line for each library that was there."""
    points = {}
    for row in result["rows"]:
        if row["settings"] == {"optimizer": "Adam"} and row["sizes"]["count"] == 1:
            for name in names:
                if way := best(row, name):
                    points.setdefault(name, []).append((row["sizes"]["n"], figure(row, way)))
    series = [Series(name, points[name], ALL.index(name)) for name in names if name in points]
    return series and lines(title, series, note=note(result), **titles)


def speedup(result):
    title = "A step of Adam: how many times as long as pyoptk"
    titles = {"x_title": "elements", "y_title": "times as long"}
    return by_size(result, ratio, (*PEERS, "pyoptk"), title, **titles)


def cost(result):
    def nanoseconds(row, way):
        return median(row, way) / row["sizes"]["n"] * 1e9

    title = "A step of Adam: nanoseconds for each parameter"
    titles = {"x_title": "parameters of the model, in one tensor", "y_title": "ns"}
    return by_size(result, nanoseconds, ALL, title, **titles)


def roofs(result):
    """Share of the roof: bandwidth for steps, multiply-adds for layers."""
    groups = []
    for row in result["rows"]:
        if "roof" not in row["seconds"] or row["sizes"].get("count", 1) > 1:
            continue
        work, unit = (row["bytes"], "GB/s") if "bytes" in row else (row["flop"], "GFLOP/s")
        both = seconds(row, ("pyoptk", "PyTorch")).items()
        roof = 100 * median(row, "roof")
        members = [(name, roof / t, f"{work / t / 1e9:.0f} {unit}") for name, t in both]
        groups.append((row["label"], members))
    title = "Bandwidth and arithmetic against the roof"
    titles = {"x_title": "per cent of the roof", "note": note(result)}
    return groups and bars(title, groups, palette=("pyoptk", "PyTorch"), **titles)


def forecaster(result):
    """Time of a training step of the forecaster for every framework."""
    groups = []
    for row in (row for row in result["rows"] if row["task"] == "forecaster"):
        told = sorted((t, name) for name, t in seconds(row).items())
        members = [(name, t * 1e3, duration(t)) for t, name in told]
        groups.append((f"batch of {row['sizes']['B']}", members))
    title = "A training step of the forecaster: LSTM(64), LSTM(32), Dense(1), Adam"
    return groups and bars(title, groups, palette=ALL, x_title="milliseconds", note=note(result))


OF_DUELS = {  # by file name and title
    ("speedup", "A step of Adam by size, against the others"): speedup,
    ("cost", "Cost of a parameter as the model grows"): cost,
    ("roofs", "Bandwidth and arithmetic against the roof"): roofs,
    ("forecaster", "Time per step of the forecaster"): forecaster,
}
SCALED = (
    *(rows.step("Adam", n)["label"] for n in (1_000_000, 10_000_000)),
    *(rows.layer(*rows.LSTM[k])["label"] for k in (1, 3, 4)),
)


def scaling(result):
    """How many times as fast as one thread: measured, and in the model."""
    found = {row["label"]: row for family in result["families"] for row in family["rows"]}
    series = []
    for k, label in enumerate(label for label in SCALED if label in found):
        row = found[label]
        for name, times in (label, row["model"] | row["foretold"]), ("", row["measured"]):
            one = row["model" if name else "measured"]["1"]
            points = sorted((int(n), one / t) for n, t in times.items())
            series.append(Series(name, points, k, measured=not name))
    return lines(
        "How many times as fast as one thread",
        series,
        x_ticks=sorted({x for one in series for x, _ in one.points}),
        x_title="threads (lines with marks: measured; dotted: the model)",
        y_title="times",
        note=f"{result['machine']['cpu']}, {result['machine']['date']}",
    )
