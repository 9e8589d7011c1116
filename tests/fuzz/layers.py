"""Recurrent layers with every option against their twin, with wrong calls in between."""

import numpy as np
from rnn_rows import arrays_of, by_twin

import pyoptk

from .arrays import READABLE, UNREADABLE, junk
from .trial import Fault, Refused

CELLS = [getattr(pyoptk.rnn, name) for name in pyoptk.rnn.__all__]
# Outputs, gradients. Those of bfloat16 may be rounded otherwise than in the twin.
# Of bfloat16: where a rounding falls the other way, a plain RNN makes it grow from step to step.
LIMITS = {"float32": (4e-6, 4e-5), "float64": (1e-13, 1e-11), "bfloat16": (4e-2, 8e-2)}


class Layer:
    """A layer of random options; its twin is `rnn_rows.by_twin`."""

    def __init__(self, t):
        self.t = t
        self.I, self.H, self.L = t.size(20) + 1, t.size(40) + 1, t.pick([1, 1, 2, 3])
        self.dtype = np.dtype(t.pick(["f4", "f4", "f8"]))
        self.options = {
            "bias": t.chance(0.8),
            "batch_first": t.chance(0.3),
            "bidirectional": t.chance(0.3),
            "save": t.pick(["full", "full", "minimal"]),
            "init": t.pick(["torch", "keras"]),
        }
        if self.L > 1 and t.chance(0.4):
            self.options |= {"dropout": t.pick([0.1, 0.5]), "seed": t.pick([0, 5, 2**64 - 1])}
        cell = t.pick(CELLS)
        if "layer_norm" in cell._arguments and t.chance(0.3):
            self.options["layer_norm"] = True
            self.H += 3  # of two units, one that is close to the other loses all its bits
        elif self.dtype == np.float32 and t.chance(0.2):
            self.options["compute"] = "bfloat16"
        self.layer = cell(
            self.I, self.H, self.L, dtype=self.dtype, rng=np.random.default_rng(3), **self.options
        )
        self.D = 2 if self.layer.bidirectional else 1
        # NumPy's float32 is as far off: rounding grows from step to step.
        self.times = 100 if self.layer.layer_norm else 1
        nothing = np.zeros(self.axes(0, 0, self.I), self.dtype)
        self.is_pair = isinstance(self.layer.forward(nothing, train=False)[1], tuple)

    def axes(self, T, B, features):
        return (B, T, features) if self.layer.batch_first else (T, B, features)

    def by_time(self, array):
        return array.swapaxes(0, 1) if self.layer.batch_first and array is not None else array

    def state(self):
        layer = self.layer
        kept = {
            n: np.array(v) if isinstance(v, np.ndarray) else v
            for n, v in layer.state_dict().items()
        }
        return kept | {"grads": np.array(layer.flat_grads), "calls": layer.dropout_calls}

    def random_state(self, B):
        """h, or (h, c)."""
        shape = (self.L * self.D, B, self.H)
        arrays = tuple(
            self.t.place(self.t.normal(shape, self.dtype), self.t.pick(READABLE)) for _ in range(2)
        )
        return arrays if self.is_pair else arrays[0]

    def out(self, shape):
        """An array to write a result to, features adjacent; or None."""
        if self.t.chance(0.7):
            return None
        return self.t.place(np.ones(shape, self.dtype), self.t.pick(["C", "rows"]))


def largest(arrays):
    return max(np.abs(a).max(initial=0) for a in arrays)


def near(t, one, what, ours, theirs, scale=1.0):
    """Within the limits of the layer, relative to the scale or to the largest element.

    The scale of a gradient is the largest element of all: a single one, such as that of a weight of
    one element, may be a sum of almost nothing.
    """
    forward = what in ("y", "h", "c")
    dtype = one.dtype
    limit = LIMITS[one.layer.compute or dtype.name][not forward] * one.times
    scale = max(largest([theirs]), scale, 1e-30)
    if ours.dtype != dtype or ours.shape != theirs.shape:
        raise Fault(f"{what}: {ours.dtype} {ours.shape} for {dtype} {theirs.shape}")
    error = np.abs(ours - theirs).max(initial=0) / scale
    t.check(error <= limit, f"{what}: off by {error:.2e} of the scale, limit {limit:.0e}")


def wrong_forward(t, one, x, B, T):
    """A forward of which one thing is wrong: refused, and what was due stays due."""
    layer, given = one.layer, {}
    kind = t.pick(["x", "shape", "dtype", "state", "lengths", "out", "junk", "huge"])
    shape = one.axes(T, B, one.D * one.H)
    must = True
    if kind == "x" and x.size:
        x = t.place(np.array(x), t.pick(UNREADABLE))
    elif kind == "dtype":
        x = np.array(x).astype("f8" if one.dtype == "f4" else "f4")
    elif kind == "state":
        state = list(arrays_of(one.random_state(B)))
        state[t.pick(range(len(state)))] = t.pick(
            [np.zeros((one.L * one.D, B + 1, one.H), one.dtype), 5, "x"]
        )
        given["state"] = t.pick([state, state[:1], 3])
    elif kind == "lengths":
        given["lengths"] = t.pick(
            [
                [T + 1] * B or [1],
                [-1] * B or [1],
                [0.5] * B,
                "x",
                np.zeros((B, 1), int),
                [1] * (B + 1),
                [[1], [1, 2]],
            ]
        )
        must = True if B else None
    elif kind == "out" and min(shape) > 1:
        strided = np.lib.stride_tricks.as_strided
        given["out"] = t.pick(
            [
                np.ones((*shape[:2], shape[2] + 1), one.dtype),
                x if one.D * one.H == one.I else 5,
                t.place(np.ones(shape, one.dtype), "readonly"),
                strided(t.place(np.ones(shape[2], one.dtype)), shape, (0, 0, one.dtype.itemsize)),
                strided(
                    t.place(np.ones(shape[2] * 2 + shape[0] * 2 + shape[1] * 2, one.dtype)),
                    shape,
                    (one.dtype.itemsize,) * 3,
                ),
            ]
        )
    elif kind == "junk":
        given[t.pick(["state", "lengths", "past_end", "train", "out"])] = junk(t.rng)
        must = None
    elif kind == "huge":
        many = t.pick([(2**40, 2), (2**48, 16), (2**20, 2**24), (3, 2**44)])
        x = np.lib.stride_tricks.as_strided(
            np.zeros(one.I, one.dtype), (*many, one.I), (0, 0, one.dtype.itemsize)
        )
    else:
        x = np.zeros((*x.shape[:2], one.I + 1), one.dtype)
    result = t.call(layer.forward, x, same=one.state if must else None, must=must, **given)
    return isinstance(result, Refused)


def wrong_backward(t, one, dy, B):
    kind = t.pick(["layout", "shape", "state", "junk", "out"])
    given = {}
    if kind == "layout" and dy.size:
        dy = t.place(np.array(dy), t.pick(UNREADABLE))
    elif kind == "state":
        given["dstate"] = t.pick([5, (np.zeros(3, one.dtype),) * 2, "x"])
    elif kind == "junk":
        given[t.pick(["accumulate", "need_dx"])] = t.pick([None, 5, "x", [], 0.5])
    elif kind == "out":
        given["out"] = t.pick(
            [5, np.zeros(3, one.dtype), t.place(np.zeros(7, one.dtype), "readonly")]
        )
    else:
        dy = np.zeros((*dy.shape[:2], 3 * one.H), one.dtype)
    t.call(one.layer.backward, dy, same=one.state, must=True, **given)


def layer(t):
    """Forward and backward of random shapes, compared with the twin."""
    pyoptk.set_num_threads(t.pick([1, 1, 2, 3]))
    pyoptk.use_isa(t.pick([name for name, usable in pyoptk.isas().items() if usable]))
    one = Layer(t)
    for _ in range(t.pick([1, 2, 3])):
        T, B = t.size(12), t.size(12)
        if not once(t, one, T, B):
            return
    stream(t, one)


def passes_of_twin(one, x, state, dy, dstate, B, **options):
    """What both passes of the twin give; a state that is None is one of zeros."""
    zeros = np.zeros((one.L * one.D, B, one.H), one.dtype)
    zeros = (zeros, zeros) if one.is_pair else zeros
    state, dstate = (zeros if s is None else s for s in (state, dstate))
    return by_twin(
        one.layer, one.by_time(np.array(x)), state, one.by_time(np.array(dy)), dstate, **options
    )


def random_options(t, T, B):
    """Of forward; resets [T, B]."""
    return {
        "lengths": t.rng.integers(0, T + 1, B) if t.chance(0.4) else None,
        "past_end": t.pick(["zeros", "repeat"]),
        "resets": t.rng.random((T, B)) < 0.2 if t.chance(0.3) else None,
        "reset_to": t.pick(["zeros", "initial"]),
    }


def once(t, one, T, B):
    """Both passes; whether to go on."""
    layer, dtype = one.layer, one.dtype
    x = t.place(t.normal(one.axes(T, B, one.I), dtype), t.pick(READABLE))
    state = one.random_state(B) if t.chance(0.5) else None
    options = random_options(t, T, B)
    if t.chance(0.15) and not wrong_forward(t, one, x, B, T):
        return False
    call, out = layer.dropout_calls, one.out(one.axes(T, B, one.D * one.H))
    y, last = t.call(
        layer.forward,
        x,
        state,
        **options | {"resets": one.by_time(options["resets"])},
        out=out,
        must=False,
        writes=[] if out is None else [out],
    )
    t.check(out is None or y is out, "y is not out")
    y = np.array(y)
    if t.chance(0.15) and not wrong_forward(t, one, x, B, T):
        return False
    if t.chance(0.2):
        t.call(layer.forward, x, train=False, must=False)
    dy = t.place(t.normal(y.shape, dtype), t.pick(READABLE))
    dstate = one.random_state(B) if t.chance(0.5) else None
    if t.chance(0.15):
        wrong_backward(t, one, dy, B)
    accumulate, need_dx = t.chance(0.3), t.chance(0.8)
    before = {name: np.array(g) for name, g in layer.grads.items()}
    out = one.out(x.shape) if need_dx else None
    dx, first = t.call(
        layer.backward,
        dy,
        dstate,
        accumulate=accumulate,
        need_dx=need_dx,
        out=out,
        must=False,
        writes=[] if out is None else [out],
    )
    exact = passes_of_twin(one, x, state, dy, dstate, B, call=call, **options)
    ours = (
        {"y": one.by_time(y)}
        | dict(zip(("h", "c"), arrays_of(last), strict=False))
        | ({"dx": one.by_time(dx)} if need_dx else {})
    )
    ours |= {} if first is None else dict(zip(("dh0", "dc0"), arrays_of(first), strict=False))
    t.check((first is None) == (state is None), "the gradient of the first state")
    for name, grad in layer.grads.items():
        ours[name] = grad
        exact[name] = exact[name] + (before[name] if accumulate else 0)
    scale = largest(exact[name] for name in layer.grads)
    for name, array in ours.items():
        near(t, one, name, array, exact[name], 1.0 if name in ("y", "h", "c") else scale)
    t.call(layer.backward, dy, same=one.state, must=True)
    return True


def stream(t, one):
    """Single steps against `forward` of one step."""
    B, layer = t.size(9), one.layer
    x = t.place(t.normal((B, one.I), one.dtype), t.pick(READABLE))
    state = one.random_state(B) if t.chance(0.7) else None
    if layer.bidirectional:
        t.call(layer.step, x, state, must=True)
        return
    y, last = t.call(layer.step, x, state, must=False)
    whole = x[:, None] if layer.batch_first else x[None]
    exact, exact_last = layer.forward(np.array(whole), state, train=False)
    near(t, one, "y", y, exact.reshape(y.shape))
    for ours, theirs in zip(arrays_of(last), arrays_of(exact_last), strict=True):
        near(t, one, "h", ours, theirs)
    t.call(layer.step, t.pick([5, x[:, :0], np.zeros((B, one.I + 1), one.dtype), "x"]), must=True)
    t.call(layer.step, x, junk(t.rng))


def weights(t):
    """Weights go to another library's form and back; junk is refused."""
    one = Layer(t)
    layer, cls = one.layer, type(one.layer)
    library = t.pick([n.removeprefix("to_") for n in dir(cls) if n.startswith("to_")])
    if layer.layer_norm:  # others do not have it
        t.call(getattr(layer, f"to_{library}"), same=one.state, must=True)
        return
    given = getattr(layer, f"to_{library}")()
    make = getattr(cls, f"from_{library}")
    extra = {"bidirectional": True} if library == "keras" and one.D == 2 else {}
    arguments = [given] if isinstance(given, dict) else list(given)
    back = t.call(make, *arguments, must=False, **extra)
    again = getattr(back, f"to_{library}")()
    t.equal(
        "weights",
        dict(enumerate([again] if isinstance(again, dict) else again)),
        dict(enumerate(arguments)),
    )
    if t.chance(0.5):
        arguments[t.pick(range(len(arguments)))] = junk(t.rng)
    elif isinstance(given, dict):
        name = t.pick(list(given))
        worse = dict(given)
        worse[t.pick([name, "more"])] = junk(t.rng)
        arguments = [worse]
    else:
        extra[t.pick(["batch_first", "dropout", "seed", "save", "bidirectional"])] = junk(t.rng)
    t.call(make, *arguments, **extra)
    state = dict(layer.state_dict())
    state[t.pick(list(state))] = junk(t.rng)
    t.call(layer.load_state_dict, state, same=one.state)


def making(t):
    """A layer of which one argument is junk."""
    given = {
        "input_size": 3,
        "hidden_size": 4,
        "num_layers": t.pick([1, 2]),
        "bias": True,
        "batch_first": False,
        "bidirectional": False,
        "dropout": 0.0,
        "seed": None,
        "save": "full",
        "dtype": np.float32,
        "init": "torch",
        "rng": None,
    }
    name = t.pick(list(given))
    given[name] = junk(t.rng)
    made = t.call(t.pick(CELLS), **given)
    if not isinstance(made, Refused) and made.flat_params.size < 10**6:
        t.call(made.forward, np.zeros((2, 1, made.input_size), made.dtype), must=False)
        repr(made)
