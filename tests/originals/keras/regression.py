"""Linear regression: the line that the points were made of is found again."""

import keras
import numpy as np

rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (500, 1)).astype(np.float32)
y = (3 * x + 2 + rng.normal(0, 0.1, x.shape)).astype(np.float32)

model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
curve = model.fit(x, y, epochs=20, batch_size=32).history["loss"]
slope, intercept = (array.item() for array in model.get_weights())
print(f"y = {slope:.2f} x + {intercept:.2f}, loss {curve[-1]:.4f}; noise 0.01")
