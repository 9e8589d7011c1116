"""One LSTM layer: forward, backward with the gradient of the input, and a step of a stream."""

import functools

import numpy as np

import pyoptk
from pyoptk import _products, reference

# T, B, I, H
SIZES = [
    (10, 1, 64, 64), (10, 32, 64, 64), (50, 32, 64, 128), (100, 32, 128, 256), (30, 128, 256, 256),
    (50, 16, 256, 1024),
]  # fmt: skip
# How many products with each weight at every step; lstm_step is one step, whatever T is.
KERNELS = {"lstm_forward": 1, "lstm_backward": 2, "lstm_step": 1}
NOT_IN_TORCH = ()


def data(dtype, size):
    T, B, I, H = size
    rng = np.random.default_rng(0)
    lstm = pyoptk.LSTM(I, H, dtype=dtype, rng=rng)
    return lstm, *(rng.standard_normal((T, B, n)).astype(dtype) for n in (I, H))


def describe(size):
    return "T {} B {} I {} H {}".format(*size)


def work(kernel, dtype, size):
    T, B, I, H = size
    return {"flop": KERNELS[kernel] * 8 * (T if kernel != "lstm_step" else 1) * B * H * (I + H)}


def ours(kernel, dtype, size, threads):
    lstm, x, dy = data(dtype, size)
    if kernel == "lstm_forward":
        return functools.partial(lstm.forward, x)
    if kernel == "lstm_step":
        return functools.partial(lstm.step, x[0], lstm.step(x[0])[1])

    def before():
        lstm.forward(x)

    return functools.partial(lstm.backward, dy), before


def twin(kernel, dtype, size, threads):
    lstm, x, dy = data(dtype, size)
    w, zeros = list(lstm.params.values()), np.zeros_like(dy[0])
    if kernel == "lstm_step":
        return functools.partial(reference.lstm_step, x[0], zeros, zeros, *w)
    forward = functools.partial(reference.lstm_forward, x, zeros, zeros, *w)
    if kernel == "lstm_forward":
        return forward
    backward = functools.partial(reference.lstm_backward, x, *forward(), w[0], w[1])
    return functools.partial(backward, dy, zeros, zeros)


def roof(kernel, dtype, size, threads):
    """A core's share of the multiply-adds, in registers alone."""
    flop = work(kernel, dtype, size)["flop"] / threads
    return functools.partial(
        _products.fma_roof, dtype, 1 + int(flop / _products.fma_roof(dtype, 1))
    )


def torch(kernel, dtype, size, threads):
    import torch

    _, x, dy = data(dtype, size)
    x, dy = torch.from_numpy(x), torch.from_numpy(dy)
    if kernel == "lstm_step":
        cell = torch.nn.LSTMCell(*size[2:], dtype=x.dtype).requires_grad_(False)
        return functools.partial(cell.forward, x[0])
    lstm = torch.nn.LSTM(*size[2:], dtype=x.dtype)
    x.requires_grad_()
    if kernel == "lstm_forward":
        return functools.partial(lstm.forward, x)

    def before():
        lstm.zero_grad(set_to_none=True)
        x.grad = None
        return (lstm(x)[0], dy), {}

    return torch.Tensor.backward, before


def bench_rnn(timed, row):
    timed()
