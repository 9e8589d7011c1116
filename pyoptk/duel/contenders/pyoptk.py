"""pyoptk's work: the optimizers and layers as users call them, on arrays that NumPy allocated.

bench/compare.py lets older commits do it, too: nothing but the public interface is used.
"""

import runpy
from functools import partial
from pathlib import Path

import numpy as np

import pyoptk
import pyoptk.reference

PACKAGES = ("pyoptk",)
LR = 1e-3
start = pyoptk.set_num_threads


def known(name):
    """A class of pyoptk, which an older commit may not have."""
    if not hasattr(pyoptk, name):
        raise NotImplementedError
    return getattr(pyoptk, name)


def filled(model, weights):
    for param, value in zip(model.params.values(), weights, strict=True):
        param[...] = value
    return model


def step(params, grads, *, optimizer, **settings):
    """One step over a list of parameters, clipping and all the rest in the same call."""
    if "master" in settings:  # everything is bfloat16
        params, grads = ([pyoptk.reference.round_bfloat16(x) for x in xs] for xs in (params, grads))
        settings["dtype"] = "bfloat16"
    opt = known(optimizer)(params, lr=LR, **settings)
    averages = opt.ema[:1] if "ema_decay" in settings else []
    return partial(opt.step, grads), lambda _: [*params[:1], *averages]


def made(x, dy, weights, cell, layers=1, directions=1, **form):
    H = weights[-1].shape[1] if "proj_size" in form else dy.shape[2] // directions
    sizes = x.shape[2], H, layers
    layer = known(cell)(*sizes, bidirectional=directions == 2, dtype=x.dtype, **form)
    return filled(layer, weights)


def layer(x, dy, weights, lengths=None, **how):
    lstm = made(x, dy, weights, **how)
    forward = partial(lstm.forward, x, lengths=lengths)
    return (forward, partial(lstm.backward, dy)), lambda y: [y[0], *lstm.grads.values()]


def stream(x, dy, weights, **how):
    lstm = made(x, dy, weights, **how)
    return partial(lstm.step, x[0], lstm.step(x[0])[1])


def scan(a, b, dh):
    known("linear_scan")
    h, da, db = (np.empty_like(a) for _ in range(3))
    forward = partial(pyoptk.linear_scan, a, b, out=h)
    return (forward, partial(pyoptk.linear_scan_backward, dh, a, h, out=(da, db))), lambda _: [
        h,
        da,
        db,
    ]


def forecaster(windows, targets, weights):
    """The training step of `pyoptk.demo.forecaster`, without its clipping."""
    layers, mse = known("layers"), known("losses").mse
    parts = pyoptk.LSTM(1, 64), pyoptk.LSTM(64, 32), layers.Last(), layers.Linear(32, 1)
    model, targets = filled(layers.Sequential(*parts), weights), targets[:, None]
    opt = pyoptk.Adam(model.params, lr=LR)

    def work():
        _, dy = mse(model.forward(windows), targets)
        model.backward(dy, need_dx=False)
        opt.step(model.grads)

    return work, lambda _: [model.predict(windows)]


def mlp(x, labels, weights):
    """The NumPy training loop with pyoptk's step dropped in: one line differs."""
    train_mlp = runpy.run_path(str(Path(__file__).with_name("numpy.py")))["train_mlp"]
    return train_mlp(x, labels, weights, pyoptk.Adam(weights, lr=LR).step)
