"""Low-memory training: the same model with the optimizer's states in 32, 16 and 8 bits.

The last run also lets the LSTM keep less between forward and backward: `save="minimal"`.
"""

import sys
import tracemalloc

import numpy as np

import pyoptk
from pyoptk.layers import Last, Linear, Sequential

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 700
T, B, H = 40, 32, 64
RUNS = {  # settings of the optimizer, settings of the layer
    "float32": ({}, {}),
    "bfloat16": ({"state_dtype": "bfloat16"}, {}),
    "8 bits": ({"state_dtype": "8bit"}, {}),
    "8 bits, save minimal": ({"state_dtype": "8bit"}, {"save": "minimal"}),
}


def batch(rng):
    """Numbers, two of which are marked: the sum of these two is asked for at the end."""
    x = rng.random((T, B, 2), np.float32)
    x[:, :, 1] = 0
    x[rng.integers(0, T // 2, B), np.arange(B), 1] = 1
    x[rng.integers(T // 2, T, B), np.arange(B), 1] = 1
    return x, x.prod(axis=2).sum(axis=0)[:, None]


curves, states, kept = {}, {}, {}
for name, (of_optimizer, of_layer) in RUNS.items():
    rng = np.random.default_rng(0)  # the same weights and batches in every run
    lstm = pyoptk.LSTM(2, H, init="keras", rng=rng, **of_layer)
    model = Sequential(lstm, Last(), Linear(H, 1, rng=rng))
    optimizer = pyoptk.Adam(model.params, lr=0.005, max_norm=1.0, **of_optimizer)
    tracemalloc.start()
    model.forward(np.zeros((T, B, 2), np.float32))
    kept[name] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    losses = []
    for _ in range(steps):
        x, target = batch(rng)
        loss, dy = pyoptk.losses.mse(model.forward(x), target)
        model.backward(dy, need_dx=False)
        optimizer.step(model.grads)
        losses.append(float(loss))
    curves[name] = losses
    arrays = [a for of_one in optimizer.state.values() for a in of_one.values()]
    states[name] = sum(a.nbytes for a in arrays if a is not None)

weights = sum(p.nbytes for p in model.params.values())
print(f"weights {weights / 2**10:.0f} KiB, gradients as much")
print(f"{'':22} states   kept for backward   loss at the end")
for name, losses in curves.items():
    sizes = f"{states[name] / 2**10:4.0f} KiB {kept[name] / 2**10:12.0f} KiB"
    print(f"{name:22} {sizes} {np.mean(losses[-50:]):17.5f}")
