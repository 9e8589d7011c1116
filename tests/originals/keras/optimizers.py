"""Optimizers compared: the same model, the same data, the same first weights."""

import keras
import numpy as np

rng = np.random.default_rng(0)
x = rng.standard_normal((1000, 8)).astype(np.float32)
y = np.sin(x[:, :1] * x[:, 1:2]) + 0.5 * x[:, 2:3]
first = keras.Sequential([
    keras.Input((8,)), keras.layers.Dense(32, "tanh"), keras.layers.Dense(1),
])  # fmt: skip

curves = {}
for optimizer, settings in {
    keras.optimizers.SGD: {"learning_rate": 0.05},
    keras.optimizers.Adagrad: {"learning_rate": 0.05},
    keras.optimizers.RMSprop: {"learning_rate": 0.003},
    keras.optimizers.Adam: {"learning_rate": 0.01},
    keras.optimizers.Lion: {"learning_rate": 0.001},
}.items():
    keras.utils.set_random_seed(1)
    model = keras.models.clone_model(first)
    model.set_weights(first.get_weights())
    model.compile(optimizer=optimizer(**settings), loss="mse")
    history = model.fit(x, y, epochs=40, batch_size=32, verbose=0).history
    curves[optimizer.__name__] = history["loss"]
print(f"{'epoch':<8} {'1':>8} {'10':>8} {'20':>8} {'40':>8}")
for name, losses in curves.items():
    print(f"{name:<8}", *(f"{losses[epoch - 1]:8.4f}" for epoch in (1, 10, 20, 40)))
