"""A small model and helpers for the tests of wrappers."""

import inspect

import numpy as np

from pyoptk import kernels, reference

SHAPES = {"weight": (7, 5), "bias": (5,), "scale": ()}


def model(dtype=np.float64, seed=4):
    rng = np.random.default_rng(seed)
    params = {name: np.array(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}

    def grads():
        return {name: np.array(rng.standard_normal(p.shape), dtype) for name, p in params.items()}

    return params, grads


def copy(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def assert_equal(got, expected):
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name, strict=True)


def state_of(opt):
    """A copy of everything that an optimizer or a wrapper holds."""
    return {k: np.array(v) for k, v in opt.state_dict().items()}


class TwinAdam:
    """Adam from pyoptk.reference, with the hyper-parameters of `opt`."""

    def __init__(self, opt, params):
        names = inspect.signature(kernels.adam).parameters
        self.hyper = {name: value for name, value in opt.hyper.items() if name in names}
        self.params, self.count = params, dict.fromkeys(params, 0)
        self.m, self.v = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))

    def step(self, grads, grad_scale=1.0):
        for name, g in grads.items():
            if g is not None:
                self.count[name] += 1
                reference.adam(
                    self.params[name],
                    g,
                    self.m[name],
                    self.v[name],
                    step=self.count[name],
                    **{**self.hyper, "grad_scale": grad_scale},
                )
