"""A classifier on several ranks: mpiexec -n 4 python -m mpi4py several_machines.py

Run it with another number of ranks, or stop and resume it with one: the weights are the same.
"""

import os
import sys

import numpy as np
from mpi4py import MPI

import pyoptk
from pyoptk.layers import Linear, Sequential
from pyoptk.mpi import Sharded, save

comm = MPI.COMM_WORLD
path = sys.argv[1] if len(sys.argv) > 1 else "several_machines.npz"
rng = np.random.default_rng(0)  # the same data and first weights on every rank
x = rng.normal(size=(4096, 20)).astype(np.float32)
labels = (x[:, 0] * x[:, 1] > 0).astype(np.float32)[:, None]
model = Sequential(Linear(20, 64, "relu", rng=rng), Linear(64, 1, rng=rng))
opt = Sharded(pyoptk.AdamW, model.params, comm, micro=8, lr=1e-2, max_norm=1.0)
run = {"epoch": 0}
if os.path.exists(path):
    pyoptk.load(path, model=model, opt=opt, run=run, rng=rng)
while run["epoch"] < 20:
    for batch in np.array_split(rng.permutation(4096), 16):
        for part in opt.mine:  # this rank's share of the 8 micro-batches
            rows = np.array_split(batch, 8)[part]
            _, dy = pyoptk.losses.bce_with_logits(model.forward(x[rows]), labels[rows])
            model.backward(dy, need_dx=False)
            opt.add(model.grads)
        opt.step()
    run["epoch"] += 1
    save(path, model=model, opt=opt, run=run, rng=rng)
if comm.rank == 0:
    right = ((model.predict(x) > 0) == labels).mean()
    first = model.flat_params[0]
    print(f"{comm.size} ranks, {right:.1%} right, first weight {first!r}")
