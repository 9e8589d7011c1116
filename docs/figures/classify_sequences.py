"""The curve of examples/classify_sequences.py."""

import curves


def draw(found):
    figure, (axes,) = curves.figure_of()
    curves.curves(axes, {"loss": found["curve"]}, xlabel="epoch", ylabel="cross entropy")
    return figure
