"""NumPy's work, as its users write it, and written with care for memory.

The optimizers come in both ways, because most code is the first and the second is fairer: `plain`
are whole-array expressions with a temporary for every operation; `in place` works on the arrays
block by block with `out=`, so that temporaries stay in the L2 cache and every array is swept once.
The recurrent layers are pyoptk's twins, whose products over time are one matmul each.
"""

from functools import partial

import numpy as np

PACKAGES = ("numpy", "pyoptk")
LR = 1e-3
BLOCK = 16_384  # elements: the fastest of the powers of two from 1 k to 256 k, at 1 M and 10 M


# ---- optimizers ----------------------------------------------------------------------------------


def plain_adam(p, g, m, v, t):
    m[:] = 0.9 * m + (1 - 0.9) * g
    v[:] = 0.999 * v + (1 - 0.999) * g**2
    p -= LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def plain_sgd(p, g, velocity, unused, t):
    velocity[:] = 0.9 * velocity + g
    p -= LR * velocity


def plain_rmsprop(p, g, v, unused, t):
    v[:] = 0.99 * v + (1 - 0.99) * g**2
    p -= LR * g / (np.sqrt(v) + 1e-8)


def plain_adagrad(p, g, s, unused, t):
    s += g**2
    p -= LR * g / (np.sqrt(s) + 1e-10)


def adam(p, g, m, v, t, a, b):
    np.multiply(g, 1 - 0.9, out=a)
    np.multiply(m, 0.9, out=m)
    np.add(m, a, out=m)
    np.multiply(g, g, out=a)
    np.multiply(a, 1 - 0.999, out=a)
    np.multiply(v, 0.999, out=v)
    np.add(v, a, out=v)
    np.sqrt(v, out=a)
    np.multiply(a, (1 - 0.999**t) ** -0.5, out=a)
    np.add(a, 1e-8, out=a)
    np.divide(m, a, out=a)
    np.multiply(a, LR / (1 - 0.9**t), out=a)
    np.subtract(p, a, out=p)


def sgd(p, g, velocity, unused, t, a, b):
    np.multiply(velocity, 0.9, out=velocity)
    np.add(velocity, g, out=velocity)
    np.multiply(velocity, LR, out=a)
    np.subtract(p, a, out=p)


def rmsprop(p, g, v, unused, t, a, b):
    np.multiply(g, g, out=a)
    np.multiply(a, 1 - 0.99, out=a)
    np.multiply(v, 0.99, out=v)
    np.add(v, a, out=v)
    _descend(p, g, v, 1e-8, a, b)


def adagrad(p, g, s, unused, t, a, b):
    np.multiply(g, g, out=a)
    np.add(s, a, out=s)
    _descend(p, g, s, 1e-10, a, b)


def _descend(p, g, s, eps, a, b):
    np.sqrt(s, out=a)
    np.add(a, eps, out=a)
    np.multiply(g, LR, out=b)
    np.divide(b, a, out=a)
    np.subtract(p, a, out=p)


PLAIN = {"Adam": plain_adam, "SGD": plain_sgd, "RMSprop": plain_rmsprop, "AdaGrad": plain_adagrad}
IN_PLACE = {"Adam": adam, "SGD": sgd, "RMSprop": rmsprop, "AdaGrad": adagrad}


def _blocked(update, p, g, m, v, t, a, b):
    for i in range(0, p.size, BLOCK):
        part = slice(i, i + BLOCK)
        n = len(p[part])
        update(p[part], g[part], m[part], v[part], t, a[:n], b[:n])


def _updates(optimizer, params, implementation):
    """The step of one optimizer over these parameters."""
    ms, vs = ([np.zeros(p.size, p.dtype) for p in params] for _ in range(2))
    flat, t = [p.reshape(-1) for p in params], 0
    if implementation == "plain":
        update = PLAIN[optimizer]
    else:
        a, b = np.empty((2, min(BLOCK, max(p.size for p in params))), flat[0].dtype)
        update = partial(_blocked, IN_PLACE[optimizer])

    def take(grads):
        nonlocal t
        t += 1
        scratch = () if implementation == "plain" else (a, b)
        for p, g, m, v in zip(flat, grads, ms, vs, strict=True):
            update(p, g.reshape(-1), m, v, t, *scratch)

    return take


def step(
    params, grads, *, optimizer, threads, implementation="in place",
    momentum=0.9, max_norm=None, ema_decay=None, zero_grad=False,
):  # fmt: skip
    """One step over a list of parameters."""
    if optimizer not in PLAIN:
        raise NotImplementedError
    take = _updates(optimizer, params, implementation)
    averages = [p.copy() for p in params] if ema_decay is not None else []

    def work():
        scaled = grads
        if max_norm is not None:
            norm = sum(float(np.dot(g, g)) for g in grads) ** 0.5
            scaled = [g * np.float32(min(1, max_norm / (norm + 1e-6))) for g in grads]
        take(scaled)
        if ema_decay is not None:
            for average, p in zip(averages, params, strict=True):
                average += (1 - ema_decay) * (p - average)
        if zero_grad:
            for g in grads:
                g.fill(0)

    return work, lambda: [*params[:1], *averages[:1]]


# ---- layers --------------------------------------------------------------------------------------


def layer(
    x, dy, weights, *, cell, threads, implementation="in place", part="", **stacked
):  # fmt: skip
    """Forward and backward of pyoptk's twin."""
    from pyoptk import reference

    if cell != "LSTM" or stacked or implementation == "plain":  # there is one way only
        raise NotImplementedError
    w_ih, w_hh, *_ = weights
    zeros = np.zeros_like(dy[0])
    saved = found = None
    if part == "step":
        return partial(reference.lstm_step, x[0], zeros, zeros, *weights), list

    def forward():
        nonlocal saved
        saved = reference.lstm_forward(x, zeros, zeros, *weights)

    def backward():
        nonlocal found
        found = reference.lstm_backward(x, *saved, w_ih, w_hh, dy, zeros, zeros)

    def both():
        forward()
        backward()

    def outcome():
        dx, _, _, dw_ih, dw_hh, db = found
        return [dx, dw_ih, dw_hh, db, db]

    if part == "forward":
        return forward, list
    work, more = (backward, {"before": forward}) if part else (both, {})
    return work, outcome, more


def forecaster(windows, targets, weights, *, threads, implementation="in place"):
    """The training step of `pyoptk.demo.numpy_step`, the weights its own copies."""
    from pyoptk.demo.forecaster import Forecaster
    from pyoptk.demo.numpy_step import NumpyForecaster

    if implementation == "plain":
        raise NotImplementedError
    flat = [array for layer in weights for array in layer]
    model = Forecaster(np.random.default_rng(0))
    for param, value in zip(model.params.values(), flat, strict=True):
        param[...] = value
    twin = NumpyForecaster(model.params, lr=LR, max_norm=np.inf)

    def outcome():
        for name, param in model.params.items():
            param[...] = twin.params[name]
        return [model.forward(windows)]

    return partial(twin.step, windows, targets), outcome


def train_mlp(x, labels, params, take):
    """A training loop as NumPy users write it; `take(grads)` is the optimizer's step.

    Dense layers with ReLU, softmax and cross-entropy; `params` are weight [outputs, inputs] and
    bias of each layer in turn.
    """
    depth = len(params) // 2
    rows = np.arange(len(x))

    def work():
        activations = [x]
        for k in range(depth):
            z = activations[-1] @ params[2 * k].T + params[2 * k + 1]
            activations.append(np.maximum(z, 0, out=z) if k < depth - 1 else z)
        z = activations.pop()
        z -= z.max(1, keepdims=True)
        d = np.exp(z)
        d /= d.sum(1, keepdims=True)
        d[rows, labels] -= 1
        d /= len(x)
        grads = []
        for k in reversed(range(depth)):
            grads += [d.sum(0), d.T @ activations[k]]
            if k:
                d = (d @ params[2 * k]) * (activations[k] > 0)
        take(grads[::-1])

    return work, lambda: params


def mlp(x, labels, weights, *, threads, implementation="in place"):
    """The loop with Adam in NumPy."""
    params = [array for layer in weights for array in layer]
    return train_mlp(x, labels, params, _updates("Adam", params, implementation))
