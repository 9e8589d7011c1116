"""Optimizers of every kind against their twins, bit for bit, with wrong calls in between."""

import math

import numpy as np

import pyoptk
from pyoptk import _optim, reference

from .arrays import READABLE, UNREADABLE, junk
from .settings import Setting, draw_value
from .trial import Refused, copied
from .twins import Twin, listed, rounded_like, wide

CLASSES = [
    cls
    for cls in vars(pyoptk).values()
    if isinstance(cls, type) and issubclass(cls, pyoptk.Optimizer) and cls is not pyoptk.Optimizer
]
TAKES_ROWS = ("sgd", "adagrad", "adam")
SHAPES = [(), (0,), (1,), (7,), (33,), (3, 5), (2, 0), (17, 4), (1009,), (2, 3, 4), (4097,)]
SOLID = [shape for shape in SHAPES if 0 not in shape]
KEYS = ["weight", "bias", "layer.weight", "a b", 3, ("t", 1), "x" * 40]

NESTED = ("up.weight", "up.bias", "down.0.weight", "down.1", "scale")


def nested(values):
    """Up to five arrays within each other, whose names are those of NESTED."""
    up, down, tree = {}, [], {}
    for name, value in zip(NESTED, values, strict=False):
        if name.startswith("up."):
            tree["up"] = up
            up[name[3:]] = value
        elif name.startswith("down"):
            tree["down"] = down
            down.append({"weight": value} if name.endswith("weight") else value)
        else:
            tree[name] = value
    return tree


class Model:
    """Parameters in memory with guards, an optimizer of them and its twin."""

    def __init__(self, t, wrong=0.0, cls=None, narrow=True, **forced):
        self.t, self.cls = t, cls or t.pick(CLASSES)
        self.dtype = np.dtype(t.pick(["f4", "f4", "f8"]))
        self.narrow = narrow and self.dtype == np.float32
        self.structure = t.pick(["one", "list", "tuple", "dict", "dict", "nested"])
        count = 1 if self.structure == "one" else t.pick([1, 2, 3, 5])
        self.arrays = [t.place(t.normal(t.pick(SHAPES), self.dtype)) for _ in range(count)]
        self.keys = list(t.rng.permutation(len(KEYS))[:count])
        self.keys = [KEYS[k] for k in self.keys] if self.structure == "dict" else None
        if self.structure == "nested":
            self.keys = [*NESTED][:count]
        names = ["", ""] if self.structure == "one" else [*map(str, self.keys or range(count))]
        self.keywords = Setting(t, self.cls, names, t.chance(wrong)).keywords | forced
        if self.narrow:
            self.keywords |= self.fewer_bits()
        self.params = self.like(self.arrays)
        self.opt = t.call(self.cls, self.params, **self.keywords)
        self.made = not isinstance(self.opt, Refused)
        if self.made:
            keys = None if self.structure == "one" else self.keys or range(count)
            self.twin = Twin(self.opt, self.keywords, keys, self.arrays)

    def fewer_bits(self):
        """Parameters of 16 bits for some, and keywords for them and for narrow states."""
        t, chosen = self.t, {}
        if _optim.ROWS[self.cls._kernel].narrow_states and t.chance(0.2):
            chosen |= {"state_dtype": t.pick(["bfloat16", "8bit"])}
            chosen |= {"min_8bit_size": t.pick([0, 100, 4096])}
        if t.chance(0.25):
            master = t.pick(["float32", "remainder", "stochastic"])
            floats = master == "float32" and t.chance(0.4)
            chosen |= {
                "master": master,
                "dtype": t.pick(["bfloat16", None]) if floats else "bfloat16",
            }
            for i, array in enumerate(self.arrays):
                if i == 0 or t.chance(0.7):
                    half = array.astype("f2") if floats else reference.round_bfloat16(array)
                    self.arrays[i] = t.place(half)
        return chosen

    def like(self, values):
        if self.structure == "one":
            return values[0]
        if self.structure == "dict":
            return dict(zip(self.keys, values, strict=True))
        if self.structure == "nested":
            return nested(values)
        return tuple(values) if self.structure == "tuple" else list(values)

    def state(self):
        """All that a refused call must leave as it was."""
        kept = copied(dict(self.opt.state_dict()))
        return kept | {"hyper": {k: v for k, v in self.opt.hyper.items() if not callable(v)}}

    def gradient(self, i, scale=0.1):
        """A gradient that is right: any layout, rows, or None."""
        t, array, settings = self.t, self.arrays[i], self.twin.settings(i)
        zeroed = any(self.twin.settings(k)["zero_grad"] for k in range(len(self.arrays)))
        if t.chance(0.07):
            return None
        few = self.twin.halves[i] or self.twin.words[i]
        sparse = self.twin.kernel in TAKES_ROWS and array.ndim and not few and t.chance(0.2)
        if sparse and "ema" not in self.twin.states[i] and not settings["cautious"] and not zeroed:
            count = t.size(30) if len(array) else 0
            values = t.normal((count, *array.shape[1:]), self.dtype, scale)
            indices = t.rng.integers(0, max(len(array), 1), count)
            return pyoptk.SparseRows(indices, t.place(values), array.shape)
        values = t.normal(array.shape, self.dtype, scale)
        if t.chance(0.04) and values.size:
            values.flat[t.rng.integers(values.size)] = t.pick([np.nan, np.inf, -np.inf, 0.0])
        if self.narrow and t.chance(0.6 if self.twin.halves[i] else 0.1):
            bfloat16 = self.keywords.get("dtype") and t.chance(0.8)
            values = reference.round_bfloat16(values) if bfloat16 else values.astype(np.float16)
        layout = "C" if zeroed else t.pick(READABLE)
        return t.place(values, "C" if layout == "subclass" and values.itemsize == 2 else layout)

    def wrong_gradients(self):
        """Gradients of which one thing is wrong, at least one element in size."""
        t, grads = self.t, [self.gradient(i) for i in range(len(self.arrays))]
        i = t.pick(range(len(grads)))
        array = self.arrays[i]
        kind = t.pick(["layout", "dtype", "shape", "overlap", "junk", "structure"])
        if kind == "layout" and array.size:
            grads[i] = t.place(t.normal(array.shape, self.dtype), t.pick(UNREADABLE))
        elif kind == "dtype":
            other = t.pick(["f8" if self.dtype == "f4" else "f4", "i4", "c8", "O", "?"])
            grads[i] = np.zeros(array.shape, other)
        elif kind == "overlap" and array.size:
            grads[i] = array
        elif kind == "structure":
            return t.pick(
                [[*grads, grads[0]], {"nothing": grads[0]}, None if len(grads) > 1 else 5]
            )
        elif kind == "junk":
            grads[i] = t.pick(["x", 5, 0.5, [1.0, 2.0, 3.0], {}, object(), np.array("a")])
        else:
            grads[i] = np.zeros((*array.shape, 3), self.dtype)
        return self.like(grads)

    def written(self, grads):
        zeroed = any(self.twin.settings(k)["zero_grad"] for k in range(len(self.arrays)))
        return [*self.arrays, *(g for g in grads if zeroed and isinstance(g, np.ndarray))]

    def zero(self, before, grads):
        """What `zero_grad` leaves of the gradients."""
        for i, grad in enumerate(grads):
            if isinstance(grad, np.ndarray):
                if self.twin.settings(i)["zero_grad"]:
                    before[i][...] = 0
                self.t.equal(f"gradient {i} after the step", np.array(grad), before[i])

    def compare(self):
        t, twin, opt = self.t, self.twin, self.opt
        for i, array in enumerate(self.arrays):
            half = twin.halves[i]
            exact = listed(opt.state_values("master"))[i] if half else array
            t.equal(f"{self.cls.__name__} param {i}", exact, twin.params[i])
            if half and twin.master == "float32":
                t.equal("its copy", wide(array), wide(rounded_like(array, exact)))
            for name, state in twin.states[i].items():
                t.equal(f"{self.cls.__name__} {name} {i}", listed(opt.state_values(name))[i], state)
        t.equal("steps", listed(opt.steps), twin.steps)
        t.equal("skipped", opt.skipped, twin.skipped)

    def step(self):
        """One right step, of the library and of the twin."""
        t, twin, opt = self.t, self.twin, self.opt
        grads = [self.gradient(i) for i in range(len(self.arrays))]
        before = [np.array(g) if isinstance(g, np.ndarray) else None for g in grads]
        norm = twin.exact_norm(grads)
        raises = not math.isfinite(norm) and twin.settings(0)["on_nonfinite"] == "raise"
        result = t.call(
            opt.step, self.like(grads), writes=self.written(grads), same=None, must=raises
        )
        if raises:
            return t.check(isinstance(result.error, FloatingPointError), repr(result))
        if opt.grad_norm is not None and math.isfinite(norm):
            near = abs(opt.grad_norm - norm) <= 1e-13 * norm
            t.check(near, f"grad_norm {opt.grad_norm!r} for {norm!r}")
        given = [b if b is not None else g for b, g in zip(before, grads, strict=True)]
        if twin.step(given, opt.grad_norm):
            self.zero(before, grads)
        self.compare()
        return None


def assign(t, model):
    """A hyper-parameter is set to something."""
    name = t.pick([*model.opt.hyper, "groups", "no_such"])
    value = draw_value(t, name, model.opt.hyper.get(name))
    value = value if t.chance(0.5) else junk(t.rng)
    if name == "no_such" or name == "groups":
        return  # AttributeError is Python's for it
    if not isinstance(t.call(setattr, model.opt, name, value, same=model.state), Refused):
        model.twin.hyper[name] = model.opt.hyper[name]


def resume(t, model):
    """The state goes into a new optimizer of the same parameters."""
    functions = any(callable(v) for v in model.opt.hyper.values())
    state = copied(dict(model.opt.state_dict()))
    if t.chance(0.3):
        name = t.pick(list(state))
        state[name] = junk(t.rng)
        t.call(model.opt.load_state_dict, state, same=model.state)
        model.twin = None
        return
    if functions:
        return
    model.opt.load_state_dict(state)
    t.equal("state after loading", model.state(), model.state())


def averaged(t, model):
    if "ema" not in model.opt.state:
        return
    with model.opt.averaged():
        for i, array in enumerate(model.arrays):
            average = rounded_like(array, model.twin.states[i]["ema"])
            t.equal("averages", wide(array), wide(average))
        t.call(model.opt.step, model.like([np.zeros_like(a) for a in model.arrays]), must=True)
    model.compare()


def optimizer(t):
    """Random optimizer, parameters and steps."""
    pyoptk.set_num_threads(t.pick([1, 1, 2, 3]))
    pyoptk.use_isa(t.pick([name for name, usable in pyoptk.isas().items() if usable]))
    model = Model(t, wrong=0.25)
    if not model.made:
        return
    repr(model.opt)
    for _ in range(t.pick([1, 2, 4])):
        what = t.rng.random()
        if what < 0.2:
            grads = model.wrong_gradients()
            t.call(model.opt.step, grads, same=model.state, must=True)
        elif what < 0.3:
            assign(t, model)
        elif what < 0.35:
            resume(t, model)
            if model.twin is None:
                return
        elif what < 0.4:
            averaged(t, model)
        model.step()


def construction(t):
    """Parameters that are wrong in one way, or junk."""
    cls, dtype = t.pick(CLASSES), np.dtype(t.pick(["f4", "f8"]))
    arrays = [t.place(t.normal(t.pick(SOLID), dtype)) for _ in range(t.pick([1, 2, 3]))]
    kind = t.pick(["layout", "overlap", "dtype", "junk", "twice"])
    must = True
    if kind == "layout":
        layout = t.pick([*UNREADABLE, "readonly", "strided", "broadcast"])
        arrays.append(t.place(t.normal((5, 4), dtype), layout))
        must = not arrays[-1].flags.c_contiguous or layout not in ("strided", "broadcast")
    elif kind == "overlap":
        whole = t.place(t.normal((40,), dtype))
        arrays += [whole[:21], whole[20:]]
    elif kind == "dtype":
        arrays.append(
            np.zeros(3, t.pick(["f2", "i4", "c8", "O", "?", "f8" if dtype == "f4" else "f4"]))
        )
    elif kind == "twice":
        arrays.append(arrays[0])
    else:
        arrays.append(junk(t.rng))
        must = None
    t.rng.shuffle(arrays)
    t.call(cls, arrays if t.chance(0.5) else dict(enumerate(arrays)), must=must)
    t.call(cls, junk(t.rng))
