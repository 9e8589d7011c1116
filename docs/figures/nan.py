"""The sizes of the steps of programs/nan.py."""

import curves


def draw(found):
    figure, (axes,) = curves.figure_of()
    labels = {"xlabel": "step", "ylabel": "update / weights", "yscale": "log"}
    curves.curves(axes, found["ratios"], **labels)
    axes.axhspan(10**-3.5, 10**-2.5, color="#888888", alpha=0.3)
    return figure
