"""The pictures of the demos, each drawn into an empty matplotlib figure.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from . import linear, mlp
    from .forecast import Outcome
    from .report import Words

BLACK, BLUE, ORANGE = "#000000", "#0072B2", "#D55E00"
FIVE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def forecast(figure: Figure, outcome: Outcome, words: Words) -> None:
    """The held-out rows and their forecasts, the errors, the loss while training, what comes."""
    figure.set_size_inches(9, 9)
    heights, size = [3, 2, 2], outcome.ahead.values.size
    if size > 1:
        figure.set_size_inches(9, 12)
        heights.append(3)
    above, middle, below, *future = figure.subplots(len(heights), 1, height_ratios=heights)
    for axes in future:
        _draw_ahead(axes, outcome, words)
    model, *baselines = outcome.errors
    best = min(baselines, key=lambda name: outcome.errors[name])
    series, start = outcome.task.series, outcome.task.start
    observed = series.values[start:]
    rows = np.arange(observed.size)
    ahead = f"{model}, one {words.row} ahead"
    dots = "o" if observed.size == 1 else None
    above.plot(rows, observed, color=BLACK, lw=1.2, marker=dots, label="observed, not trained on")
    above.plot(rows, outcome.forecasts[model], "o", color=BLUE, ms=3.5, label=ahead)
    above.set(title=_plain(words.title), ylabel=_plain(words.axis, 40))
    _leave_room(above, 0.15)
    above.legend(loc="upper left", ncols=2)
    for name, style, color in ((best, "--", ORANGE), (model, "-", BLUE)):
        label = f"{name}: {outcome.errors[name]:#.3g} {words.unit}".rstrip()
        error = outcome.forecasts[name] - observed
        middle.plot(rows, error, style, color=color, lw=1.2, marker=dots, label=label)
    middle.axhline(0, color=BLACK, lw=0.6)
    middle.set(title="forecast minus observed", xlabel=words.row)
    middle.set_ylabel(f"error of {_plain(words.axis, 25)}")
    _leave_room(middle, 0.35)
    middle.legend(loc="upper left", ncols=2, title="mean absolute error", fontsize="small")
    for axes in (above, middle):
        _label_rows(axes, series.labels[start:], series.season)
    _draw_loss(below, outcome.losses)
    for axes in figure.axes:
        axes.grid(alpha=0.3)


def _draw_ahead(axes: Axes, outcome: Outcome, words: Words) -> None:
    """The rows after the last, with their spread, behind at least two seasons of the series."""
    series, ahead = outcome.task.series, outcome.ahead
    past = min(series.values.size, max(2 * series.season, ahead.values.size))
    values = np.append(series.values[-1], ahead.values)
    spread = np.append(0, ahead.spread)
    rows = past - 1 + np.arange(values.size)
    axes.plot(np.arange(past), series.values[-past:], color=BLACK, lw=1.2, label="observed")
    axes.plot(rows, values, ".-", color=BLUE, lw=1.2, ms=4, label="forecast")
    axes.fill_between(
        rows, values - spread, values + spread, color=BLUE, alpha=0.2, lw=0,
        label="9 of 10 errors of held-out rows were smaller",
    )  # fmt: skip
    axes.set(title=f"the next {ahead.values.size} {words.row}s", ylabel=_plain(words.axis, 30))
    _label_rows(axes, series.labels[-past:] + ahead.labels, series.season)
    _leave_room(axes, 0.2)
    axes.legend(loc="upper left", ncols=3)


def fit(figure: Figure) -> None:
    """Make titles and labels smaller that would be cut at the edges."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        box = axes.get_window_extent()
        across = min(box.x0 + box.x1, 2 * figure.bbox.width - box.x0 - box.x1)  # centred
        for text, room in (
            (axes.title, across),
            (axes.xaxis.label, across),
            (axes.yaxis.label, figure.bbox.height / len(figure.axes)),
        ):
            size = text.get_window_extent()
            longest = size.height if text is axes.yaxis.label else size.width
            if longest > 0.96 * room:
                text.set_fontsize(float(text.get_fontsize()) * 0.96 * room / longest)


def _plain(text: str, length: int = 60) -> str:
    """The user's text without TeX, cut to `length`."""
    short = text if len(text) <= length else text[: length - 3] + "..."
    return short.replace("$", r"\$")


def _leave_room(axes: Axes, share: float) -> None:
    """Make the axis higher, for a legend above the curves."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + share * (high - low))


def _label_rows(axes: Axes, labels: list[str], season: int) -> None:
    """Ticks a whole number of seasons apart, as many as there is room for their labels."""
    room = max(2, 80 // max(map(len, labels)))
    apart = season * max(1, -(-len(labels) // (room * season)))
    if apart > len(labels) // 2:
        apart = max(1, -(-len(labels) // min(room, 5)))
    ticks = np.arange(0, len(labels), apart)
    axes.set_xticks(ticks, [_plain(labels[k], 30) for k in ticks], fontsize="small")
    axes.set_xlim(-1, len(labels))


def _draw_loss(axes: Axes, losses: list[float]) -> None:
    """Each batch, and on top the mean of fifty stretches of batches."""
    steps = np.arange(1, len(losses) + 1)
    parts = min(50, len(losses))
    middles = [part.mean() for part in np.array_split(steps, parts)]
    means = [part.mean() for part in np.array_split(np.array(losses), parts)]
    axes.semilogy(steps, losses, color=BLUE, lw=0.8, alpha=0.35, label="each batch")
    axes.semilogy(middles, means, ".-", color=BLUE, lw=1.5, ms=4, label="mean of batches")
    axes.set(
        title="training loss", xlabel="step", ylabel="mean squared error,\nstandardized changes"
    )
    axes.legend()


def losses(figure: Figure, outcomes: dict[str, mlp.Outcome], title: str) -> None:
    """The training loss of each optimizer over the epochs."""
    from matplotlib.ticker import MaxNLocator

    figure.set_size_inches(9, 5.5)
    axes = figure.subplots()
    for (name, outcome), color, dash in zip(outcomes.items(), FIVE, DASHES, strict=True):
        epochs = np.arange(1, len(outcome.losses) + 1)
        marker = "o" if len(epochs) == 1 else None
        label = f"{name}, lr {outcome.lr:g}: {outcome.accuracy:.1%}"
        axes.semilogy(epochs, outcome.losses, color=color, ls=dash, marker=marker, label=label)
    axes.set(title=title, xlabel="epoch", ylabel="training loss (mean cross-entropy)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(title="accuracy on the test rows")


def line(figure: Figure, outcome: linear.Outcome) -> None:
    """The points with the fitted line, and the loss over the steps."""
    figure.set_size_inches(9, 4.5)
    left, right = figure.subplots(1, 2)
    slope, intercept = outcome.fitted
    ends = np.array([outcome.x.min(), outcome.x.max()])
    left.plot(outcome.x, outcome.y, "o", color=BLACK, ms=3, alpha=0.4, label="points")
    label = f"y = {slope:.3f}x + {intercept:.3f}"
    left.plot(ends, slope * ends + intercept, color=BLUE, lw=2, label=label)
    left.set(title="fitted line", xlabel="x", ylabel="y")
    left.legend()
    right.semilogy(np.arange(1, len(outcome.losses) + 1), outcome.losses, color=BLUE)
    right.set(title="training loss", xlabel="step of Adam", ylabel="mean squared error")
    for axes in (left, right):
        axes.grid(alpha=0.3)
