"""The curves of programs/overfitting.py."""

import curves


def draw(found):
    figure, panels = curves.figure_of(len(found["curves"]), 3.4)
    for axes, (name, (loss, other)) in zip(panels, found["curves"].items(), strict=True):
        curves.curves(axes, {"training": loss, "validation": other}, xlabel="epoch", title=name)
        axes.set(ylim=(0, 3.4))
    panels[0].set(ylabel="loss")
    curves.one_legend(figure, panels[0])
    return figure
