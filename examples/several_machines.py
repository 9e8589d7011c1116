"""A classifier of one's own on several ranks: mpiexec -n 4 python -m mpi4py several_machines.py

Run it with another number of ranks, or stop and resume it with one: the weights are the same.
"""

import os
import sys

import numpy as np
from mpi4py import MPI

import pyoptk
from pyoptk.mpi import Sharded, save

comm = MPI.COMM_WORLD
path = sys.argv[1] if len(sys.argv) > 1 else "several_machines.npz"
rng = np.random.default_rng(0)  # the same data and first weights on every rank
x = rng.normal(size=(4096, 20)).astype(np.float32)
labels = (x[:, 0] * x[:, 1] > 0).astype(np.float32)[:, None]
w = {"in": rng.normal(0, 0.3, (20, 64)).astype(np.float32), "out": np.zeros((64, 1), np.float32)}
opt = Sharded(pyoptk.AdamW, w, comm, micro=8, lr=1e-2, max_norm=1.0)
run = {"epoch": 0}
if os.path.exists(path):
    pyoptk.load(path, w=w, opt=opt, run=run, rng=rng)
while run["epoch"] < 20:
    for batch in np.array_split(rng.permutation(4096), 16):
        for part in opt.mine:  # this rank's share of the 8 micro-batches
            rows = np.array_split(batch, 8)[part]
            hidden = np.maximum(x[rows] @ w["in"], 0)
            error = 1 / (1 + np.exp(-(hidden @ w["out"]))) - labels[rows]
            back = (error @ w["out"].T) * (hidden > 0)
            opt.add({"out": hidden.T @ error / len(rows), "in": x[rows].T @ back / len(rows)})
        opt.step()
    run["epoch"] += 1
    save(path, w=w, opt=opt, run=run, rng=rng)
if comm.rank == 0:
    right = ((np.maximum(x @ w["in"], 0) @ w["out"] > 0) == labels).mean()
    print(f"{comm.size} ranks, {right:.1%} right, first weight {w['in'][0, 0]!r}")
