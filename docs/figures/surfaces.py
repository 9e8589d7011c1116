"""The paths of programs/surfaces.py on the contours of its functions."""

import curves
import numpy as np

LIMITS = {"valley": (-2, 1, -1.2, 1.2), "rosenbrock": (-1.5, 0.9, -0.4, 1.8)}
LIMITS["saddle"] = (-1.7, 1.2, -2, 2)


def draw(found):
    figure, panels = curves.figure_of(3, 3.6)
    for axes, surface in zip(panels, found["SURFACES"], strict=True):
        name = surface.__name__
        left, right, low, high = LIMITS[name]
        x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(low, high, 200))
        z = surface((x, y))[0]
        levels = z.min() + (z.max() - z.min()) * np.linspace(0.01, 1, 15) ** 2
        axes.contour(x, y, z, levels, colors="#888888", linewidths=0.6)
        for color, rule in zip(curves.COLORS, found["OPTIMIZERS"], strict=False):
            path = found["paths"][name, rule]
            axes.plot(*path.T, ".-", color=color, ms=2, lw=1, label=rule)
        axes.set(title=name, xlim=(left, right), ylim=(low, high))
        axes.grid(visible=False)
    curves.one_legend(figure, panels[0])
    return figure
