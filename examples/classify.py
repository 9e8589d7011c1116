"""A dense classifier of three spirals, with curves of training and validation."""

import numpy as np

import pyoptk
from pyoptk.layers import Dropout, Linear, Sequential

rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 1500)
radius = rng.uniform(0.1, 1, 1500)
angle = 4 * radius + 2 * np.pi / 3 * labels + rng.normal(0, 0.15, 1500)
x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)

model = Sequential(
    Linear(2, 64, "relu", rng=rng), Dropout(0.1, rng=rng),
    Linear(64, 64, "relu", rng=rng), Linear(64, 3, rng=rng),
)  # fmt: skip
history = pyoptk.fit(
    model, pyoptk.losses.cross_entropy, pyoptk.Adam(model.params, lr=0.01), x, labels,
    epochs=30, validation=0.2, metrics=["accuracy"], patience=10, rng=rng,
)  # fmt: skip
print(model, history, sep="\n")
history.plot("classify.png")
