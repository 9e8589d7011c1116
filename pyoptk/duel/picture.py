"""Bar charts as SVG, by matplotlib: for `python -m pyoptk bench --plot` and the pages of bench/.

Colours are after Okabe and Ito, which colour-blind readers can tell apart. Where the reader's
system is dark, a picture turns dark itself.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#b5548a", "#8a6d00", "#3f8fc4", "#6f6f6f", "#7a4fb5")
DARK = "@media(prefers-color-scheme:dark){svg{filter:invert(1) hue-rotate(180deg)}}</style>"


def page(title: str, height: float, note: str) -> tuple[Figure, Axes]:
    """An empty chart, as wide as a README shows without shrinking it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.9, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    axes = figure.subplots()
    axes.set_title(note, loc="left", size="small")
    axes.grid(alpha=0.4)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: Figure) -> str:
    """The picture, whose text stays text; the same each time."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pyoptk"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue().replace("</style>", DARK, 1)


def bars(
    title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float, str]]]], *,
    palette: Sequence[str], x_title: str, log: bool = False, note: str = "",
) -> Figure:  # fmt: skip
    """Horizontal bars in groups; each bar has the name of its series, a value and words behind it.

    `palette` lists the names in the order of their colours. On a logarithmic scale bars begin at 1.
    """
    figure, axes = page(title, 1.7 + 0.23 * sum(len(members) + 0.5 for _, members in groups), note)
    axes.set(xlabel=x_title, xscale="log" if log else "linear")
    places, y, begin = [], 0.0, float(log)
    named: dict[str, Any] = {}
    for _, members in groups:
        places.append(y + (len(members) - 1) / 2)
        for name, value, words in members:
            color = COLORS[palette.index(name)]
            bar = axes.barh(y, value - begin, left=begin, height=0.8, color=color)
            axes.bar_label(bar, [words], padding=4)
            named[name] = bar
            y += 1
        y += 0.5
    axes.set_yticks(places, [group for group, _ in groups])
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.2, y=0.01)
    axes.invert_yaxis()
    shown = [name for name in palette if name in named]
    handles = [named[name] for name in shown]
    figure.legend(handles, shown, ncols=7, loc="outside lower center", frameon=False)
    return figure
