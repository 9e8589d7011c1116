"""Random hyper-parameters, right and wrong, of every optimizer."""

import numpy as np

import pyoptk

from .arrays import junk

# Hyper-parameters by name: values that are right. Others are the default, or for a switch either.
RIGHT = {
    "lr": [0.0, 1e-3, 0.01, 0.1, 1.0],
    "weight_decay": [0.0, 0.0, 0.1, 1e-3],
    "grad_scale": [1.0, 1.0, 0.5, 2.0**-16, 3.0],
    "clip_value": [None, None, 0.05, 1.0],
    "max_norm": [None, None, 0.5, 1e-3, 1e6],
    "ema_decay": [None, None, 0.9, 0.0],
    "on_nonfinite": ["propagate", "propagate", "skip", "raise"],
    "eps": [None, None, 1e-3, 1e-8],  # None: the default
    "momentum": [0.0, 0.9, 0.5],
    "dampening": [0.0, 0.25],
    "momentum_decay": [4e-3, 0.0, 1.0, 1e5],
    "lr_decay": [0.0, 0.1],
    **{name: [None, None, 0.0, 0.5, 0.9, 0.99] for name in ("beta1", "beta2", "rho")},
}


SCHEDULED = ["lr", "weight_decay", "grad_scale", "beta1"]  # that may become smaller


def defaults(cls):
    """Hyper-parameters and their defaults."""
    return dict(cls(np.zeros(1)).hyper)


def draw_value(t, name, default):
    """A value that is right by itself, or nearly always."""
    if isinstance(default, bool):
        return t.chance(0.3)
    if name in RIGHT:
        value = t.pick(RIGHT[name])
        return default if value is None and default is not None else value
    if isinstance(default, float):
        return t.pick([default, default, default / 2])
    return default


def scheduled(t, value):
    """A function of the step whose first value this is."""
    if t.chance(0.5):
        return pyoptk.schedules.exponential(value, gamma=0.5, decay_steps=3)
    return lambda step: value * 0.9**step


class Setting:
    """The keywords of an optimizer."""

    def __init__(self, t, cls, names, wrong):
        hyper = defaults(cls)
        self.keywords = {}
        for name, default in hyper.items():
            if t.chance(0.5):
                self.keywords[name] = draw_value(t, name, default)
            if name in SCHEDULED and t.chance(0.1):
                self.keywords[name] = scheduled(t, self.keywords.get(name, default))
        if t.chance(0.3):
            self.keywords["groups"] = self._groups(t, hyper, names)
        for name in ("no_decay", "decay_mask"):
            if t.chance(0.2):
                self.keywords[name] = [t.pick(names)] if t.chance(0.5) else ["*"]
        if wrong:
            name = t.pick([*hyper, "groups", "no_decay", "decay_mask"])
            self.keywords[name] = junk(t.rng)

    def _groups(self, t, hyper, names):
        own = [name for name, v in hyper.items() if type(v) in (float, bool)]
        groups = {}
        for _ in range(t.pick([1, 1, 2])):
            pattern = t.pick(["*", t.pick(names), t.pick(names)[:1] + "*"])
            picked = [t.pick(own) for _ in range(t.pick([1, 2]))]
            picked = [n for n in picked if n not in ("grad_scale",)]
            groups[pattern] = {n: draw_value(t, n, hyper[n]) for n in picked}
        return groups
