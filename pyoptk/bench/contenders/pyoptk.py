"""pyoptk's work: the optimizers and the LSTM as users call them, on arrays that NumPy allocated."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

PACKAGES = ("pyoptk",)
LR = 1e-3


def step(params: Any, grads: Any, *, optimizer: str, threads: int, **settings: Any) -> Any:
    """One step over a list of parameters, clipping and all the rest in the same call."""
    import pyoptk

    pyoptk.set_num_threads(threads)
    opt = getattr(pyoptk, optimizer)(params, lr=LR, **settings)
    averages = opt.ema[:1] if "ema_decay" in settings else []
    return partial(opt.step, grads), lambda: [*params[:1], *averages]


def lstm(
    x: Any,
    dy: Any,
    weights: Any,
    *,
    threads: int,
    packed: bool = False,
    layers: int = 1,
    directions: int = 1,
) -> Any:
    """Forward and backward with the gradient of the input."""
    import pyoptk
    from pyoptk.bench.contenders.roof import lengths

    pyoptk.set_num_threads(threads)
    layer = pyoptk.LSTM(
        x.shape[2],
        dy.shape[2] // directions,
        num_layers=layers,
        bidirectional=directions == 2,
        dtype=x.dtype,
    )
    for array, value in zip(layer.params.values(), weights, strict=True):
        array[...] = value
    ends = lengths(len(x), x.shape[1]) if packed else None
    dx = None

    def work() -> None:
        nonlocal dx
        layer.forward(x, lengths=ends)
        dx, _ = layer.backward(dy)

    return work, lambda: [dx, *layer.grads.values()]


def forecaster(windows: Any, targets: Any, weights: Any, *, threads: int) -> Any:
    """The training step of `pyoptk.demo.forecaster`, without its clipping."""
    import pyoptk
    from pyoptk.demo.forecaster import Forecaster

    pyoptk.set_num_threads(threads)
    model = Forecaster(np.random.default_rng(0))
    flat = [array for layer in weights for array in layer]
    for param, value in zip(model.params.values(), flat, strict=True):
        param[...] = value
    model.optimizer = pyoptk.Adam(model.params, lr=LR)
    return partial(model.step, windows, targets), lambda: [model.forward(windows)]


def mlp(x: Any, labels: Any, weights: Any, *, threads: int) -> Any:
    """The NumPy training loop with pyoptk's step dropped in: one line differs."""
    import pyoptk
    from pyoptk.bench.contenders.numpy import train_mlp

    pyoptk.set_num_threads(threads)
    params = [array for layer in weights for array in layer]
    return train_mlp(x, labels, params, pyoptk.Adam(params, lr=LR).step)
