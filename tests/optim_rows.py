"""The table of all optimizer kernels, for the tests that run over it."""

import functools
import inspect

import numpy as np

import pyoptk
from pyoptk import _optim, kernels, reference

# Settings to test a kernel with. One that is not here gets those that `settings_of` makes.
CHOSEN = {
    "sgd": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.25},
        {"momentum": 0.9, "lr_in_momentum": True},
        {"momentum": 0.9, "lr_in_momentum": True, "nesterov": True},
    ],
    "adagrad": [{}, {"lr_decay": 0.1}, {"eps_inside_sqrt": True, "eps": 1e-3}],
    "rmsprop": [
        {},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.9},
        {"centered": True, "momentum": 0.9, "eps_inside_sqrt": True, "lr_in_momentum": True},
    ],
    "adadelta": [{}, {"rho": 0.95, "eps": 1e-3}],
    "adam": [
        {},
        {"eps_hat": True, "eps": 1e-3},
        {"amsgrad": True},
        {"amsgrad": True, "amsgrad_on_corrected": True},
    ],
    "nadam": [{}, {"momentum_decay": 0.0}, {"momentum_decay": 1.0}, {"momentum_decay": 1e5}],
    "radam": [
        {},
        {"beta2": 0.5},  # never rectified
        {"beta2": 0.9},  # from step 6 on
        {"eps_hat": False, "eps": 1e-3},
    ],
    "adamax": [{}, {"eps_outside_max": True, "eps": 1e-3}],
    "lion": [{}, {"beta1": 0.0, "beta2": 0.9}],
    "lamb": [
        {},
        {"eps": 1e-3},
        {"decay_outside_norm": True},
    ],
}


def settings_of(row):
    """The defaults, every number of its own at another value, and each switch the other way."""
    own = {name: row.fallbacks[name] for name in row.fields}
    needs = {field: other for field, relation, other in row.rules if relation == _optim.NEEDS}
    numbers = {k: 0.9 * v or 0.25 for k, v in own.items() if not isinstance(v, bool)}
    flipped = [
        {name: not value} | ({needs[name]: own[needs[name]] or 0.9} if name in needs else {})
        for name, value in own.items()
        if isinstance(value, bool)
    ]
    return [{}, numbers, *flipped]


def by_kernel():
    """The class of each kernel: the one that names it, not those that inherit it."""
    exported = [getattr(pyoptk, name) for name in pyoptk.__all__]
    return {cls._kernel: cls for cls in exported if "_kernel" in getattr(cls, "__dict__", {})}


# Every kernel with its class, its state arrays and the settings to test it with.
ROWS = {
    name: (
        by_kernel()[name],
        tuple(state for state, _, _ in row.states),
        CHOSEN.get(name) or settings_of(row),
    )
    for name, row in _optim.ROWS.items()
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


CASES = [(*pair, case) for case, pair in enumerate(SETTINGS)]


@functools.cache
def inputs_of(dtype):
    """A parameter and three gradients of each size."""
    rng = np.random.default_rng(20)
    return [data(rng, size, dtype, 3) for size in SIZES]


@functools.lru_cache(maxsize=1)  # the next test has the same, but for instruction set and threads
def outcomes_of(name, case, common, dtype):
    """Parameter and states after these steps of the twin, for each of the inputs."""
    cls, settings = ROWS[name][0], SETTINGS[case][1]
    hyper = hyper_of(cls(np.zeros(1, dtype), lr=0.01, **settings, **COMMON[common]))
    return [by_twin(name, param, grads, hyper) for param, grads in inputs_of(dtype)]
