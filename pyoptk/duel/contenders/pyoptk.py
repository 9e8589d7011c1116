"""pyoptk's work: the optimizers and layers as users call them, on arrays that NumPy allocated.

bench/compare.py lets older commits do it, too: nothing but the public interface is used.
"""

import runpy
from functools import partial
from pathlib import Path

import numpy as np

PACKAGES = ("pyoptk",)
LR = 1e-3


def step(params, grads, *, optimizer, threads, **settings):
    """One step over a list of parameters, clipping and all the rest in the same call."""
    pyoptk = start(threads)
    opt = attribute(pyoptk, optimizer)(params, lr=LR, **settings)
    averages = opt.ema[:1] if "ema_decay" in settings else []
    return partial(opt.step, grads), lambda: [*params[:1], *averages]


def start(threads):
    import pyoptk

    pyoptk.set_num_threads(threads)
    return pyoptk


def attribute(module, name):
    """A class or function of pyoptk; an older commit may not have it."""
    if not hasattr(module, name):
        raise NotImplementedError
    return getattr(module, name)


def layer(x, dy, weights, lengths=None, *, cell, threads, part="", layers=1, directions=1):
    """Forward and backward with the gradient of the input."""
    made = attribute(start(threads), cell)(
        x.shape[2],
        dy.shape[2] // directions,
        num_layers=layers,
        bidirectional=directions == 2,
        dtype=x.dtype,
    )
    for array, value in zip(made.params.values(), weights, strict=True):
        array[...] = value
    if part == "step":
        return partial(made.step, x[0], made.step(x[0])[1]), list
    y = dx = None

    def forward():
        nonlocal y
        y = made.forward(x, lengths=lengths)[0]

    def backward():
        nonlocal dx
        dx = made.backward(dy)[0]

    def both():
        forward()
        backward()

    if part == "forward":
        return forward, lambda: [y]
    work, more = (backward, {"before": forward}) if part else (both, {})
    return work, lambda: [dx, *made.grads.values()], more


def forecaster(windows, targets, weights, *, threads):
    """The training step of `pyoptk.demo.forecaster`, without its clipping."""
    pyoptk = start(threads)
    from pyoptk.demo.forecaster import Forecaster

    model = Forecaster(np.random.default_rng(0))
    flat = [array for layer in weights for array in layer]
    for param, value in zip(model.params.values(), flat, strict=True):
        param[...] = value
    model.optimizer = pyoptk.Adam(model.params, lr=LR)
    return partial(model.step, windows, targets), lambda: [model.forward(windows)]


def mlp(x, labels, weights, *, threads):
    """The NumPy training loop with pyoptk's step dropped in: one line differs."""
    train_mlp = runpy.run_path(str(Path(__file__).with_name("numpy.py")))["train_mlp"]
    params = [array for layer in weights for array in layer]
    return train_mlp(x, labels, params, start(threads).Adam(params, lr=LR).step)
