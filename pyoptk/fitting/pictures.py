"""The pictures of histories, updates and range tests. The only file here that needs matplotlib.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from .history import History
    from .range_test import LRRange

BLACK, BLUE, ORANGE = "#000000", "#0072B2", "#D55E00"
_COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", BLACK)
_OTHERS = ("epoch", "lr", "seconds")


def drawn(draw: Callable[[Figure], None], path: str | os.PathLike[str] | None) -> Figure:
    """A figure that `draw` has filled; saved at `path`, or one of pyplot."""
    if path is not None:
        figure = Figure(layout="constrained")
        draw(figure)
        figure.savefig(path, dpi=120)
        return figure
    from matplotlib import pyplot

    figure = pyplot.figure(layout="constrained")
    draw(figure)
    return figure


def epochs(figure: Figure, history: History) -> None:
    """Loss and metrics, each with that of validation, and a line at the best epoch."""
    names = [name for name in history if name not in _OTHERS and not name.startswith("val_")]
    figure.set_size_inches(max(6.4, 4.8 * len(names)), 4)
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        for key, label, color, style in (
            (name, "training", BLUE, "-"),
            (f"val_{name}", "validation", ORANGE, "--"),
        ):
            if key in history:
                marker = "o" if len(history["epoch"]) < 30 else None
                axes.plot(history["epoch"], history[key], style, color=color, marker=marker, ms=4,
                          label=label)  # fmt: skip
        low, high = axes.dataLim.intervaly
        if name == "loss" and high > 10 * low > 0:
            axes.set_yscale("log")
        if "val_loss" in history:
            axes.axvline(history.best_epoch, color=BLACK, lw=0.8, ls=":", label="best epoch")
            axes.legend()
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)


def updates(figure: Figure, of: dict[str, dict[str, list[float]]]) -> None:
    """Update / parameter and the norm of the gradient, a line for each parameter."""
    figure.set_size_inches(11, 4.2)
    colors = colormaps["viridis"].resampled(max(2, len(of)))  # from the first layer to the last
    left, right = figure.subplots(1, 2)
    left.axhspan(10**-3.5, 10**-2.5, color=BLACK, alpha=0.1, label="usually healthy")
    for i, (name, told) in enumerate(of.items()):
        for axes, column in ((left, "ratio"), (right, "grad_norm")):
            marker = "o" if len(told["epoch"]) < 30 else None
            axes.plot(told["epoch"], told[column], color=colors(i), marker=marker, ms=3, label=name)
    for axes, title in ((left, "update / parameter"), (right, "norm of the gradient")):
        axes.set(title=title, xlabel="epoch", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")


def states(figure: Figure, of: dict[str, dict[str, Any]]) -> None:
    """For each layer, its sizes and, if there are any, its shares, over time."""
    bounds = ("_low", "_high")
    columns = 1 + any(key.endswith(bounds) for arrays in of.values() for key in arrays)
    figure.set_size_inches(5.5 * columns, 0.6 + 2.5 * len(of))
    rows = figure.subplots(len(of), columns, squeeze=False, sharex=True)
    for (name, arrays), panels in zip(of.items(), rows, strict=True):
        shares = [key for key in arrays if key.endswith(bounds)]
        sizes = [key for key in arrays if key not in shares]
        for key, color in zip(sizes, _COLORS, strict=False):
            panels[0].plot(arrays[key], color=color, label=key)
        colors = dict(zip(dict.fromkeys(key[0] for key in shares), _COLORS, strict=False))
        for key in shares:
            style = "-" if key.endswith("high") else "--"
            panels[-1].plot(arrays[key], style, color=colors[key[0]], label=key.replace("_", " "))
        panels[0].set(title=f"{name}: root mean square", yscale="log")
        if shares:
            panels[-1].set(title=f"{name}: share of units at a bound", ylim=(-0.03, 1.03))
        for axes in panels:
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small", ncols=2)
    for axes in rows[-1]:
        axes.set(xlabel="step")


def learning_rates(figure: Figure, found: LRRange) -> None:
    """The loss of each step and its mean over the learning rate, and the suggestion."""
    figure.set_size_inches(6.4, 4)
    axes = figure.subplots()
    axes.semilogx(found.lr, found.loss, color=BLUE, lw=0.8, alpha=0.4, label="each batch")
    axes.semilogx(found.lr, found.smooth, color=BLUE, lw=1.8, label="mean of batches")
    if found.suggestion is not None:
        axes.axvline(found.suggestion, color=ORANGE, ls="--", label=f"lr {found.suggestion:.2g}")
    if found.smooth:
        low, high = min(found.smooth), found.smooth[0]
        room = max(high - low, 0.1 * abs(high))
        axes.set_ylim(low - 0.2 * room, high + room)
    axes.set(title="learning-rate range test", xlabel="learning rate", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
