"""A model that learns its few examples by heart, and three cures."""

import numpy as np

import pyoptk
from pyoptk.layers import Dropout, Linear, Sequential

rng = np.random.default_rng(0)
x = rng.normal(size=(1000, 20)).astype(np.float32)
y = (x[:, :1] + 0.5 * x[:, 1:2] + 1.0 * rng.normal(size=(1000, 1))).astype(np.float32)
train, other = (x[:100], y[:100]), (x[100:], y[100:])

curves, best = {}, {}
for name, p, decay in (("no cure", 0.0, 0.0), ("dropout", 0.5, 0.0), ("weight decay", 0.0, 3.0)):
    first = np.random.default_rng(1)
    model = Sequential(
        Linear(20, 128, "relu", rng=first), Dropout(p, rng=first),
        Linear(128, 128, "relu", rng=first), Dropout(p, rng=first), Linear(128, 1, rng=first),
    )  # fmt: skip
    optimizer = pyoptk.AdamW(model.params, lr=0.003, weight_decay=decay, no_decay=["*bias"])
    history = pyoptk.fit(
        model, pyoptk.losses.mse, optimizer, *train, epochs=60, validation=other, rng=first
    )
    curves[name] = history["loss"], history["val_loss"]
    print(f"{name}: training {history['loss'][-1]:.3f}, validation {history['val_loss'][-1]:.3f}, "
          f"best {min(history['val_loss']):.3f} in epoch {history.best_epoch}")  # fmt: skip
