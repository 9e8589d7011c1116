"""The series and the forecasts of examples/forecast.py."""

import curves
import numpy as np


def draw(found):
    x, y, model = found["x"], found["y"][:, 0], found["model"]
    held_out = np.arange(len(y))[-round(0.2 * len(y)) :]
    figure, (axes,) = curves.figure_of()
    axes.plot(y, lw=0.8, color="#888888", label="measured")
    axes.plot(held_out, model.predict(x[held_out])[:, 0], color=curves.ORANGE, label="forecast")
    axes.set(xlim=(700, len(y)), xlabel="window", ylabel="value after it")
    curves.one_legend(figure, axes)
    return figure
