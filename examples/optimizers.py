"""Optimizers compared: the same model, the same data, the same first weights."""

import copy

import numpy as np

import pyoptk
from pyoptk.layers import Linear, Sequential

rng = np.random.default_rng(0)
x = rng.standard_normal((1000, 8)).astype(np.float32)
y = np.sin(x[:, :1] * x[:, 1:2]) + 0.5 * x[:, 2:3]
first = Sequential(Linear(8, 32, "tanh", rng=rng), Linear(32, 1, rng=rng))

curves = {}
for optimizer, settings in {
    pyoptk.SGD: {"lr": 0.05},
    pyoptk.AdaGrad: {"lr": 0.05},
    pyoptk.RMSprop: {"lr": 0.003},
    pyoptk.Adam: {"lr": 0.01},
    pyoptk.Lion: {"lr": 0.001},
}.items():
    model = copy.deepcopy(first)
    history = pyoptk.fit(
        model, pyoptk.losses.mse, optimizer(model.params, **settings), x, y,
        epochs=40, rng=np.random.default_rng(1), progress=False,
    )  # fmt: skip
    curves[optimizer.__name__] = history["loss"]
print(f"{'epoch':<8} {'1':>8} {'10':>8} {'20':>8} {'40':>8}")
for name, losses in curves.items():
    print(f"{name:<8}", *(f"{losses[epoch - 1]:8.4f}" for epoch in (1, 10, 20, 40)))
