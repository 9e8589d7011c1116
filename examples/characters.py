"""A character model: truncated backpropagation through a long text, then sampling from it.

python characters.py [STEPS [FILE]]; without a file it learns from Python's argparse to write code.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import pyoptk
from pyoptk.layers import Embedding, Linear, Sequential

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
text = Path(sys.argv[2] if len(sys.argv) > 2 else argparse.__file__).read_text("utf-8")
letters, numbers = np.unique(list(text), return_inverse=True)

T, B, V = 50, 32, len(letters)
rng = np.random.default_rng(0)
columns = numbers[: len(numbers) // B * B].reshape(B, -1).T  # 32 places in the text, side by side
model = Sequential(
    Embedding(V, 32, rng=rng), pyoptk.LSTM(32, 128, rng=rng), Linear(128, V, rng=rng)
)
optimizer = pyoptk.Adam(model.params, lr=0.005, max_norm=1.0)

state, at, curve = None, 0, []
for step in range(1, steps + 1):
    if at + T >= len(columns):
        state, at = None, 0  # the text begins again
    x, target = columns[at : at + T], columns[at + 1 : at + T + 1]
    # The state goes on from piece to piece of the text; gradients end where a piece begins.
    y, state = model.forward(x, state=state, return_state=True)
    loss, dy = pyoptk.losses.cross_entropy(y, target)
    model.backward(dy, need_dx=False)
    optimizer.step(model.grads)
    curve.append(loss)
    at += T
    if step % 100 == 0:
        print(f"step {step}: {np.mean(curve[-100:]) / np.log(2):.2f} bits a character")

# One character at a time, each drawn from what the model expects after those before it.
written, state = list(np.searchsorted(letters, list("def "))), None
for k in range(400):
    y, state = model.step(np.array(written[k : k + 1]), state)
    if k + 1 == len(written):
        p = np.exp((y[0] - y.max()).astype(np.float64) / 0.7)  # below 1: less bold
        written.append(rng.choice(V, p=p / p.sum()))
print("".join(letters[written]))
