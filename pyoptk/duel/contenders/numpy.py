"""NumPy's work, as its users write it, and written with care for memory.

The optimizers come in both ways, because most code is the first and the second is fairer: `plain`
are whole-array expressions with a temporary for every operation; `in place` works on the arrays
block by block with `out=`, so that temporaries stay in the L2 cache and every array is swept once.
The recurrent layers are pyoptk's twins, whose products over time are one matmul each.
"""

import inspect
from functools import partial

import numpy as np

from pyoptk import reference
from pyoptk.demo.forecaster import Forecaster
from pyoptk.demo.numpy_step import NumpyForecaster

PACKAGES = ("numpy", "pyoptk")
LR = 1e-3
BLOCK = 16_384  # elements: the fastest of the powers of two from 1 k to 256 k, at 1 M and 10 M


def start(threads, implementation="in place"):
    """There is one way only to write the layers."""
    global PLAIN
    PLAIN = implementation == "plain"
    return ["step", "mlp"] if PLAIN else None


OPTIMIZERS = ("Adam", "SGD", "RMSprop", "AdaGrad")


def plain(optimizer, p, g, m, v, t):
    if optimizer == "Adam":
        m[:] = 0.9 * m + (1 - 0.9) * g
        v[:] = 0.999 * v + (1 - 0.999) * g**2
        p -= LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    elif optimizer == "SGD":
        m[:] = 0.9 * m + g
        p -= LR * m
    elif optimizer == "RMSprop":
        v[:] = 0.99 * v + (1 - 0.99) * g**2
        p -= LR * g / (np.sqrt(v) + 1e-8)
    else:
        v += g**2
        p -= LR * g / (np.sqrt(v) + 1e-10)


def in_place(optimizer, p, g, m, v, t, a, b):
    if optimizer == "SGD":
        np.multiply(m, 0.9, out=m)
        np.add(m, g, out=m)
        np.multiply(m, LR, out=a)
        np.subtract(p, a, out=p)
        return
    np.multiply(g, g, out=a)
    if optimizer != "AdaGrad":
        beta = 0.999 if optimizer == "Adam" else 0.99
        np.multiply(a, 1 - beta, out=a)
        np.multiply(v, beta, out=v)
    np.add(v, a, out=v)
    np.sqrt(v, out=a)
    if optimizer == "Adam":
        np.multiply(g, 1 - 0.9, out=b)
        np.multiply(m, 0.9, out=m)
        np.add(m, b, out=m)
        np.multiply(a, (1 - 0.999**t) ** -0.5, out=a)
    np.add(a, 1e-10 if optimizer == "AdaGrad" else 1e-8, out=a)
    np.divide(m if optimizer == "Adam" else g, a, out=a)
    np.multiply(a, LR / (1 - 0.9**t) if optimizer == "Adam" else LR, out=a)
    np.subtract(p, a, out=p)


def updates(optimizer, params):
    """The step of one optimizer over these parameters."""
    ms, vs = ([np.zeros(p.size, p.dtype) for p in params] for _ in range(2))
    flat, t = [p.reshape(-1) for p in params], 0
    scratch = np.empty((2, min(BLOCK, max(p.size for p in params))), flat[0].dtype)

    def take(grads):
        nonlocal t
        t += 1
        for p, *arrays in zip(flat, (g.reshape(-1) for g in grads), ms, vs, strict=True):
            if PLAIN:
                plain(optimizer, p, *arrays, t)
                continue
            for i in range(0, p.size, BLOCK):
                parts = [array[i : i + BLOCK] for array in (p, *arrays)]
                in_place(optimizer, *parts, t, *scratch[:, : len(parts[0])])

    return take


def step(
    params, grads, *, optimizer, momentum=0.9, max_norm=None, ema_decay=None, zero_grad=False
):  # fmt: skip
    """One step over a list of parameters."""
    if optimizer not in OPTIMIZERS:
        raise NotImplementedError
    take = updates(optimizer, params)
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

    return work, lambda _: [*params[:1], *averages[:1]]


def states(twin):
    return [*inspect.signature(twin).parameters].index("w_ih") - 1


def twin_of(cell, part, layer_norm=False):
    return getattr(reference, f"{cell.lower()}{'_normed' * layer_norm}_{part}")


def named(weights):
    """Those of layer normalization, which a twin takes by name."""
    return dict(zip(("gain_ih", "gain_hh", "gain_c", "bias_c"), weights, strict=False))


def layer(
    x, dy, weights, lengths=None, *, cell, layers=1, directions=1, layer_norm=False, compute=None,
    **form,
):  # fmt: skip
    """pyoptk's twin, which takes the states between x and the weights; always in float32, in which
    NumPy's products are fastest."""
    more = form.keys() & {"proj_size", "recurrent_dropout", "zoneout"}
    if lengths is not None or layers > 1 or directions > 1 or more:
        raise NotImplementedError
    twin = [twin_of(cell, part, layer_norm) for part in ("forward", "backward")]
    zeros, saved, n = np.zeros_like(dy[0]), None, states(twin[0])
    form |= named(weights[4:])
    gains = {f"d{name}": np.empty_like(array) for name, array in named(weights[4:]).items()}
    weights = weights[:4]

    def forward():
        nonlocal saved
        found = twin[0](x, *[zeros] * n, *weights, **form)
        saved = found if isinstance(found, tuple) else (found,)
        return [saved[0][1:]]

    def backward():
        found = twin[1](x, *saved, *weights[:2], dy, *[zeros] * n, **form, **gains)
        biases = (*found[1 + n :], found[-1])[:4]  # one gradient of both, or two
        return [found[0], *biases, *gains.values()]

    return (forward, backward), list


def stream(x, dy, weights, *, cell, layer_norm=False, compute=None, **form):
    step = twin_of(cell, "step", layer_norm)
    form |= named(weights[4:])
    return partial(step, x[0], *[np.zeros_like(dy[0])] * states(step), *weights[:4], **form)


def scan(a, b, dh):
    h, da, db = (np.empty_like(a) for _ in range(3))
    forward = partial(reference.linear_scan_forward, a, b, h)
    return (forward, partial(reference.linear_scan_backward, a, h, dh, da, db)), lambda _: [
        h,
        da,
        db,
    ]


def forecaster(windows, targets, weights):
    """The training step of `pyoptk.demo.numpy_step`, the weights its own copies."""
    model = Forecaster(np.random.default_rng(0)).model
    for param, value in zip(model.params.values(), weights, strict=True):
        param[...] = value
    twin = NumpyForecaster(model.params, lr=LR, max_norm=np.inf)

    def outcome(_):
        for name, param in model.params.items():
            param[...] = twin.params[name]
        return [model.predict(windows)]

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

    return work, lambda _: params


def mlp(x, labels, weights, *, compute=None):
    """The loop with Adam in NumPy, in float32."""
    return train_mlp(x, labels, weights, updates("Adam", weights))


classifier, fitted = mlp, forecaster  # where pyoptk has models and `fit`
