"""A loss that becomes infinite: what the exception says, and what could be seen before."""

import numpy as np

import pyoptk
from pyoptk.layers import Linear, Sequential

rng = np.random.default_rng(0)
x = rng.normal(size=(512, 8)).astype(np.float32)
y = 5 * x[:, :1] - 3 * x[:, 1:2]

ratios = {}
for lr in (1.0, 0.01):
    first = np.random.default_rng(1)
    model = Sequential(Linear(8, 64, "relu", rng=first), Linear(64, 1, rng=first))
    optimizer = pyoptk.SGD(model.params, lr=lr)
    optimizer.watch = True
    ratios[f"lr={lr}"] = mine = []

    def loss(output, target, into=mine, opt=optimizer):
        """The loss; and on the way the size of the step before, as a share of the weights."""
        if opt.watched["0.weight"]:
            into.append(opt.watched["0.weight"]["ratio"])
        return pyoptk.losses.mse(output, target)

    try:
        history = pyoptk.fit(model, loss, optimizer, x, y, epochs=5, rng=first, progress=False)
        print(f"lr={lr}: loss {history['loss'][-1]:.3g}")
    except pyoptk.Diverged as error:
        print(f"lr={lr}: {error}")
