"""pyoptk's work in the rows of single kernels, after that of pyoptk/duel/contenders/pyoptk.py."""

from functools import partial

import numpy as np

import pyoptk
from pyoptk import kernels

LR = 1e-3


def function(arrays, *, name, arguments):
    """A function of arrays; those of one array take a list of gradients."""
    call = getattr(kernels, name, None) or getattr(pyoptk, name)
    given = arrays if len(arrays) > 1 else [arrays]
    return partial(call, *given, **arguments), lambda _: arrays


def touched_rows(table, indices, values, *, optimizer, dense=False, **settings):
    """A step for some rows of a table; `dense`: for all of them, with zeros in the others."""
    opt = getattr(pyoptk, optimizer)(table, lr=LR, **settings)
    grad = partial(pyoptk.SparseRows, indices, values, table.shape)
    work = partial(opt.step, grad().dense()) if dense else lambda: opt.step(grad())
    return work, lambda _: [table[indices[:4]]]


def decayed(param, grad, age):
    """A hundred steps with zero gradients, `age` of them after the last one that was not zero.

    Long after it, both moments are denormal numbers, unless a kernel takes those for zero.
    """
    opt = pyoptk.Adam(param, beta2=0.99, lr=LR)
    return aged(opt.step, [param, *opt.state.values()], grad, age)


def aged(step, arrays, grad, age):
    zeros = np.zeros_like(grad)

    def steps(count=100):
        for _ in range(count):
            step(zeros)

    def restore():
        for array, old in zip(arrays, start, strict=True):
            array[...] = old

    step(grad)
    steps(age)
    start = [array.copy() for array in arrays]
    return steps, None, {"before": restore}


def call():
    """The bare kernel over 16 elements, where arithmetic takes no time."""
    return partial(kernels.adam, *np.zeros((4, 16), np.float32))


def after_product(weight, gradient, x, dy, *, alone):
    """Adam's step right after the NumPy product of its gradient, or alone."""
    product = partial(np.matmul, dy.T, x, out=gradient)
    product()
    step = partial(pyoptk.Adam(weight, lr=LR).step, gradient)
    return step, None, {"before": None if alone else product}
