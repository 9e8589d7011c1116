"""The series and the forecasts of examples/forecast.py."""

import numpy as np
from matplotlib.figure import Figure


def draw(found):
    x, y, model = found["x"], found["y"][:, 0], found["model"]
    held_out = np.arange(len(y))[-round(0.2 * len(y)) :]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(y, lw=0.8, color="#888888", label="measured")
    axes.plot(held_out, model.predict(x[held_out])[:, 0], color="#D55E00", label="forecast")
    axes.set(xlim=(700, len(y)), xlabel="window", ylabel="value after it")
    axes.legend(loc="upper left", ncols=2)
    return figure
