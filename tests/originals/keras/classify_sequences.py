"""Which half of a sequence a peak is in."""

import keras
import numpy as np

rng = np.random.default_rng(0)
x = rng.normal(0, 0.3, (20, 640, 2)).astype(np.float32)  # [T, B, I]
places = rng.integers(0, 20, 640)
x[places, np.arange(640), 0] += 3
x, labels = x.swapaxes(0, 1), (places >= 10).astype(np.int64)

model = keras.Sequential([keras.Input((20, 2)), keras.layers.LSTM(16), keras.layers.Dense(2)])
optimizer = keras.optimizers.Adam(0.01)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
curve = model.fit(
    x[:512], labels[:512], epochs=8, batch_size=32, validation_data=(x[512:], labels[512:])
).history["loss"]
