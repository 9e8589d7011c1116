"""A plain RNN whose gradients explode, and two cures."""

import numpy as np

import pyoptk
from pyoptk.layers import Last, Linear, Sequential

rng = np.random.default_rng(0)
x = rng.normal(size=(30, 512, 2)).astype(np.float32)  # [T, B, I]
target = 5 * x[:, :, :1].mean(0)

CASES = {  # how much larger the recurrent weights begin, and the limit of the norm
    "no cure": (2, np.inf),
    "max_norm=1.0": (2, 1.0),
    'max_norm=1.0 and init="keras"': (1, 1.0),
}
norms, losses = {}, {}
for name, (larger, max_norm) in CASES.items():
    first = np.random.default_rng(1)
    model = Sequential(pyoptk.RNN(2, 32, init="keras", rng=first), Last(), Linear(32, 1, rng=first))
    model.params["0.weight_hh_l0"][...] *= larger  # orthogonal if it is 1
    optimizer = pyoptk.SGD(model.params, lr=0.1, max_norm=max_norm)
    norms[name], losses[name] = [], []
    for step in range(300):
        rows = slice(step % 16 * 32, step % 16 * 32 + 32)
        loss, dy = pyoptk.losses.mse(model.forward(x[:, rows]), target[rows])
        model.backward(dy, need_dx=False)
        optimizer.step(model.grads)
        norms[name].append(optimizer.grad_norm)  # before clipping
        losses[name].append(loss)
    print(
        f"{name}: largest norm {np.nanmax(norms[name]):.1e}, loss {np.mean(losses[name][-16:]):.2f}"
    )
