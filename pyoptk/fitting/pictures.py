"""The pictures of a history and of a range test. The only file here that needs matplotlib.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from .history import History
    from .range_test import LRRange

BLACK, BLUE, ORANGE = "#000000", "#0072B2", "#D55E00"
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
        if name == "loss" and all(value > 0 for value in history["loss"]):
            axes.set_yscale("log")
        if "val_loss" in history:
            axes.axvline(history.best_epoch, color=BLACK, lw=0.8, ls=":", label="best epoch")
            axes.legend()
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)


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
