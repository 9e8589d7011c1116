"""The table of all optimizer kernels, for the tests that run over it."""

import inspect

import numpy as np

import pyoptk
from pyoptk import kernels, reference

# Every kernel with its class, its state arrays and the settings to test it with.
ROWS = {
    "sgd": (
        pyoptk.SGD,
        ("velocity",),
        [
            {},
            {"momentum": 0.9},
            {"momentum": 0.9, "nesterov": True},
            {"momentum": 0.9, "dampening": 0.25},
            {"momentum": 0.9, "lr_in_momentum": True},
            {"momentum": 0.9, "lr_in_momentum": True, "nesterov": True},
        ],
    ),
    "adagrad": (
        pyoptk.AdaGrad,
        ("s",),
        [{}, {"lr_decay": 0.1}, {"eps_inside_sqrt": True, "eps": 1e-3}],
    ),
    "rmsprop": (
        pyoptk.RMSprop,
        ("v", "avg", "velocity"),
        [
            {},
            {"momentum": 0.9},
            {"centered": True},
            {"centered": True, "momentum": 0.9},
            {"centered": True, "momentum": 0.9, "eps_inside_sqrt": True, "lr_in_momentum": True},
        ],
    ),
    "adadelta": (pyoptk.Adadelta, ("v", "acc_delta"), [{}, {"rho": 0.95, "eps": 1e-3}]),
    "adam": (
        pyoptk.Adam,
        ("m", "v", "vmax"),
        [
            {},
            {"eps_hat": True, "eps": 1e-3},
            {"amsgrad": True},
            {"amsgrad": True, "amsgrad_on_corrected": True},
        ],
    ),
    "nadam": (
        pyoptk.NAdam,
        ("m", "v"),
        [{}, {"momentum_decay": 0.0}, {"momentum_decay": 1.0}, {"momentum_decay": 1e5}],
    ),
    "radam": (
        pyoptk.RAdam,
        ("m", "v"),
        [
            {},
            {"beta2": 0.5},  # never rectified
            {"beta2": 0.9},  # from step 6 on
            {"eps_hat": False, "eps": 1e-3},
        ],
    ),
    "adamax": (pyoptk.Adamax, ("m", "u"), [{}, {"eps_outside_max": True, "eps": 1e-3}]),
    "lion": (pyoptk.Lion, ("m",), [{}, {"beta1": 0.0, "beta2": 0.9}]),
    "lamb": (pyoptk.LAMB, ("m", "v"), [{}, {"eps": 1e-3}]),
}
SETTINGS = [(name, settings) for name, row in ROWS.items() for settings in row[2]]
IDS = [f"{name}-{'-'.join(settings) or 'defaults'}" for name, settings in SETTINGS]
# Settings of what every optimizer does to the gradient before its rule.
COMMON = {
    "plain": {},
    "l2": {"weight_decay": 0.1, "decoupled": False},
    "decoupled": {"weight_decay": 0.1, "decoupled": True},
    "all": {
        "weight_decay": 0.1,
        "decoupled": False,
        "maximize": True,
        "grad_scale": 0.5,
        "clip_value": 0.2,
    },
}
COMMON_NAMES = ["weight_decay", "decoupled", "maximize", "grad_scale", "clip_value", "cautious"]
SIZES = [0, 1, 7, 1009, 4097, 100_003]


def data(rng, shape, dtype, steps):
    """A parameter and one gradient per step; magnitudes as in training, far from denormals."""
    param = rng.standard_normal(shape).astype(dtype)
    return param, [(0.1 * rng.standard_normal(shape)).astype(dtype) for _ in range(steps)]


def hyper_of(opt):
    """Those hyper-parameters that the twin takes as well."""
    names = inspect.signature(getattr(kernels, opt._kernel)).parameters
    return {name: value for name, value in opt.hyper.items() if name in names}


def by_twin(name, param, grads, hyper):
    """The parameter and the state after these steps of the twin, in the arrays' dtype."""
    twin, states = getattr(reference, name), [np.zeros_like(param) for _ in ROWS[name][1]]
    param = param.copy()
    for step, grad in enumerate(grads, 1):
        twin(param, grad, *states, step=step, **hyper)
    return param, dict(zip(ROWS[name][1], states, strict=True))
