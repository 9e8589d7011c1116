"""Wrappers around one another in any order, against the same thing in NumPy."""

import math

import numpy as np

import pyoptk

from .optimizers import Model, is_rows
from .trial import Refused, copied


class _Innermost:
    """The twin of an optimizer, as a wrapper's twin sees it."""

    def __init__(self, model):
        self.model, self.twin = model, model.twin

    def step(self, grads):
        return self.twin.step(grads, self.model.opt.grad_norm)


class _Wrapped:
    def __init__(self, inner):
        self.inner, self.twin, self.count = inner, inner.twin, 0


class Accumulation(_Wrapped):
    def __init__(self, inner, k):
        super().__init__(inner)
        self.k, self.sums = k, None

    def step(self, grads):
        if self.sums is None:
            self.sums = [None] * len(grads)
        with np.errstate(all="ignore"):
            for i, grad in enumerate(grads):
                if grad is not None:
                    if self.sums[i] is None:
                        self.sums[i] = grad.copy()
                    else:
                        np.add(self.sums[i], grad, out=self.sums[i])
        zeroed(self.twin, grads)
        self.count += 1
        if self.count < self.k:
            return False
        sums, self.sums, self.count = self.sums, None, 0
        factor = self.twin.factor
        self.twin.factor = factor * (1 / self.k)
        try:
            return self.inner.step(sums)
        finally:
            self.twin.factor = factor

    def numbers(self):
        return {"k": self.k, "count": self.count}


class LossScaler(_Wrapped):
    def __init__(self, inner, scale, growth, backoff, interval):
        super().__init__(inner)
        self.scale, self.growth, self.backoff, self.interval = scale, growth, backoff, interval

    def step(self, grads):
        twin = self.twin
        before, skipped = (twin.factor, twin.skips), twin.skipped
        twin.factor, twin.skips = twin.factor * (1 / self.scale), True
        try:
            stepped = self.inner.step(grads)
        finally:
            twin.factor, twin.skips = before
        self.count += stepped
        if twin.skipped != skipped or self.count >= self.interval:
            self.count = 0
            scale = self.scale * (self.backoff if twin.skipped != skipped else self.growth)
            self.scale = scale if 2.0**-126 <= scale <= 2.0**126 else self.scale
        return stepped

    def numbers(self):
        return {"scale": self.scale, "count": self.count}


class Lookahead(_Wrapped):
    def __init__(self, inner, k, alpha):
        super().__init__(inner)
        self.k, self.alpha = k, alpha
        self.slow = [p.copy() for p in inner.twin.params]

    def step(self, grads):
        stepped = self.inner.step(grads)
        self.count += stepped
        if self.count >= self.k:
            self.count = 0
            with np.errstate(all="ignore"):
                for param, slow in zip(self.twin.params, self.slow, strict=True):
                    slow += (param - slow) * slow.dtype.type(self.alpha)
                    param[...] = slow
        return stepped

    def numbers(self):
        return {"k": self.k, "count": self.count}


def zeroed(twin, grads):
    for i, grad in enumerate(grads):
        if grad is not None and twin.settings(i)["zero_grad"]:
            grad[...] = 0


# Every wrapper with its twin and the arguments to make it with.
KINDS = {
    "Accumulation": (Accumulation, lambda t: {"k": t.pick([1, 2, 3])}),
    "LossScaler": (
        LossScaler,
        lambda t: {
            "scale": t.pick([1.0, 256.0, 0.5, 3.0]),
            "growth": t.pick([2.0, 1.5]),
            "backoff": t.pick([0.5, 0.25]),
            "interval": t.pick([1, 2, 5]),
        },
    ),
    "Lookahead": (Lookahead, lambda t: {"k": t.pick([1, 2, 3]), "alpha": t.pick([0.0, 0.5, 1.0])}),
}


def wrapper(t):
    """A nest of wrappers; gradients that are right, or wrong and refused."""
    pyoptk.set_num_threads(t.pick([1, 2]))
    model = Model(t, wrong=0, narrow=False)
    if not model.made:
        return
    opt, twin, names = model.opt, _Innermost(model), []
    for _ in range(t.pick([1, 1, 2, 3])):
        name = t.pick(list(KINDS))
        kind, arguments = KINDS[name]
        given = arguments(t)
        opt, twin = getattr(pyoptk, name)(opt, **given), kind(twin, **given)
        names.append(name)
    levels = _levels(opt)
    for _ in range(t.pick([2, 5, 8])):
        if t.chance(0.2):
            _wrong(t, model, opt, levels)
        grads = [model.gradient(i) for i in range(len(model.arrays))]
        grads = [
            np.zeros_like(a) if is_rows(g) else g for g, a in zip(grads, model.arrays, strict=True)
        ]
        before = [None if g is None else np.array(g) for g in grads]
        refused = t.call(
            opt.step,
            model.like(grads),
            writes=model.written(grads),
            refusal_writes=[g for g in grads if g is not None],
        )
        try:
            expected = twin.step(before)
        except FloatingPointError:
            t.check(isinstance(refused.error, FloatingPointError), "took what is to raise")
            return  # what is left of the micro-batches is each wrapper's own affair
        t.check(not isinstance(refused, Refused), f"refused what is right: {refused}")
        t.equal(f"{names} stepped", refused, expected)
        model.compare()
        _compare_numbers(t, levels, twin)
    _round_trip(t, opt, levels, model)


def _levels(opt):
    """The wrappers, outermost first."""
    levels = []
    while hasattr(opt, "opt"):
        levels.append(opt)
        opt = opt.opt
    return levels


def _compare_numbers(t, levels, twin):
    for level in levels:
        for name, value in twin.numbers().items():
            t.equal(f"{type(level).__name__}.{name}", getattr(level, name), value)
        twin = twin.inner


def _state(model, levels):
    return [model.state(), *(copied(dict(level.state_dict())) for level in levels)]


def _wrong(t, model, opt, levels):
    grads = model.wrong_gradients()
    t.call(opt.step, grads, same=lambda: _state(model, levels), must=True)


def _round_trip(t, opt, levels, model):
    """The state of every level goes into itself by way of copies; a foreign one is refused."""
    for level in levels:
        state = copied(dict(level.state_dict()))
        level.load_state_dict(state)
        t.equal("a wrapper's state", dict(level.state_dict()), state)
        name = t.pick(list(state))
        worse = dict(state)
        del worse[name]
        t.call(level.load_state_dict, worse, same=lambda: _state(model, levels), must=True)
    t.check(math.isfinite(sum(len(repr(level)) for level in levels)), "repr")


def swa(t):
    """The mean of parameters, in the order of its formula."""
    dtype = np.dtype(t.pick(["f4", "f8"]))
    arrays = [t.place(t.normal(t.pick([(), (3,), (5, 7)]), dtype)) for _ in range(t.pick([1, 3]))]
    average, means = pyoptk.SWA(arrays), [a.copy() for a in arrays]
    t.call(_within, average, must=True)
    for n in range(t.pick([1, 3, 6])):
        for mean, array in zip(means, arrays, strict=True):
            array += t.normal(array.shape, dtype)
            mean[...] = array if n == 0 else mean + (array - mean) / dtype.type(n + 1)
        t.call(average.update, must=False)
        t.equal("weights", average.weights, means)
    before = [a.copy() for a in arrays]
    with average.averaged():
        t.equal("averaged", arrays, means)
        t.call(average.update, must=True)
    t.equal("after averaged", arrays, before)


def _within(average):
    with average.averaged():
        pass
