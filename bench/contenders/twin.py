"""The work of pyoptk.reference, the NumPy twins of the kernels.

After pyoptk/duel/contenders/numpy.py, whose recurrent layers are twins already.
"""

import inspect
import runpy
from functools import partial
from pathlib import Path

import numpy as np

import pyoptk
from pyoptk import kernels, reference

LR = 1e-3
AGED = runpy.run_path(str(Path(__file__).with_name("pyoptk.py")))["aged"]


def rule(optimizer, like, **settings):
    """`step(param, grad)` by the twin of an optimizer, and its states beside `like`."""
    opt = getattr(pyoptk, optimizer)(like.copy(), lr=LR, **settings)
    known = inspect.signature(getattr(kernels, optimizer.lower())).parameters
    hyper = {key: value for key, value in opt.hyper.items() if key in known}
    twin, t, states = getattr(reference, optimizer.lower()), 0, [*opt.state.values()]

    def take(param, grad, states=states):
        nonlocal t
        t += 1
        twin(param, grad, *states, step=t, **hyper)

    return take, states


def step(params, grads, *, optimizer, **settings):
    if len(params) > 1:
        raise NotImplementedError
    take, _ = rule(optimizer, params[0], **settings)
    return partial(take, params[0], grads[0]), lambda _: params


def clip_by_global_norm(grads, max_norm):
    grads[0] *= min(1, max_norm / (reference.global_norm(grads) + 1e-6))


def clip_by_value(grads, clip_value):
    np.clip(grads[0], -clip_value, clip_value, out=grads[0])


def function(arrays, *, name, arguments):
    call = getattr(reference, name, None) or globals()[name]
    given = arrays if len(arrays) > 1 else [arrays]
    return partial(call, *given, **arguments), lambda _: arrays


def touched_rows(table, indices, values, *, optimizer, dense=False, **settings):
    if dense:
        raise NotImplementedError
    take, states = rule(optimizer, table, **settings)

    def work():
        rows, grad = reference.touched_rows(indices, values)
        param, *gathered = (array[rows] for array in (table, *states))
        take(param, grad, gathered)
        for array, part in zip((table, *states), (param, *gathered), strict=True):
            array[rows] = part

    return work, lambda _: [table[indices[:4]]]


def decayed(param, grad, age):
    take, states = rule("Adam", param, beta2=0.99)
    return AGED(partial(take, param), [param, *states], grad, age)


def call():
    """The cheapest call of NumPy over 16 elements."""
    x, y = np.zeros((2, 16), np.float32)
    return partial(np.add, x, y, out=x)
