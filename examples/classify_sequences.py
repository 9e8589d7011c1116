"""An LSTM says in which half of a sequence a mark stands: the mini-batch loop in your own hands."""

import numpy as np

import pyoptk
from pyoptk.layers import Last, Linear, Sequential

rng = np.random.default_rng(0)
x = rng.normal(0, 0.3, (20, 640, 2)).astype(np.float32)  # [T, B, I]
places = rng.integers(0, 20, 640)
x[places, np.arange(640), 0] += 3
labels = (places >= 10).astype(np.int64)

model = Sequential(pyoptk.LSTM(2, 16, rng=rng), Last(), Linear(16, 2, rng=rng))
optimizer, curve = pyoptk.Adam(model.params, lr=0.01), []
for epoch in range(1, 9):
    losses = []
    for batch in np.array_split(rng.permutation(512), 16):
        y = model.forward(x[:, batch])
        loss, dy = pyoptk.losses.cross_entropy(y, labels[batch])
        model.backward(dy, need_dx=False)
        optimizer.step(model.grads)
        losses.append(loss)
    curve.append(np.mean(losses))
    accuracy = (model.predict(x[:, 512:]).argmax(1) == labels[512:]).mean()
    print(f"epoch {epoch}: loss {curve[-1]:.3f}, of the other 128 right: {accuracy:.0%}")
