"""A stacked LSTM learns to continue a noisy sine, in ten epochs."""

import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)
series = np.sin(np.arange(1100) / 8) + rng.normal(0, 0.05, 1100)
windows = torch.tensor(np.lib.stride_tricks.sliding_window_view(series.astype(np.float32), 31))
x, y = windows[:, :30, None], windows[:, 30:]  # 30 steps, and the one after them
kept = len(x) - round(0.2 * len(x))


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


model, mse = Forecaster(), nn.MSELoss()
optimizer, curve = torch.optim.Adam(model.parameters(), lr=0.003), []
for epoch in range(10):
    total = 0.0
    for rows in torch.randperm(kept).split(32):
        loss = mse(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    curve.append(total / kept)
    with torch.no_grad():
        print(f"epoch {epoch}: {curve[-1]:.4f}, {mse(model(x[kept:]), y[kept:]):.4f}")
with torch.no_grad():
    print("next value:", model(windows[-1:, 1:, None]).item())
