"""pyoptk's work in the rows of single kernels, after that of pyoptk/duel/contenders/pyoptk.py."""

from functools import partial

import numpy as np

LR = 1e-3


def start(threads):
    import pyoptk
    from pyoptk import kernels

    pyoptk.set_num_threads(threads)
    return pyoptk, kernels


def array(x, y, *, function, threads):
    """A function of one array; dropout as between two recurrent layers."""
    pyoptk, kernels = start(threads)
    a, b = (array.reshape(10, -1, 100) if x.size % 1_000 == 0 else array for array in (x, y))
    calls = {
        "dropout": lambda: partial(kernels.dropout, a, b, 0.2, seed=1),
        "global_norm": lambda: partial(kernels.global_norm, [x]),
        "clip_by_global_norm": lambda: partial(pyoptk.clip_by_global_norm, [x], 0.1),
        "clip_by_value": lambda: partial(pyoptk.clip_by_value, [x], 1e-3),
    }
    made = calls.get(function, lambda: partial(getattr(kernels, function), x, y))
    return made(), lambda: [x, y]


def matmul(a, b, c, *, threads):
    return partial(start(threads)[1].matmul, a, b, c), lambda: [c]


def touched_rows(table, indices, values, *, optimizer, threads, dense=False, **settings):
    """A step for some rows of a table; `dense`: for all of them, with zeros in the others."""
    pyoptk, _ = start(threads)
    opt = getattr(pyoptk, optimizer)(table, lr=LR, **settings)

    def grad():
        return pyoptk.SparseRows(indices, values, table.shape)

    full = grad().dense() if dense else None
    work = partial(opt.step, full) if dense else lambda: opt.step(grad())
    return work, lambda: [table[indices[:4]]]


def decayed(param, grad, age, *, threads):
    """A hundred steps with zero gradients, `age` of them after the last one that was not zero.

    Long after it, both moments are denormal numbers, unless a kernel takes those for zero.
    """
    pyoptk, _ = start(threads)
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
    return steps, list, {"before": restore}


def call(*, threads):
    """The bare kernel over 16 elements, where arithmetic takes no time."""
    return partial(start(threads)[1].adam, *np.zeros((4, 16), np.float32)), list


def after_product(weight, gradient, x, dy, *, threads, alone=False):
    """Adam's step right after the NumPy product of its gradient, or alone."""
    step = partial(start(threads)[0].Adam(weight, lr=LR).step, gradient)
    product = partial(np.matmul, dy.T, x, out=gradient)
    product()
    return step, list, {} if alone else {"before": product}
