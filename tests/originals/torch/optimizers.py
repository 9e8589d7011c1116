"""Optimizers compared: the same model, the same data, the same first weights."""

import copy

import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)
x = rng.standard_normal((1000, 8)).astype(np.float32)
y = np.sin(x[:, :1] * x[:, 1:2]) + 0.5 * x[:, 2:3]
x, y = torch.tensor(x), torch.tensor(y)
first = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

curves, mse = {}, nn.MSELoss()
for optimizer, settings in {
    torch.optim.SGD: {"lr": 0.05},
    torch.optim.Adagrad: {"lr": 0.05},
    torch.optim.RMSprop: {"lr": 0.003},
    torch.optim.Adam: {"lr": 0.01},
}.items():
    model = copy.deepcopy(first)
    rule, curve = optimizer(model.parameters(), **settings), []
    torch.manual_seed(1)
    for _ in range(40):
        total = 0.0
        for rows in torch.randperm(1000).split(32):
            loss = mse(model(x[rows]), y[rows])
            rule.zero_grad()
            loss.backward()
            rule.step()
            total += loss.item() * len(rows)
        curve.append(total / 1000)
    curves[optimizer.__name__] = curve
print(f"{'epoch':<8} {'1':>8} {'10':>8} {'20':>8} {'40':>8}")
for name, losses in curves.items():
    print(f"{name:<8}", *(f"{losses[epoch - 1]:8.4f}" for epoch in (1, 10, 20, 40)))
