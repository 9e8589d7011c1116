"""Linear regression: the line that the points were made of is found again."""

import numpy as np
import torch

rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (500, 1)).astype(np.float32)
y = (3 * x + 2 + rng.normal(0, 0.1, x.shape)).astype(np.float32)
x, y = torch.tensor(x), torch.tensor(y)

model, mse = torch.nn.Linear(1, 1), torch.nn.MSELoss()
optimizer, curve = torch.optim.SGD(model.parameters(), lr=0.1), []
for _ in range(20):
    total = 0.0
    for rows in torch.randperm(500).split(32):
        loss = mse(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    curve.append(total / 500)
slope, intercept = (parameter.item() for parameter in model.parameters())
print(f"y = {slope:.2f} x + {intercept:.2f}, loss {curve[-1]:.4f}; noise 0.01")
