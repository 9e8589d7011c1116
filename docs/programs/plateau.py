"""A loss that stays where it is: features that were not scaled, and a learning rate that falls."""

import numpy as np

import pyoptk
from pyoptk.layers import Linear, Sequential

rng = np.random.default_rng(0)
raw = rng.normal(20, 5, (1000, 4)).astype(np.float32) * np.float32([1, 1e-3, 1, 1e3])
scaled = (raw - raw.mean(0)) / raw.std(0)
y = np.sin(scaled[:, :1] + scaled[:, 1:2]) + 0.1 * rng.normal(size=(1000, 1)).astype(np.float32)

curves = {}
for name, x, falls in (
    ("raw", raw, False),
    ("scaled", scaled, False),
    ("scaled, lr falls", scaled, True),
):
    first = np.random.default_rng(1)
    model = Sequential(
        Linear(4, 64, "tanh", rng=first),
        Linear(64, 64, "tanh", rng=first),
        Linear(64, 1, rng=first),
    )
    optimizer = pyoptk.Adam(model.params, lr=0.02)
    plateau = pyoptk.schedules.ReduceOnPlateau(0.02, factor=0.5, patience=4)
    if falls:
        optimizer.lr = plateau
    curves[name] = []
    for epoch in pyoptk.training(model, pyoptk.losses.mse, optimizer, x, y, epochs=60, rng=first):
        curves[name].append(epoch["loss"])
        plateau.update(epoch["loss"])
    print(f"{name}: loss {curves[name][-1]:.4f}; noise 0.01")
