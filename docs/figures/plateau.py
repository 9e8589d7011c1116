"""The curves of programs/plateau.py."""

import curves


def draw(found):
    figure, (axes,) = curves.figure_of()
    curves.curves(axes, found["curves"], xlabel="epoch", ylabel="loss", yscale="log")
    return figure
