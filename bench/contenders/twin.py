"""The work of pyoptk.reference, the NumPy twins of the kernels.

After pyoptk/duel/contenders/numpy.py, whose recurrent layers are twins already.
"""

import inspect
import runpy
from functools import partial
from pathlib import Path

import numpy as np

LR = 1e-3


def rule(optimizer, like, **settings):
    """`step(param, grad)` by the twin of an optimizer, and its states beside `like`."""
    import pyoptk
    from pyoptk import kernels, reference

    opt = getattr(pyoptk, optimizer)(like.copy(), lr=LR, **settings)
    known = inspect.signature(getattr(kernels, optimizer.lower())).parameters
    hyper = {key: value for key, value in opt.hyper.items() if key in known}
    twin, t, states = getattr(reference, optimizer.lower()), 0, [*opt.state.values()]

    def take(param, grad, states=states):
        nonlocal t
        t += 1
        twin(param, grad, *states, step=t, **hyper)

    return take, states


def step(params, grads, *, optimizer, threads, **settings):
    if len(params) > 1:
        raise NotImplementedError
    take, _ = rule(optimizer, params[0], **settings)
    return partial(take, params[0], grads[0]), lambda: params


def clip_by_global_norm(x):
    from pyoptk import reference

    x *= min(1, 0.1 / (reference.global_norm([x]) + 1e-6))


def array(x, y, *, function, threads):
    from pyoptk import reference

    calls = {
        "dropout": lambda: partial(reference.dropout, x, y, 0.2, seed=1),
        "global_norm": lambda: partial(reference.global_norm, [x]),
        "clip_by_global_norm": lambda: partial(clip_by_global_norm, x),
        "clip_by_value": lambda: partial(np.clip, x, -1e-3, 1e-3, out=x),
    }
    made = calls.get(function, lambda: partial(getattr(reference, function), x, y))
    return made(), lambda: [x, y]


def matmul(a, b, c, *, threads):
    from pyoptk import reference

    return partial(reference.matmul, a, b, c), lambda: [c]


def touched_rows(table, indices, values, *, optimizer, threads, dense=False, **settings):
    from pyoptk import reference

    if dense:
        raise NotImplementedError
    take, states = rule(optimizer, table, **settings)

    def work():
        rows, grad = reference.touched_rows(indices, values)
        param, *gathered = (array[rows] for array in (table, *states))
        take(param, grad, gathered)
        for array, part in zip((table, *states), (param, *gathered), strict=True):
            array[rows] = part

    return work, lambda: [table[indices[:4]]]


def decayed(param, grad, age, *, threads):
    take, states = rule("Adam", param, beta2=0.99)
    aged = runpy.run_path(str(Path(__file__).with_name("pyoptk.py")))["aged"]
    return aged(lambda grad: take(param, grad), [param, *states], grad, age)


def call(*, threads):
    """The cheapest call of NumPy over 16 elements."""
    x, y = np.zeros((2, 16), np.float32)
    return partial(np.add, x, y, out=x), list
