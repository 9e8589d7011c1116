"""The curve of examples/policy.py."""

import curves


def draw(found):
    figure, (axes,) = curves.figure_of()
    reward = curves.smooth(found["curve"])
    curves.curves(axes, {"reward": reward}, xlabel="round", ylabel="mean reward")
    return figure
