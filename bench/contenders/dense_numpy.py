"""NumPy's work in the rows of dense layers, after pyoptk/duel/contenders/numpy.py."""

import numpy as np


def linear(x, w, b, dy, *, compute=None):
    """Linear and ReLU, forward and backward, in the dtype of x."""

    def work():
        y = x @ w.T
        y += b
        np.maximum(y, 0, out=y)
        dz = dy * (y > 0)
        return [dz @ w, dz.T @ x, dz.sum(0)]

    return work, list


def loss(x, labels, targets, *, function):
    """The cross entropy of softmax and labels, with a gradient made in place."""
    rows = np.arange(len(x))

    def work():
        dx = x - x.max(1, keepdims=True)
        right = dx[rows, labels]
        np.exp(dx, out=dx)
        sums = dx.sum(1, keepdims=True)
        value = np.mean(np.log(sums[:, 0]) - right)
        dx /= sums * len(x)
        dx[rows, labels] -= 1 / len(x)
        return [value, dx]

    return work, list
