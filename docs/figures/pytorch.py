"""Where examples/pytorch.py puts the border between its spirals.

The site is built without PyTorch. Where it is installed, in docs/tutorials, this draws again:
``python ../extension/runner.py ../../examples/pytorch.py``
"""

import curves
import numpy as np


def draw(found):
    torch, x, kind = (found[name] for name in ("torch", "x", "kind"))
    figure, (axes,) = curves.figure_of(height=3.6)
    ticks = np.linspace(-1.25, 1.25, 200, dtype=np.float32)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    with torch.no_grad():
        scores = found["model"](torch.from_numpy(grid)).numpy()
    axes.contourf(
        ticks, ticks, scores[..., 1] - scores[..., 0], [-1e9, 0, 1e9],
        colors=[curves.SKY, curves.ORANGE], alpha=0.3,
    )  # fmt: skip
    for k, color, marker in ((0, curves.SKY, "o"), (1, curves.ORANGE, "s")):
        axes.scatter(*x[kind == k].numpy().T, 8, color=color, marker=marker)
    axes.set_aspect("equal")
    return figure
