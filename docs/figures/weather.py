"""The errors that examples/weather.py prints."""

import curves
import numpy as np


def draw(found):
    figure, (axes,) = curves.figure_of()
    at, names = np.arange(3), list(found["frame"].columns)
    axes.bar(at - 0.2, found["ours"], 0.4, color=curves.SKY, label="model")
    axes.bar(at + 0.2, found["theirs"], 0.4, color=curves.ORANGE, label="as a day before")
    axes.set(ylabel="mean error, 12 hours ahead")
    axes.set_xticks(at, names)
    axes.legend()
    return figure
