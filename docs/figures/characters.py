"""The curve of examples/characters.py."""

import curves
import numpy as np


def draw(found):
    figure, (axes,) = curves.figure_of()
    bits = curves.smooth([loss / np.log(2) for loss in found["curve"]], 20)
    curves.curves(axes, {"bits": bits}, xlabel="step", ylabel="bits a character")
    return figure
