"""The points and the line of examples/regression.py."""

import curves


def draw(found):
    figure, (axes,) = curves.figure_of()
    x, y = found["x"][:, 0], found["y"][:, 0]
    axes.plot(x, y, ".", ms=3, color="#888888", label="points")
    line = [found["slope"] * end + found["intercept"] for end in (-1, 1)]
    axes.plot((-1, 1), line, color=curves.ORANGE, label="found")
    axes.set(xlabel="x", ylabel="y")
    axes.legend()
    return figure
