"""A stacked LSTM learns to continue a noisy sine, in ten epochs."""

import numpy as np

import pyoptk
from pyoptk.layers import Last, Linear, Sequential

rng = np.random.default_rng(0)
series = np.sin(np.arange(1100) / 8) + rng.normal(0, 0.05, 1100)
windows = np.lib.stride_tricks.sliding_window_view(series.astype(np.float32), 31)
x, y = windows[:, :30, None], windows[:, 30:]  # 30 steps, and the one after them

model = Sequential(
    pyoptk.LSTM(1, 32, num_layers=2, batch_first=True, rng=rng),
    Last(batch_first=True),
    Linear(32, 1, rng=rng),
)
optimizer = pyoptk.Adam(model.params, lr=0.003)
history = pyoptk.fit(model, pyoptk.losses.mse, optimizer, x, y, epochs=10, validation=0.2, rng=rng)
print(model, history, sep="\n")
print("next value:", model.predict(windows[-1:, 1:, None])[0, 0])
