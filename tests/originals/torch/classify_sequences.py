"""Which half of a sequence a peak is in."""

import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)
x = rng.normal(0, 0.3, (20, 640, 2)).astype(np.float32)  # [T, B, I]
places = rng.integers(0, 20, 640)
x[places, np.arange(640), 0] += 3
x, labels = torch.tensor(x), torch.tensor((places >= 10).astype(np.int64))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][-1])


model, cross_entropy = Classifier(), nn.CrossEntropyLoss()
optimizer, curve = torch.optim.Adam(model.parameters(), lr=0.01), []
for epoch in range(1, 9):
    losses = []
    for batch in torch.randperm(512).split(32):
        loss = cross_entropy(model(x[:, batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    curve.append(np.mean(losses))
    with torch.no_grad():
        accuracy = (model(x[:, 512:]).argmax(1) == labels[512:]).float().mean()
    print(f"epoch {epoch}: loss {curve[-1]:.3f}, of the other 128 right: {accuracy:.0%}")
