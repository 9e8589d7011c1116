"""Models of random layers against the same layers one by one, with losses and wrong calls."""

import copy

import numpy as np

import pyoptk
from pyoptk import layers, losses
from pyoptk._dense import ACTIVATIONS

from .arrays import READABLE, UNREADABLE, junk
from .trial import Refused, copied


def _linear(t, width, dtype, rng):
    outputs, activation = t.size(20) + 1, t.pick([None, *ACTIVATIONS])
    bias = t.chance(0.8)
    return layers.Linear(width, outputs, activation, bias=bias, dtype=dtype, rng=rng), outputs


def _some(t, width, dtype, rng):
    """A layer for an input [M, width], and the width of its output."""
    kind = t.pick(["linear", "linear", "norm", "dropout", "activation", "model"])
    if kind == "norm":
        return layers.LayerNorm(width, dtype=dtype), width
    if kind == "dropout":
        return layers.Dropout(t.pick([0.1, 0.5]), seed=t.pick([0, 7])), width
    if kind == "activation":
        return layers.Activation(t.pick(ACTIVATIONS[1:])), width
    linear, outputs = _linear(t, width, dtype, rng)
    return (layers.Sequential(linear) if kind == "model" else linear), outputs


class Model:
    """A model, copies of its layers, and what it takes."""

    def __init__(self, t):
        self.dtype, rng = np.dtype(t.pick(["f4", "f4", "f8"])), np.random.default_rng(3)
        self.I = width = t.size(20) + 1
        self.recurrent, made = t.chance(0.4), []
        if self.recurrent:
            cell, width = t.pick([pyoptk.LSTM, pyoptk.GRU, pyoptk.RNN]), t.size(12) + 1
            made = [cell(self.I, width, dtype=self.dtype, rng=rng), layers.Last()]
        for _ in range(t.pick([1, 2, 3])):
            layer, width = _some(t, width, self.dtype, rng)
            made.append(layer)
        made.append(layers.Linear(width, t.pick([1, 3]), dtype=self.dtype, rng=rng))
        self.alone = copy.deepcopy(made)
        self.model = layers.Sequential(*made)

    def input(self, t):
        M = t.size(20) + 1
        shape = (t.size(9) + 1, M, self.I) if self.recurrent else (M, self.I)
        return t.normal(shape, self.dtype)

    def state(self):
        return copied(self.model.state_dict()) | {"grads": self.model.flat_grads.copy()}

    def forward(self, x, **options):
        """The output of the layers one by one."""
        for layer in self.alone:
            takes = isinstance(layer, layers.Last) or hasattr(layer, "num_layers")
            x = layer.forward(x, **(options if takes else {}))
            x = x[0] if isinstance(x, tuple) else x
        return x

    def backward(self, dy, accumulate):
        for layer in reversed(self.alone):
            dy = layer.backward(dy, accumulate=accumulate)
            dy = dy[0] if isinstance(dy, tuple) else dy
        return dy


def _loss(t, y):
    """A loss of random options; its gradient goes to `out` or a new array."""
    name = t.pick(losses.__all__)
    target = t.normal(y.shape, y.dtype)
    if name == "cross_entropy":
        target = t.rng.integers(0, y.shape[-1], len(y))
    elif name == "bce_with_logits":
        target = (target > 0).astype(y.dtype)
    options = {"weights": t.rng.random(len(y))} if t.chance(0.3) else {}
    function, given = getattr(losses, name), [y, target]
    if t.chance(0.2):
        where = t.pick(range(2))
        given[where] = t.pick([junk(t.rng), given[where][..., None], given[where][1:]])
        t.call(function, *given, **options, must=None)
        given = [y, target]
    out = t.place(np.ones_like(y)) if t.chance(0.5) else None
    writes = [] if out is None else [out]
    value, dy = t.call(function, *given, **options, out=out, must=False, writes=writes)
    again, expected = function(np.array(y), np.array(target), **options)
    t.equal(name, (value, np.array(dy)), (again, expected))
    return expected


def _wrong(t, one, x, dy):
    """A call of which one thing is wrong; whether what was due still is."""
    model, kind = one.model, t.pick(["width", "dtype", "dy", "state", "junk"])
    if kind == "dy":
        t.call(model.backward, np.concatenate([dy, dy]), same=one.state, must=True)
        return True
    if kind == "state":
        name = t.pick([*model.state_dict()])
        worse = model.state_dict() | {name: junk(t.rng)}
        result = t.call(model.load_state_dict, worse, same=one.state)
        return isinstance(result, Refused)
    wrong = {
        "width": np.concatenate([x, x], -1),
        "dtype": x.astype("f8" if one.dtype == "f4" else "f4"),
        "junk": junk(t.rng),
    }[kind]
    t.call(model.forward, wrong, must=None if kind == "junk" else True)
    return False


def model(t):
    """Both passes of a model: the bits of its layers one by one; a loss; wrong calls."""
    pyoptk.set_num_threads(t.pick([1, 1, 2]))
    pyoptk.use_isa(t.pick([name for name, usable in pyoptk.isas().items() if usable]))
    one = Model(t)
    for _ in range(t.pick([1, 2])):
        x, options = t.place(one.input(t), t.pick(READABLE)), {}
        values = np.array(x)  # some layouts repeat elements
        if one.recurrent and t.chance(0.5):
            options["lengths"] = t.rng.integers(0, len(values) + 1, values.shape[1])
        y = t.call(one.model.forward, x, **options, must=False)
        t.equal("y", y, one.forward(values, **options))
        dy, accumulate = _loss(t, y), t.chance(0.3)
        if t.chance(0.2) and not _wrong(t, one, values, dy):
            return
        dx = t.call(one.model.backward, dy, accumulate=accumulate, must=False)
        t.equal("dx", dx, one.backward(dy, accumulate))
        for i, layer in enumerate(one.alone):
            for name, grad in layer.grads.items():
                t.equal(f"{i}.{name}", one.model.grads[f"{i}.{name}"], grad)
        t.call(one.model.backward, dy, same=one.state, must=True)
    if not one.recurrent:
        t.call(one.model.forward, t.place(values, t.pick(UNREADABLE)), must=None)
