"""Norms and losses of programs/exploding.py."""

import curves


def draw(found):
    figure, (left, right) = curves.figure_of(2, 4)
    curves.curves(left, found["norms"], xlabel="step", ylabel="norm of the gradient", yscale="log")
    smooth = {name: curves.smooth(losses, 16) for name, losses in found["losses"].items()}
    curves.curves(right, smooth, xlabel="step", ylabel="loss", ylim=(0, 2))
    curves.one_legend(figure, left)
    return figure
