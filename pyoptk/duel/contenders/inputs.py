"""The inputs of the tasks, the same for every library: a function of sizes for each task."""

from itertools import pairwise

import numpy as np


def step(count, n, dtype="float32"):
    """`count` parameters of n elements, with gradients."""
    base = np.random.default_rng(0).standard_normal(min(n, 1 << 20)).astype(dtype)
    params = [np.resize(base, n) for _ in range(count)]
    return {"params": params, "grads": [p[::-1].copy() for p in params]}


def layer(
    T, B, I, H, *, gates=4, dtype="float32", layers=1, directions=1, packed=False, R=0, normed=False
):  # fmt: skip
    """A batch of sequences, the gradient of the output, and PyTorch's weights in its order.

    With `packed` also their lengths, from T to T/2, the longest first. R: features of a projection.
    `normed`: then gains of both products and, of an LSTM, gain and bias of c.
    """
    rng = np.random.default_rng(0)

    def uniform(*shape):
        return rng.uniform(-1, 1, shape).astype(dtype)

    rows, weights, out = gates * H, [], R or H
    for k in range(layers * directions):
        below = I if k < directions else directions * out
        shapes = [(rows, below), (rows, out), (rows,), (rows,), *([(R, H)] if R else [])]
        shapes += normed * ([(rows,)] * 2 + [(H,)] * 2 * (gates == 4))
        weights += [uniform(*shape) / np.sqrt(H).astype(dtype) for shape in shapes]
    lengths = {"lengths": np.linspace(T, T // 2, B).astype(int)} if packed else {}
    x, dy = uniform(T, B, I), uniform(T, B, directions * out)
    return {"x": x, "dy": dy, "weights": weights, **lengths}


stream = layer


def scan(T, B, D, dtype="float32"):
    """A linear recurrence of positive numbers, which a logarithm can take, and a gradient."""
    rng = np.random.default_rng(0)
    a, b, dh = (rng.uniform(low, 1, (T, B, D)).astype(dtype) for low in (0.9, 0.1, -1))
    return {"a": a, "b": b, "dh": dh * dh.dtype.type(0.01)}  # the sums of gradients are below 1


def forecaster(B, T):
    """T steps of a noisy wave, the next value, and the weights of two LSTMs and a dense layer."""
    rng = np.random.default_rng(0)
    series = np.sin(np.arange(B + T) * 0.05) + 0.1 * rng.standard_normal(B + T)
    windows = np.stack([series[t : t + B] for t in range(T)])[:, :, None].astype("f4")
    lower, upper = (layer(1, 1, I, H)["weights"] for I, H in ((1, 64), (64, 32)))
    head = rng.uniform(-0.2, 0.2, (1, 32)).astype("f4"), np.zeros(1, "f4")
    targets = series[T:].astype("f4")
    return {"windows": windows, "targets": targets, "weights": [*lower, *upper, *head]}


def mlp(layers, B):
    """A batch, its labels, and of each layer in turn the weight [outputs, inputs] and the bias."""
    rng = np.random.default_rng(0)
    weights = []
    for a, b in pairwise(layers):
        weights += [rng.normal(0, np.sqrt(2 / a), (b, a)).astype("f4"), np.zeros(b, "f4")]
    x = rng.standard_normal((B, layers[0])).astype("f4")
    return {"x": x, "labels": np.arange(B) % layers[-1], "weights": weights}


classifier, fitted = mlp, forecaster  # where pyoptk has models and `fit`
