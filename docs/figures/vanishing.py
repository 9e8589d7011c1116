"""Gradients over time and accuracies of programs/vanishing.py."""

import curves


def draw(found):
    figure, (left, right) = curves.figure_of(2, 4)
    curves.curves(left, found["gradients"], xlabel="time step", ylabel="gradient", yscale="log")
    smooth = {name: curves.smooth(right, 20) for name, right in found["accuracies"].items()}
    curves.curves(right, smooth, xlabel="step of training", ylabel="share that is right")
    curves.one_legend(figure, left)
    return figure
