"""An LSTM and its twin on the same input: what several test files compare."""

import numpy as np

import pyoptk
from pyoptk import reference
from pyoptk.rnn.weights import names_of


def case(rng, shape, dtype, **options):
    """A layer and the arguments of forward and backward, for T, B, I, H, L."""
    T, B, I, H, L = shape
    lstm = pyoptk.LSTM(I, H, L, dtype=dtype, rng=rng, **options)
    D = 2 if lstm.bidirectional else 1

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    state, dstate = ((draw(L * D, B, H), draw(L * D, B, H)) for _ in range(2))
    return lstm, draw(T, B, I), state, draw(T, B, D * H), dstate


def dropped(x, lstm, level, call):
    """The input [T, B, features] of this layer after dropout."""
    y = np.empty_like(x)
    if lstm.dropout == 0 or level == 0:
        return x
    stream = call * lstm.num_layers + level
    reference.dropout(x, y, lstm.dropout, seed=lstm.seed, stream=stream)
    return y


def by_twin(lstm, x, state, dy, dstate, lengths=None, past_end="zeros", call=0):
    """All results of forward and backward from the twin in float64, as a dict of arrays."""
    x, dy, state, dstate = (
        tuple(np.asarray(a, np.float64) for a in some) if isinstance(some, tuple) else
        some.astype(np.float64)
        for some in (x, dy, state, dstate)
    )  # fmt: skip
    lengths = None if lengths is None else np.asarray(lengths)
    repeat = {"repeat_last": past_end == "repeat"}
    directions = (False, True) if lstm.bidirectional else (False,)
    H, out = lstm.hidden_size, {"y": x}
    passes, last = [], []
    for level in range(lstm.num_layers):
        below, ys = dropped(out["y"], lstm, level, call), []
        for reverse in directions:
            i = len(passes)
            w = [lstm.params.get(name) for name in names_of(level, reverse)]
            w = [None if a is None else a.astype(np.float64) for a in w]
            saved = reference.lstm_forward(
                below, state[0][i], state[1][i], *w, lengths=lengths, reverse=reverse
            )
            passes.append((level, reverse, below, saved, w))
            last.append((saved[0][-1], saved[1][-1]))
            ys.append(reference.output(saved[0], lengths, reverse=reverse, **repeat))
        out["y"] = np.concatenate(ys, axis=2)
    out["h"], out["c"] = (np.stack([pair[k] for pair in last]) for k in range(2))
    out["dh0"], out["dc0"] = np.zeros_like(out["h"]), np.zeros_like(out["c"])
    slopes = {lstm.num_layers: dy}
    for i, (level, reverse, below, saved, w) in reversed(list(enumerate(passes))):
        columns = slice(H * reverse, H * reverse + H)
        dx, out["dh0"][i], out["dc0"][i], *dw, db = reference.lstm_backward(
            below, *saved, *w[:2], slopes[level + 1][:, :, columns], dstate[0][i], dstate[1][i],
            lengths, reverse=reverse, **repeat,
        )  # fmt: skip
        out |= dict(zip(names_of(level, reverse), (*dw, db, db), strict=True))
        slopes[level] = slopes.get(level, 0) + dx
        if not reverse:
            slopes[level] = dropped(slopes[level], lstm, level, call)
    return out | {"dx": slopes[0]}


def by_pyoptk(lstm, x, state, dy, dstate, lengths=None, past_end="zeros", **backward):
    y, (h, c) = lstm.forward(x, state, lengths=lengths, past_end=past_end)
    dx, dinitial = lstm.backward(dy, dstate, **backward)
    initial = {} if dinitial is None else dict(zip(("dh0", "dc0"), dinitial, strict=True))
    return (
        {"y": y, "h": h, "c": c, "dx": dx}
        | initial
        | {name: g.copy() for name, g in lstm.grads.items()}
    )


def assert_near(ours, exact, dtype):
    """Tolerances: forward 2e-6 absolute, gradients 1e-5 of their largest element; float64 1e-12."""
    single = dtype == np.float32
    for name, array in ours.items():
        assert array.dtype == dtype, name
        assert array.shape == exact[name].shape, name
        forward = name in ("y", "h", "c")
        limit = (2e-6 if forward else 1e-5) if single else 1e-12
        scale = 1.0 if forward else max(np.abs(exact[name]).max(initial=0), 1e-30)
        assert np.abs(array - exact[name]).max(initial=0) <= limit * scale, name
