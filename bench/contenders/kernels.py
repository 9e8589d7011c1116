"""The rows of single kernels: the work of pyoptk, or of the NumPy twins in pyoptk.reference.

What users call is in pyoptk/duel/contenders/: for pyoptk, pyoptk.py comes after this file; for the
twins, numpy.py, whose recurrent layers are twins, comes before it.
"""

import inspect
from functools import partial

import numpy as np

import pyoptk
from pyoptk import kernels, reference

LR = 1e-3
LIBRARY = kernels


def start(threads):
    """For the twins alone: pyoptk has the `start` of its other file."""
    global LIBRARY
    LIBRARY = reference


def updates(optimizer, param, **settings):
    """A step, given a gradient, and the states: of an optimizer, or of its twin."""
    opt = getattr(pyoptk, optimizer)(param, lr=LR, **settings)
    states = [*opt.state.values()]
    if LIBRARY is kernels:
        return opt.step, states
    known = inspect.signature(getattr(kernels, optimizer.lower())).parameters
    hyper = {key: value for key, value in opt.hyper.items() if key in known}
    twin, t = getattr(reference, optimizer.lower()), 0

    def take(grad, param=param, states=states):
        nonlocal t
        t += 1
        twin(param, grad, *states, step=t, **hyper)

    return take, states


def step(params, grads, *, optimizer, **settings):
    """A step of the twin."""
    if len(params) > 1 or {"state_dtype", "master"} & {*settings}:
        raise NotImplementedError
    take, _ = updates(optimizer, params[0], **settings)
    return partial(take, grads[0]), lambda _: params


def clip_by_global_norm(grads, max_norm):
    grads[0] *= min(1, max_norm / (reference.global_norm(grads) + 1e-6))


def clip_by_value(grads, clip_value):
    np.clip(grads[0], -clip_value, clip_value, out=grads[0])


def function(arrays, *, name, arguments):
    """A function of arrays; those of one array take a list of gradients."""
    call = getattr(LIBRARY, name, None)
    call = call or (getattr(pyoptk, name) if LIBRARY is kernels else globals()[name])
    given = arrays if len(arrays) > 1 else [arrays]
    return partial(call, *given, **arguments), lambda _: arrays


def linear(x, w, b, dy):
    """Linear and ReLU."""
    y, relu = np.empty_like(dy), {"activation": "relu"}
    grads = {"dx": np.empty_like(x), "dw": np.empty_like(w), "db": np.empty_like(b)}

    def forward():
        LIBRARY.linear_forward(x, w, b, y, **relu)
        return [y]

    def backward():
        LIBRARY.linear_backward(dy, x, w, y, **grads, **relu)
        return [*grads.values()]

    return (forward, backward), list


def layer_norm(x, gain, bias, dy):
    y, (mean, scale) = np.empty_like(x), np.empty((2, len(x)), x.dtype)
    grads = {"dx": np.empty_like(x), "dgain": np.empty_like(gain), "dbias": np.empty_like(bias)}

    def forward():
        LIBRARY.layer_norm_forward(x, gain, bias, y, mean, scale)
        return [y]

    def backward():
        LIBRARY.layer_norm_backward(dy, x, gain, mean, scale, **grads)
        return [*grads.values()]

    return (forward, backward), list


def loss(x, labels, targets, *, function):
    """A loss and its gradient."""
    dx = np.empty_like(x)
    target = labels if function == "softmax_cross_entropy" else targets
    return partial(getattr(LIBRARY, function), x, target, dx), lambda found: [found, dx]


def touched_rows(table, indices, values, *, optimizer, dense=False, **settings):
    """A step for some rows of a table; `dense`: for all of them, with zeros in the others."""
    take, states = updates(optimizer, table, **settings)
    grad = partial(pyoptk.SparseRows, indices, values, table.shape)
    if LIBRARY is kernels:
        work = partial(take, grad().dense()) if dense else lambda: take(grad())
        return work, lambda _: [table[indices[:4]]]
    if dense:
        raise NotImplementedError

    def gathered():
        rows, sums = reference.touched_rows(indices, values)
        param, *some = (array[rows] for array in (table, *states))
        take(sums, param, some)
        for array, part in zip((table, *states), (param, *some), strict=True):
            array[rows] = part

    return gathered, lambda _: [table[indices[:4]]]


def decayed(param, grad, age):
    """A hundred steps with zero gradients, `age` of them after the last one that was not zero.

    Long after it, both moments are denormal numbers, unless a kernel takes those for zero.
    """
    take, states = updates("Adam", param, beta2=0.99)
    zeros = np.zeros_like(grad)

    def steps(count=100):
        for _ in range(count):
            take(zeros)

    def restore():
        for array, old in zip((param, *states), start, strict=True):
            array[...] = old

    take(grad)
    steps(age)
    start = [array.copy() for array in (param, *states)]
    return steps, None, {"before": restore}


def call():
    """Over 16 elements, where arithmetic takes no time: the bare kernel; NumPy's cheapest call."""
    x, y, *more = np.zeros((4, 16), np.float32)
    return partial(kernels.adam, x, y, *more) if LIBRARY is kernels else partial(np.add, x, y, x)


def after_product(weight, gradient, x, dy, *, alone):
    """Adam's step right after the NumPy product of its gradient, or alone."""
    product = partial(np.matmul, dy.T, x, out=gradient)
    product()
    take, _ = updates("Adam", weight)
    return partial(take, gradient), None, {"before": None if alone else product}
