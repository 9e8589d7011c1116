"""pyoptk's work in the rows of dense layers and whole models, as users write it.

After inputs.py here and pyoptk/duel/contenders/pyoptk.py.
"""

import numpy as np

import pyoptk
from pyoptk.layers import Last, LayerNorm, Linear, Sequential

LR, BATCHES = 1e-3, 16  # in an epoch of `fitted`


def filled(model, weights):
    for param, value in zip(model.params.values(), weights, strict=True):
        param[...] = value
    return model


def both_ways(layer, x, dy):
    grads = [*layer.grads.values()]  # the same arrays after every call

    def work():
        layer.forward(x)
        return [layer.backward(dy), *grads]

    return work, list


def linear(x, w, b, dy, **mode):
    return both_ways(filled(Linear(*w.T.shape, "relu", **mode), (w, b)), x, dy)


def layer_norm(x, gain, bias, dy):
    return both_ways(filled(LayerNorm(len(gain)), (gain, bias)), x, dy)


def loss(x, labels, targets, *, function):
    """With the gradient in the same array again and again, as PyTorch's allocator does it."""
    out = np.empty_like(x)
    return lambda: pyoptk.losses.cross_entropy(x, labels, out=out), list


def classifier(x, labels, weights, **mode):
    """A training step of a model of dense layers."""
    *hidden, last = weights[::2]
    layers = [*(Linear(*w.T.shape, "relu", **mode) for w in hidden), Linear(*last.T.shape, **mode)]
    model = filled(Sequential(*layers), weights)
    step, loss = pyoptk.Adam(model.params, lr=LR).step, pyoptk.losses.cross_entropy

    def work():
        _, dy = loss(model.forward(x), labels)
        model.backward(dy, need_dx=False)
        step(model.grads)

    return work, lambda _: [*model.params.values()]


def fitted(windows, targets, weights):
    """The forecaster by `fit`, an epoch of the same batch again and again."""
    layers = pyoptk.LSTM(1, 64), pyoptk.LSTM(64, 32), Last(), Linear(32, 1)
    model = filled(Sequential(*layers), weights)
    opt, batches = pyoptk.Adam(model.params, lr=LR), [(windows, targets[:, None])] * BATCHES

    def work():
        mse = pyoptk.losses.mse
        pyoptk.fit(model, mse, opt, batches, batch_axis=1, epochs=1, progress=False)

    return work, None, {"times": BATCHES}
