"""Linear regression: the line that the points were made of is found again."""

import numpy as np

import pyoptk
from pyoptk.layers import Linear

rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (500, 1)).astype(np.float32)
y = (3 * x + 2 + rng.normal(0, 0.1, x.shape)).astype(np.float32)

model = Linear(1, 1, rng=rng)
optimizer = pyoptk.SGD(model.params, lr=0.1)
history = pyoptk.fit(model, pyoptk.losses.mse, optimizer, x, y, epochs=20, rng=rng)
slope, intercept = (array.item() for array in model.params.values())
print(f"y = {slope:.2f} x + {intercept:.2f}, loss {history['loss'][-1]:.4f}; noise 0.01")
