"""How much of a gradient comes back through 60 steps, and what is learned then."""

import numpy as np

import pyoptk
from pyoptk.layers import Last, Linear, Sequential

T, B, H = 60, 64, 32


def open_gate(layer, bias):
    """A layer whose forget gate begins nearly open: sigmoid(3) is 0.95."""
    layer.params["bias_ih_l0"][H : 2 * H] = bias  # the second of i, f, g, o
    return layer


CASES = {
    "LSTM": lambda rng: pyoptk.LSTM(3, H, rng=rng),
    "LSTM, forget bias 1": lambda rng: pyoptk.LSTM(3, H, init="keras", rng=rng),
    "LSTM, forget bias 3": lambda rng: open_gate(pyoptk.LSTM(3, H, rng=rng), 3),
    "LSTM, layer_norm": lambda rng: pyoptk.LSTM(3, H, layer_norm=True, rng=rng),
}


def batch(rng):
    """A mark, 1 or -1, in the first step, then noise: which one was it?"""
    marks = rng.integers(0, 2, B)
    x = rng.normal(0, 0.3, (T, B, 3)).astype(np.float32)
    x[0, :, 0] = 2 * marks - 1
    return x, marks


gradients, accuracies = {}, {}
for name, make in CASES.items():
    rng = np.random.default_rng(0)
    model = Sequential(make(rng), Last(), Linear(H, 2, rng=rng))
    optimizer = pyoptk.Adam(model.params, lr=0.005, max_norm=1.0)
    accuracies[name] = []
    for step in range(300):
        x, marks = batch(rng)
        y = model.forward(x)
        _, dy = pyoptk.losses.cross_entropy(y, marks)
        dx = model.backward(dy)  # [T, B, 3], of the inputs
        if step == 0:
            gradients[name] = np.sqrt((dx**2).mean((1, 2)))
        optimizer.step(model.grads)
        accuracies[name].append((y.argmax(1) == marks).mean())
    share = gradients[name][0] / gradients[name][-1]
    right = np.mean(accuracies[name][-50:])
    print(f"{name}: a share of {share:.0e} comes back; at the end {right:.0%} right")
