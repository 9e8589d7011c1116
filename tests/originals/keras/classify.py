"""A dense classifier of three spirals, with curves of training and validation."""

import keras
import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 1500)
radius = rng.uniform(0.1, 1, 1500)
angle = 4 * radius + 2 * np.pi / 3 * labels + rng.normal(0, 0.15, 1500)
x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)

model = keras.Sequential([
    keras.Input((2,)),
    keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.1),
    keras.layers.Dense(64, "relu"), keras.layers.Dense(3),
])  # fmt: skip
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])
stop = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
history = model.fit(
    x, labels, epochs=30, batch_size=32, validation_split=0.2, callbacks=[stop]
).history
curve = history["loss"]
model.summary()
plt.plot(curve, label="training")
plt.plot(history["val_loss"], label="validation")
plt.legend()
plt.savefig("classify.png")
