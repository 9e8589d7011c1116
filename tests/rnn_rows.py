"""A recurrent layer and its twin on the same input: what several test files compare.

A cell is "LSTM", "GRU", "RNN tanh", "RNN relu" or one of `FORMS`. A state is what the layer takes:
h, or (h, c).
"""

import pickle

import numpy as np
import pytest
from conftest import USABLE

import pyoptk
from pyoptk import reference
from pyoptk.rnn.weights import names_of

FORMS = {
    "GRU before": {"reset_after": False},
    "LSTM peepholes": {"peepholes": True},
    "LSTM clipped": {"cell_clip": 0.3},
    "LSTM coupled": {"coupled": True},
    "LSTM all": {"peepholes": True, "coupled": True, "cell_clip": 0.3},
    "LSTM projected": {},
    "LSTM normed": {"layer_norm": True},
    "GRU normed": {"layer_norm": True},
}
OWN = ("peepholes", "projection", "gain_ih", "gain_hh", "gain_c", "bias_c")  # of some cells
PROJECTED = ("LSTM all", "LSTM projected")  # to half as many features
PER_ROW = ("y", "h", "c", "dx", "dh0", "dc0")  # results [., B, .]
LENGTHS = [3, 9, 0, 1, 9, 5, 2]
# T, B, I, H, L; keywords of the layer; keywords of forward
ROWS = {
    "bidirectional": ((5, 3, 4, 9, 1), {"bidirectional": True}, {}),
    "bidirectional, many rows": ((7, 33, 65, 63, 1), {"bidirectional": True}, {}),
    "bidirectional, large": ((5, 9, 20, 260, 1), {"bidirectional": True}, {}),
    "three bidirectional": ((6, 5, 3, 17, 3), {"bidirectional": True}, {}),
    "no bias": ((4, 3, 5, 6, 2), {"bidirectional": True, "bias": False}, {}),
    "lengths": ((9, 7, 3, 37, 2), {"bidirectional": True}, {"lengths": LENGTHS}),
    "repeat": ((9, 7, 3, 37, 2), {}, {"lengths": LENGTHS, "past_end": "repeat"}),
    "both repeat": (
        (9, 7, 3, 37, 2),
        {"bidirectional": True},
        {"lengths": LENGTHS, "past_end": "repeat"},
    ),
    "minimal": ((9, 7, 3, 37, 2), {"save": "minimal"}, {}),
    "minimal, long": ((70, 2, 3, 10, 2), {"save": "minimal", "bidirectional": True}, {}),
    "minimal, lengths": ((9, 7, 3, 37, 2), {"save": "minimal"}, {"lengths": LENGTHS}),
    "dropout": ((6, 5, 4, 19, 2), {"dropout": 0.3}, {}),
    "dropout, three": ((6, 33, 4, 65, 3), {"dropout": 0.3, "seed": 7}, {}),
    "all": (
        (9, 7, 3, 40, 4),
        {"dropout": 0.5, "bidirectional": True, "save": "minimal"},
        {"lengths": LENGTHS, "past_end": "repeat"},
    ),
}

on_every_isa = pytest.mark.parametrize("isa", USABLE, indirect=True)  # on top: changes first
_last_two = {}


def layer_of(cell, *sizes, **options):
    """A layer of this cell."""
    kind, _, form = cell.partition(" ")
    if form:
        options |= FORMS.get(cell, {"nonlinearity": form})
    if cell in PROJECTED:
        options["proj_size"] = sizes[1] // 2
    return getattr(pyoptk, kind)(*sizes, **options)


def width_of(layer):
    """The number of features of h."""
    return getattr(layer, "proj_size", 0) or layer.hidden_size


def arrays_of(state):
    """The arrays of a state: one or two."""
    return state if isinstance(state, tuple) else (state,)


def each(function, state):
    """A state with this function of each array."""
    if isinstance(state, tuple):
        return tuple(function(array) for array in state)
    return function(state)


def case(rng, shape, dtype, cell="LSTM", **options):
    """A layer and the arguments of forward and backward, for T, B, I, H, L."""
    T, B, I, H, L = shape
    layer = layer_of(cell, I, H, L, dtype=dtype, rng=rng, **options)
    for name, array in layer.params.items():
        if layer.layer_norm and not name.startswith("weight"):  # else gains are 1, biases 0
            array += rng.uniform(-0.5, 0.5, array.shape)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def draw_state():
        h = draw(L * layer.directions, B, width_of(layer))
        return (h, draw(*h.shape[:2], H)) if cell.startswith("LSTM") else h

    state, dstate = draw_state(), draw_state()
    return layer, draw(T, B, I), state, draw(T, B, layer.directions * width_of(layer)), dstate


def loss_of(layer, x, state, dy, dstate, **call):
    """A number whose gradients backward gives for dy and dstate."""
    y, last = layer.forward(x, state, **call)
    pairs = zip(arrays_of(last), arrays_of(dstate), strict=True)
    return np.sum(y * dy) + sum(np.sum(s * d) for s, d in pairs)


def inputs_of(layer, x, state):
    """The arrays that the loss depends on, by the names of their gradients."""
    return {"dx": x, **dict(zip(("dh0", "dc0"), arrays_of(state), strict=False)), **layer.params}


def dropped(x, layer, level, call):
    """The input [T, B, features] of this level after dropout."""
    y = np.empty_like(x)
    if layer.dropout == 0 or level == 0:
        return x
    stream = call * layer.num_layers + level
    reference.dropout(x, y, layer.dropout, seed=layer.seed, stream=stream)
    return y


def normed_twins(kind):
    """The same for the layer-normalized "lstm" or "gru"."""
    names = [f"{kind}_normed_{part}" for part in ("forward", "backward", "step")]
    forward, backward, step = (getattr(reference, name) for name in names)

    def take(x, state, *weights):
        own = dict(zip(OWN[2:], weights[-(4 if kind == "lstm" else 2) :], strict=False))
        found = step(x, *state, *weights[:4], **own)
        return found if isinstance(found, tuple) else (found,)

    return (
        lambda x, state, *a, **k: forward(x, *state, *a, **k),
        lambda x, saved, w, dy, dstate, *a, **k: backward(x, *saved, *w, dy, *dstate, *a, **k),
        take,
    )


def twins_of(layer):
    """forward(x, state, *weights) -> h and what else it saves; backward(...); step(...)."""
    if layer.layer_norm:
        return normed_twins(type(layer).__name__.lower())
    if isinstance(layer, pyoptk.LSTM):
        how = {"coupled": layer.coupled, "cell_clip": layer.cell_clip}
        return (
            lambda x, state, *a, **k: reference.lstm_forward(x, *state, *a, **how, **k),
            lambda x, saved, w, dy, dstate, *a, **k: reference.lstm_backward(
                x, *saved, *w, dy, *dstate, *a, **how, **k
            ),
            lambda x, state, *a, **k: reference.lstm_step(
                x,
                *state,
                *a[:4],
                **how,
                peepholes=a[4] if layer.peepholes else None,
                projection=a[-1] if layer.proj_size else None,
                **k,
            ),
        )
    if isinstance(layer, pyoptk.GRU):
        after = {"reset_after": layer.reset_after}
        return (
            lambda x, state, *a, **k: reference.gru_forward(x, *state, *a, **after, **k),
            lambda x, saved, w, dy, dstate, *a, **k: reference.gru_backward(
                x, *saved, *w, dy, *dstate, *a, **after, **k
            ),
            lambda x, state, *a, **k: (reference.gru_step(x, *state, *a, **after, **k),),
        )
    relu = {"relu": layer.nonlinearity == "relu"}
    return (
        lambda x, state, *a, **k: (reference.rnn_forward(x, *state, *a, **relu, **k),),
        lambda x, saved, w, dy, dstate, *a, **k: reference.rnn_backward(
            x, *saved, *w, dy, *dstate, *a, **relu, **k
        ),
        lambda x, state, *a, **k: (reference.rnn_step(x, *state, *a, **relu, **k),),
    )


def masks_of(layer, T, B, i, call):
    """Those of the i-th direction of all levels, as the twins take them."""
    count = layer.num_layers * layer.directions
    return reference.masks(
        T, B, width_of(layer), layer.hidden_size, seed=layer.seed, stream=call * count + i,
        recurrent_dropout=layer.recurrent_dropout, zoneout=layer.zoneout_rates,
        drop_candidate=layer.recurrent_dropout_of == "candidate",
    )  # fmt: skip


def by_twin(*arguments, **call):
    """All results of forward and backward from the twin in float64, as a dict of arrays.

    Those of the last two arguments are remembered: see `on_every_isa`.
    """
    key = pickle.dumps((arguments, call))
    if key not in _last_two:
        found = computed_by_twin(*arguments, **call)
        while len(_last_two) > 1:
            del _last_two[next(iter(_last_two))]
        _last_two[key] = found
    return dict(_last_two[key])


def computed_by_twin(
    layer, x, state, dy, dstate, lengths=None, past_end="zeros", call=0, resets=None,
    reset_to="zeros",
):  # fmt: skip
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    state, dstate = (
        [np.asarray(a, np.float64) for a in arrays_of(some)] for some in (state, dstate)
    )
    forward, backward, _ = twins_of(layer)
    lengths = None if lengths is None else np.asarray(lengths)
    repeat = {"repeat_last": past_end == "repeat"}
    new = {"resets": resets, "reset_to_initial": reset_to == "initial"}
    new |= {} if layer.layer_norm else {"compute": layer.compute}
    R, n, out, passes, last = width_of(layer), len(state), {"y": x}, [], []
    for level in range(layer.num_layers):
        below, ys = dropped(out["y"], layer, level, call), []
        for reverse in range(layer.directions):
            i = len(passes)
            w = [layer.params.get(name) for name in names_of(level, bool(reverse))]
            w = [None if a is None else a.astype(np.float64) for a in w]
            own = {name: a for name, a in zip(OWN, w[4:], strict=True) if a is not None}
            w = w[:4]
            own |= masks_of(layer, *x.shape[:2], i, call)
            how = {"lengths": lengths, "reverse": bool(reverse)}
            saved = forward(below, [s[i] for s in state], *w, **how, **new, **own)
            passes.append((level, reverse, below, saved, w, own))
            last.append([array[-1] for array in saved[:n]])
            ys.append(reference.output(saved[0], **how, **repeat))
        out["y"] = np.concatenate(ys, axis=2)
    for k in range(n):
        out["hc"[k]] = np.stack([arrays[k] for arrays in last])
        out["d" + "hc"[k] + "0"] = np.zeros_like(out["hc"[k]])
    d_below = {layer.num_layers: dy}
    for i, (level, reverse, below, saved, w, own) in reversed(list(enumerate(passes))):
        given = own.keys() & {*OWN}
        d_own = {f"d{name}": np.empty_like(own[name]) for name in given}
        columns = slice(R * reverse, R * reverse + R)
        dx, *rest = backward(
            below, saved, w[:2], d_below[level + 1][:, :, columns], [s[i] for s in dstate],
            lengths, reverse=bool(reverse), **repeat, **new, **own, **d_own,
        )  # fmt: skip
        for k in range(n):
            out["d" + "hc"[k] + "0"][i] = rest[k]
        # One gradient of both biases, or two.
        dw = *(*rest[n:], rest[-1])[:4], *(d_own.get(f"d{name}") for name in OWN)
        out |= dict(zip(names_of(level, bool(reverse)), dw, strict=False))
        d_below[level] = d_below.get(level, 0) + dx
        if not reverse:
            d_below[level] = dropped(d_below[level], layer, level, call)
    return out | {"dx": d_below[0]}


def by_pyoptk(
    layer, x, state, dy, dstate, lengths=None, past_end="zeros", resets=None, reset_to="zeros",
    **backward,
):  # fmt: skip
    y, last = layer.forward(
        x, state, lengths=lengths, past_end=past_end, resets=resets, reset_to=reset_to
    )
    dx, first = layer.backward(dy, dstate, **backward)
    initial = () if first is None else arrays_of(first)
    return (
        {"y": y, "dx": dx}
        | dict(zip(("h", "c"), arrays_of(last), strict=False))
        | dict(zip(("dh0", "dc0"), initial, strict=False))
        | {name: g.copy() for name, g in layer.grads.items()}
    )


def assert_near(ours, exact, dtype):
    """Tolerances: forward 2e-6 absolute, gradients 1e-5 of their largest element; float64 1e-12.

    Where an output is larger than 1, as relu's may be, 2e-6 of the largest. In layer-normalized
    cells pre-activations are large from the start, so that rounding grows from step to step: five
    times as much. A gradient that passes through a normalization is a difference: there the largest
    element of all gradients counts.
    """
    single = dtype == np.float32
    of_all = [np.abs(exact[name]).max(initial=0) for name in {*ours} - {"y", "h", "c"}]
    normed = "gain_ih_l0" in ours
    least = max(of_all) if normed else 0
    for name, array in ours.items():
        assert array.dtype == dtype, name
        assert array.shape == exact[name].shape, name
        largest = np.abs(exact[name]).max(initial=0)
        forward = name in ("y", "h", "c")
        limit = (2e-6 if forward else 1e-5) * (5 if normed else 1) if single else 1e-12
        scale = max(largest, 1.0) if forward else max(largest, least, 1e-30)
        assert np.abs(array - exact[name]).max(initial=0) <= limit * scale, name


def assert_near_differences(layer, x, state, d, call, rng, step=1e-5, limit=1e-7):
    """Compare both passes with central differences along one direction of each input.

    The dropout counter is set back, so that every call gets the same masks.
    """

    def loss():
        layer.__dict__["dropout_calls"] = 0
        return loss_of(layer, x, state, *d, **call)

    ours = by_pyoptk(layer, x, state, *d, **call)
    for name, array in inputs_of(layer, x, state).items():
        direction, at = rng.standard_normal(array.shape), array.copy()
        array += step * direction
        up = loss()
        array[...] = at - step * direction
        numeric = (up - loss()) / (2 * step)
        array[...] = at
        exact = np.sum(ours[name] * direction)
        assert abs(exact - numeric) <= limit * max(np.abs(ours[name]).sum(), 1), name


# ---- PyTorch -------------------------------------------------------------------------------------


def torch_layer(torch, layer):
    """PyTorch's layer with the same settings and weights; skips a test of a cell that it lacks."""
    if layer.cell not in ("lstm", "gru", "rnn"):
        pytest.skip("PyTorch has no such cell")
    names = ("bias", "batch_first", "bidirectional", "dropout", "nonlinearity", "proj_size")
    settings = {name: getattr(layer, name) for name in names if name in layer._arguments}
    theirs = getattr(torch.nn, type(layer).__name__)(
        layer.input_size, layer.hidden_size, layer.num_layers,
        dtype=getattr(torch, layer.dtype.name), **settings,
    )  # fmt: skip
    theirs.load_state_dict({n: torch.from_numpy(a) for n, a in layer.to_torch().items()})
    return theirs


def torch_results(theirs, y, last, inputs):
    """As by_pyoptk, after autograd's backward."""
    found = {"y": y, **dict(zip(("h", "c"), arrays_of(last), strict=False))}
    found |= {n: a.grad for n, a in zip(("dx", "dh0", "dc0"), inputs, strict=False)}
    found |= {name: weight.grad for name, weight in theirs.named_parameters()}
    return {name: array.detach().numpy() for name, array in found.items()}
