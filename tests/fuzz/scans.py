"""Linear recurrences: arrays of every layout, values right and wrong."""

import numpy as np

import pyoptk
from pyoptk import kernels, reference

from .arrays import UNREADABLE, junk
from .trial import Refused


def scan(t):
    """Both passes of a linear recurrence of random shapes against the twin."""
    pyoptk.set_num_threads(t.pick([1, 1, 2, 3]))
    shape, dtype = (t.size(12), t.size(5), t.size(70)), np.dtype(t.pick(["f4", "f8"]))
    T, B, D = shape
    values = {name: t.rng.uniform(-1, 1, shape).astype(dtype) for name in ("a", "b", "dh")}
    h0 = t.rng.uniform(-1, 1, (B, D)).astype(dtype) if t.chance(0.5) else None
    resets = t.rng.random((T, B)) < 0.3 if t.chance(0.5) else None
    how = {"reverse": t.chance(0.5), "resets": resets}
    a, b, dh = (t.place(value, t.pick(["C", "rows"])) for value in values.values())
    start, must = None if h0 is None else t.place(h0), False
    kind = t.pick(["right", "right", "right", "layout", "shape", "resets", "h0", "reverse"])
    if kind == "layout" and a.size > 1:
        b, must = t.place(values["b"], t.pick(UNREADABLE)), True
    elif kind == "shape":
        a, must = t.place(t.normal((T + 1, B, D), dtype)), True
    elif kind in ("resets", "reverse"):
        how[kind], must = junk(t.rng), None
    elif kind == "h0":
        start, must = junk(t.rng), None
    h = t.pick([a, b]) if t.chance(0.2) else t.place(np.ones(shape, dtype), t.pick(["C", "rows"]))
    result = t.call(kernels.linear_scan_forward, a, b, h, start, **how, writes=[h], must=must)
    if isinstance(result, Refused) or must is not False:
        return
    near = {"rtol": 0, "atol": 16 * np.finfo(dtype).eps}
    h_twin = np.empty(shape, dtype)
    reference.linear_scan_forward(values["a"], values["b"], h_twin, h0, **how)
    t.check(np.allclose(h, h_twin, **near), "h is far off")
    a = t.place(values["a"])
    da = a if t.chance(0.2) else t.place(np.ones(shape, dtype), t.pick(["C", "rows"]))
    db = dh if t.chance(0.2) else t.place(np.ones(shape, dtype), t.pick(["C", "rows"]))
    dh0 = None if h0 is None else t.place(np.ones((B, D), dtype))
    given = (a, h, dh, da, db, start, dh0)
    writes = [array for array in (da, db, dh0) if array is not None]
    t.call(kernels.linear_scan_backward, *given, **how, writes=writes, must=False)
    twins = [np.empty_like(values["a"]), np.empty_like(values["a"])]
    twins += [] if h0 is None else [np.empty_like(h0)]
    reference.linear_scan_backward(
        values["a"], h_twin, values["dh"], *twins[:2], h0, *twins[2:], **how
    )
    for ours, theirs in zip(writes, twins, strict=True):
        t.check(np.allclose(ours, theirs, **near), "a gradient is far off")


def minimal(t):
    """Both passes of a minGRU or minLSTM of random shapes against the twin."""
    T, B, I, H = t.size(12), t.size(6), 1 + t.size(8), 1 + t.size(40)
    dtype, cls = np.dtype(t.pick(["f4", "f8"])), t.pick([pyoptk.minGRU, pyoptk.minLSTM])
    settings = {"bias": t.chance(0.7), "positive": t.chance(0.5)}
    layer = cls(I, H, dtype=dtype, rng=t.rng, **settings)
    values, dy = t.normal((T, B, I), dtype, 1.0), t.normal((T, B, H), dtype, 1.0)
    state, dstate = t.rng.uniform(-1, 1, (2, 1, B, H)).astype(dtype)
    how = {"resets": t.rng.random((T, B)) < 0.3} if t.chance(0.5) else {}
    how |= {"lengths": t.rng.integers(0, T + 1, B)} if t.chance(0.5) else {}
    kind, x = t.pick(["right", "right", "right", "x", "resets", "lengths"]), t.place(values)
    if kind == "x":
        x = junk(t.rng)
    elif kind != "right":
        how[kind] = junk(t.rng)
    must = False if kind == "right" else None
    result = t.call(layer.forward, x, t.place(state), **how, must=must)
    if isinstance(result, Refused) or must is None:
        return
    gradients = t.call(layer.backward, t.place(dy), t.place(dstate), must=False)
    ours = [result[1], gradients[0], gradients[1], *layer.grads.values()]
    weights = [layer.params[f"weight_{gate}_l0"] for gate in layer.parts]
    biases = [layer.params[f"bias_{gate}_l0"] for gate in layer.parts] if layer.bias else None
    how["positive"] = layer.positive
    forward, backward = (
        getattr(reference, f"{cls.__name__.lower()}_{part}") for part in ("forward", "backward")
    )
    with np.errstate(all="ignore"):
        h = forward(values, state[0], weights, biases, **how)
        dx, dh0, dw, db = backward(values, h, weights, biases, dy, dstate[0], **how)
    theirs = [h[-1:], dx, dh0[None], *dw, *(db if layer.bias else ())]
    finite = all(np.isfinite(array).all() for array in (values, dy))
    for mine, twin in zip(ours, theirs, strict=True):
        near = np.allclose(mine, twin, rtol=1e-3, atol=1e4 * np.finfo(dtype).eps)
        t.check(near or not finite, f"{cls.__name__} {T, B, I, H} {how} is far off")
