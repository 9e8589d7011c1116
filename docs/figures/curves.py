"""Curves that several pictures show.  Colours are those of Okabe and Ito."""

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
)  # fmt: skip
COLORS = (SKY, ORANGE, GREEN, PINK, YELLOW)  # in this order, on white and on black


def figure_of(columns=1, height=3.2):
    """A figure of the width of a page, and its panels."""
    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def curves(axes, of, x=None, **labels):
    """Lines by name."""
    for color, (name, values) in zip(COLORS * 3, of.items(), strict=False):
        axes.plot(range(1, len(values) + 1) if x is None else x, values, color=color, label=name)
    axes.set(**labels)
    if len(of) > 1:
        axes.legend()


def one_legend(figure, axes):
    """That of one panel, below all of them, where it covers nothing."""
    handles, names = axes.get_legend_handles_labels()
    for panel in figure.axes:
        if panel.get_legend():
            panel.get_legend().remove()
    figure.legend(handles, names, loc="outside lower center", ncols=2)


def epochs(history, *names):
    """A panel for each name, with training and validation."""
    figure, panels = figure_of(len(names))
    for axes, name in zip(panels, names, strict=True):
        both = {"training": history[name], "validation": history[f"val_{name}"]}
        curves(axes, both, xlabel="epoch", ylabel=name)
    return figure


def smooth(values, width=10):
    """The mean of the last `width` values."""
    return [sum(values[max(0, k - width) : k]) / min(k, width) for k in range(1, len(values) + 1)]
