"""Memory and curves of examples/low_memory.py."""

import curves


def draw(found):
    figure, (states, kept, losses) = curves.figure_of(3)
    names = list(found["curves"])
    for axes, sizes, title in (
        (states, found["states"], "states, KiB"),
        (kept, found["kept"], "kept for backward, KiB"),
    ):
        bars = axes.barh(names[::-1], [sizes[n] / 2**10 for n in names[::-1]])
        for bar, color in zip(bars[::-1], curves.COLORS, strict=False):
            bar.set_color(color)
        axes.set(xlabel=title)
        axes.grid(axis="y", visible=False)
    kept.set_yticklabels([])
    smooth = {name: curves.smooth(values, 30) for name, values in found["curves"].items()}
    curves.curves(losses, smooth, xlabel="step", ylabel="loss", yscale="log")
    losses.get_legend().remove()
    return figure
