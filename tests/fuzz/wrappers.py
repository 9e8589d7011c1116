"""Wrappers around one another in any order, against the same thing in NumPy."""

import math

import numpy as np

import pyoptk

from .optimizers import Model
from .trial import Refused, copied
from .twins import is_rows


class _Innermost:
    """The twin of an optimizer, as a wrapper's twin sees it."""

    def __init__(self, model):
        self.model, self.twin = model, model.twin

    def step(self, grads, weight=1.0):
        return grads is not None and self.twin.step(grads, self.model.opt.grad_norm)


class _Wrapped:
    def __init__(self, inner):
        self.inner, self.twin, self.count = inner, inner.twin, 0


class Accumulation(_Wrapped):
    def __init__(self, inner, k):
        super().__init__(inner)
        self.k, self.sums, self.weight = k, None, 0.0

    def step(self, grads, weight=1.0):
        if grads is not None:
            self._add(grads, weight)
        if self.count < (self.k if grads is not None else 1):
            return False
        with np.errstate(all="ignore"):
            for total in self.sums:
                if total is not None:
                    total /= total.dtype.type(self.weight)
        sums, self.sums, self.count, self.weight = self.sums, None, 0, 0.0
        return self.inner.step(sums)

    def _add(self, grads, weight):
        self.sums = self.sums or [None] * len(grads)
        with np.errstate(all="ignore"):
            for i, grad in enumerate(grads):
                if grad is not None:
                    weighted = grad if weight == 1 else np.multiply(grad, grad.dtype.type(weight))
                    if self.sums[i] is None:
                        self.sums[i] = np.array(weighted)
                    else:
                        np.add(self.sums[i], weighted, out=self.sums[i])
        zeroed(self.twin, grads)
        self.count, self.weight = self.count + 1, self.weight + weight

    def numbers(self):
        return {"k": self.k, "count": self.count, "weight": self.weight}


class LossScaler(_Wrapped):
    def __init__(self, inner, scale, growth, backoff, interval):
        super().__init__(inner)
        self.scale, self.growth, self.backoff, self.interval = scale, growth, backoff, interval

    def step(self, grads, weight=1.0):
        twin = self.twin
        before, skipped = (twin.factor, twin.skips), twin.skipped
        twin.factor, twin.skips = twin.factor * (1 / self.scale), True
        try:
            stepped = self.inner.step(grads, weight)
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

    def step(self, grads, weight=1.0):
        stepped = self.inner.step(grads, weight)
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
        if not _one_step(t, model, opt, twin, names):
            return
        model.compare()
        _compare_numbers(t, levels, twin)
    _round_trip(t, opt, levels, model)


def _one_step(t, model, opt, twin, names):
    """A step with a weight, or a flush, of both; False if it raised as it should."""
    grads = [model.gradient(i) for i in range(len(model.arrays))]
    grads = [
        np.zeros_like(a) if is_rows(g) else g for g, a in zip(grads, model.arrays, strict=True)
    ]
    before = [None if g is None else np.array(g) for g in grads]
    weight = t.pick([1.0, 3.0, 0.1]) if names.count("Accumulation") == 1 else 1.0
    if t.chance(0.1):
        before, result = None, t.call(opt.flush, writes=model.arrays)
    else:
        given = [g for g in grads if g is not None]
        result = t.call(
            opt.step,
            model.like(grads),
            weight=weight,
            writes=model.written(grads),
            refusal_writes=given,
        )
    try:
        expected = twin.step(before, weight)
    except FloatingPointError:
        t.check(isinstance(result.error, FloatingPointError), "took what is to raise")
        return False  # what is left of the micro-batches is each wrapper's own affair
    t.check(not isinstance(result, Refused), f"refused what is right: {result}")
    t.equal(f"{names} stepped", result, expected)
    return True


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
