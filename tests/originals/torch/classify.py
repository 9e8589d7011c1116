"""A dense classifier of three spirals, with curves of training and validation."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 1500)
radius = rng.uniform(0.1, 1, 1500)
angle = 4 * radius + 2 * np.pi / 3 * labels + rng.normal(0, 0.15, 1500)
x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
x, labels = torch.tensor(x), torch.tensor(labels)

model = nn.Sequential(
    nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.1),
    nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3),
)  # fmt: skip
cross_entropy, best = nn.CrossEntropyLoss(), None
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
curve, validation = [], []
for epoch in range(30):
    model.train()
    total = 0.0
    for rows in torch.randperm(1200).split(32):
        loss = cross_entropy(model(x[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    model.eval()
    with torch.no_grad():
        y = model(x[1200:])
    curve.append(total / 1200)
    validation.append(cross_entropy(y, labels[1200:]).item())
    accuracy = (y.argmax(1) == labels[1200:]).float().mean()
    print(f"epoch {epoch}: {curve[-1]:.4f}, {validation[-1]:.4f}, {accuracy:.1%}")
    if validation[-1] == min(validation):
        best = copy.deepcopy(model.state_dict())
    elif epoch - np.argmin(validation) >= 10:
        break
model.load_state_dict(best)
plt.plot(curve, label="training")
plt.plot(validation, label="validation")
plt.legend()
plt.savefig("classify.png")
