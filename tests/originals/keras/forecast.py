"""A stacked LSTM learns to continue a noisy sine, in ten epochs."""

import keras
import numpy as np

rng = np.random.default_rng(0)
series = np.sin(np.arange(1100) / 8) + rng.normal(0, 0.05, 1100)
windows = np.lib.stride_tricks.sliding_window_view(series.astype(np.float32), 31)
x, y = windows[:, :30, None], windows[:, 30:]  # 30 steps, and the one after them

model = keras.Sequential([
    keras.Input((30, 1)),
    keras.layers.LSTM(32, return_sequences=True),
    keras.layers.LSTM(32),
    keras.layers.Dense(1),
])  # fmt: skip
model.compile(optimizer=keras.optimizers.Adam(0.003), loss="mse")
curve = model.fit(x, y, epochs=10, batch_size=32, validation_split=0.2).history["loss"]
model.summary()
print("next value:", model.predict(windows[-1:, 1:, None])[0, 0])
