"""A learning rate for Adam, found by a range test."""

import copy

import numpy as np

import pyoptk
from pyoptk.layers import Linear, Sequential

rng = np.random.default_rng(0)
x = rng.standard_normal((2000, 8)).astype(np.float32)
y = np.sin(x[:, :1] * x[:, 1:2]) + 0.5 * x[:, 2:3]
first = Sequential(
    Linear(8, 64, "tanh", rng=rng), Linear(64, 64, "tanh", rng=rng), Linear(64, 1, rng=rng)
)

optimizer = pyoptk.Adam(first.params)
found = pyoptk.lr_range_test(first, pyoptk.losses.mse, optimizer, x, y, rng=rng)
print(found)

curves = {}
for times in (0.1, 1, 30):
    model = copy.deepcopy(first)
    lr = times * found.suggestion
    history = pyoptk.fit(
        model, pyoptk.losses.mse, pyoptk.Adam(model.params, lr=lr), x, y,
        epochs=15, rng=np.random.default_rng(1),
    )  # fmt: skip
    curves[f"lr={lr:.2g}"] = history["loss"]
    print(f"lr={lr:.2g}: loss {history['loss'][-1]:.4f}")
