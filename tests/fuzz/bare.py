"""The bare kernels, clipping and schedules: arrays of every layout, values right and wrong."""

import inspect
import math

import numpy as np

import pyoptk
from pyoptk import kernels, reference, schedules

from .arrays import UNREADABLE, junk
from .optimizers import SHAPES
from .settings import RIGHT
from .trial import Refused

RULES = [
    name
    for name in kernels.__all__
    if "step" in inspect.signature(getattr(kernels, name)).parameters
]
ULP = {"exp": 1.01, "sigmoid": 2.6, "tanh": 1.6}  # as the docstrings promise


def _hyper(t, function):
    """Some keywords of a bare kernel; whether they are right."""
    given, right = {}, True
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in ("step", "cautious"):
            continue
        default = parameter.default
        if isinstance(default, bool):
            given[name] = t.chance(0.3)
        else:
            value = t.pick(RIGHT.get(name, [default]))
            given[name] = default if value is None else value
    given["step"] = t.pick([1, 1, 2, 5, 1000])
    if t.chance(0.1):
        given[t.pick(list(given))] = junk(t.rng)
        right = False
    return given, right


def rule(t):
    """A bare optimizer kernel: the twin's bits, or refused."""
    name = t.pick(RULES)
    function, twin = getattr(kernels, name), getattr(reference, name)
    positional = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    optional = [p.name for p in positional if p.default is None]
    dtype, shape = np.dtype(t.pick(["f4", "f8"])), t.pick(SHAPES)
    given, right = _hyper(t, function)
    arrays = {p.name: t.place(np.abs(t.normal(shape, dtype))) for p in positional}
    arrays["grad"] = t.place(t.normal(shape, dtype, 0.1))
    for name_ in optional:
        if t.chance(0.1):
            del arrays[name_]
    wrong = t.chance(0.15)
    if wrong and arrays["param"].size > 1:
        which = t.pick([n for n in arrays if n not in optional])
        kind = t.pick(["layout", "shape", "same", "dtype"])
        if kind == "layout":
            arrays[which] = t.place(t.normal(shape, dtype), t.pick(UNREADABLE))
        elif kind == "shape":
            arrays[which] = t.place(t.normal((*shape, 2), dtype))
        elif kind == "same":
            arrays[which] = arrays[t.pick([n for n in arrays if n != which and n not in optional])]
        else:
            arrays[which] = arrays[which].astype(t.pick(["f2", "i4", "c8"]))
    wrong &= arrays["param"].size > 1
    before = {n: np.array(a, copy=True) for n, a in arrays.items()}
    result = t.call(
        function,
        *_positional(positional, arrays),
        **given,
        must=True if wrong else None,
        writes=[a for n, a in arrays.items() if n != "grad"],
    )
    if isinstance(result, Refused) or wrong or not right:
        return
    common = {"grad_scale": 1.0, "clip_value": None, "cautious": False} | given
    with np.errstate(all="ignore"):
        twin(*_positional(positional, before), **common)
    for n, array in arrays.items():
        t.equal(f"{name} {n} {given}", np.array(array), before[n])


def _positional(positional, arrays):
    return [arrays.get(p.name) for p in positional]


def elementwise(t):
    """exp, sigmoid and tanh: to some ulp of the exact value."""
    name, dtype = t.pick(list(ULP)), np.dtype(t.pick(["f4", "f8"]))
    shape = t.pick(SHAPES)
    values = t.normal(shape, dtype, t.pick([1.0, 30.0, 1e-4]))
    if values.size and t.chance(0.2):
        values.flat[0] = t.pick([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-30])
    wrong = t.chance(0.2) and values.size > 1
    x = t.place(values, t.pick(UNREADABLE) if wrong else t.pick(["C", "readonly"]))
    y = x if t.chance(0.2) and x.flags.writeable else t.place(np.ones(shape, dtype))
    result = t.call(getattr(kernels, name), x, y, writes=[y], must=bool(wrong))
    if isinstance(result, Refused):
        return
    exact = values.astype(np.longdouble)
    with np.errstate(all="ignore"):
        exact = {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v))}[name](
            exact
        )
        near = exact.astype(dtype)
        error = np.abs(y.astype(np.longdouble) - exact) / np.spacing(np.abs(near))
        tiny = np.abs(exact) < 4 * np.finfo(dtype).tiny  # flushed to zero or not
        fine = (
            (error <= ULP[name]) | (np.isnan(exact) & np.isnan(y)) | (np.isinf(near) & (y == near))
        )
    t.check(bool((fine | tiny).all()), f"{name}: {values[~(fine | tiny)].ravel()[:1]} is far off")


def matmul(t):
    """A product of random shapes against NumPy's in double."""
    M, K, N = (t.size(70) for _ in range(3))
    dtype, add = np.dtype(t.pick(["f4", "f8"])), t.chance(0.4)
    a, b, c = t.normal((M, K), dtype), t.normal((K, N), dtype), t.normal((M, N), dtype)
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble) + add * c.astype(np.longdouble)
    size = np.abs(a.astype(float)) @ np.abs(b.astype(float)) + np.abs(c)
    given = [a, b, c]
    wrong = t.chance(0.25)
    which, kind = t.pick([0, 1, 2]), t.pick(["layout", "shape", "overlap", "huge", "strided"])
    placed = [t.place(v, t.pick(["C", "readonly"]) if i < 2 else "C") for i, v in enumerate(given)]
    wrong &= min(M, N, K) > 1
    if wrong and kind == "layout":
        placed[which] = t.place(given[which], t.pick(UNREADABLE))
    elif wrong and kind == "shape":
        placed[which] = t.place(t.normal((M + 1, K + 2), dtype))
    elif wrong and kind == "overlap":
        placed[2] = placed[t.pick([0, 1])]
        wrong = None if placed[2].shape == (M, N) else wrong
        if M == N == K:
            wrong = True
    elif wrong and kind == "strided":
        placed[which] = t.place(given[which], "F")
    elif wrong:
        many = 2 ** t.pick([40, 59])
        empty = np.empty((0, many), dtype), np.empty((many, 0), dtype)
        placed = (
            [np.empty((0, 0), dtype), empty[0], empty[0]]
            if t.chance(0.5)
            else [empty[0], empty[1], np.empty((0, 0), dtype)]
        )
        wrong = False
    result = t.call(kernels.matmul, *placed, accumulate=add, writes=placed[2:], must=wrong)
    if wrong is not False or isinstance(result, Refused) or placed[0].shape != (M, K):
        return
    limit = np.finfo(dtype).eps * (K + 2) * size
    t.check(bool((np.abs(placed[2] - exact) <= limit).all()), f"matmul {M, N, K} is far off")


def dropout(t):
    """The twin's mask and values."""
    shape, dtype = tuple(t.size(20) for _ in range(3)), np.dtype(t.pick(["f4", "f8"]))
    p = t.pick([0.0, 0.5, 0.1, 0.999, 1 - 2.0**-16, float(t.rng.random())])
    seed, stream = (int(t.rng.integers(2**64, dtype=np.uint64)) for _ in range(2))
    values = t.normal(shape, dtype)
    kind = t.pick(["right", "right", "right", "layout", "overlap", "zero strides", "p", "seed"])
    x = t.place(values, "rows" if t.chance(0.5) else "C")
    y = x if t.chance(0.2) else t.place(np.ones(shape, dtype), "rows" if t.chance(0.5) else "C")
    must = False
    if kind == "layout" and values.size > 1:
        x, must = t.place(values, t.pick(UNREADABLE)), True
    elif kind == "overlap" and values.size > 1:
        flat = t.place(t.normal((values.size + 1,), dtype))
        x, y, must = flat[:-1].reshape(shape), flat[1:].reshape(shape), True
    elif kind == "zero strides" and min(shape) > 1:
        y = np.lib.stride_tricks.as_strided(
            t.place(np.ones(shape[2], dtype)), shape, (0, 0, dtype.itemsize)
        )
        must = True
    elif kind == "p":
        p, must = junk(t.rng), None
    elif kind == "seed":
        seed, must = junk(t.rng), None
    result = t.call(kernels.dropout, x, y, p, seed=seed, stream=stream, writes=[y], must=must)
    if isinstance(result, Refused) or kind in ("p", "seed") or must:
        return
    expected = np.empty(shape, dtype)
    reference.dropout(values, expected, p, seed=seed, stream=stream)
    t.equal(f"dropout {p}", np.array(y), expected)


def clip(t):
    """The clip functions: gradients of any strides, and those that share elements."""
    dtype = np.dtype(t.pick(["f4", "f8"]))
    grads = [
        t.place(
            t.normal(t.pick(SHAPES), dtype, t.pick([1.0, 1e-3])),
            t.pick(["C", "F", "strided", "reversed", "transposed"]),
        )
        for _ in range(t.pick([1, 2, 3]))
    ]
    kind = t.pick(["right", "right", "limit", "overlap", "layout", "junk"])
    limit = t.pick([0.0, 0.5, 1.0, 1e9, math.inf])
    must = False
    if kind == "limit":
        limit, must = junk(t.rng), None
    elif kind == "overlap":
        whole = t.place(t.normal((20,), dtype))
        grads, must = (
            t.pick([[whole[:11], whole[9:]], [whole, whole[::-1]], [whole, whole.reshape(4, 5).T]]),
            True,
        )
    elif kind == "layout":
        layout = t.pick([*UNREADABLE, "readonly", "broadcast"])
        grads.append(t.place(t.normal((4, 5), dtype), layout))
        must = True
    elif kind == "junk":
        grads, must = junk(t.rng), None
    norm_of = [np.array(g) for g in grads] if isinstance(grads, list) else None
    by_norm = t.chance(0.5)
    must = True if limit is math.inf and not by_norm and must is False else must
    function = pyoptk.clip_by_global_norm if by_norm else pyoptk.clip_by_value
    writes = grads if isinstance(grads, list) else ()
    result = t.call(function, grads, limit, writes=writes, must=must)
    if isinstance(result, Refused) or must is not False:
        return
    if by_norm:
        exact = float(np.sqrt(sum(np.sum(g.astype(np.longdouble) ** 2) for g in norm_of)))
        t.check(abs(result - exact) <= 1e-13 * exact, f"norm {result!r} for {exact!r}")
        t.check(t.call(pyoptk.global_norm, norm_of) == result, "global_norm is another")
        factor = min(1.0, limit / (result + 1e-6))
        expected = [g * dtype.type(factor) if factor != 1 else g for g in norm_of]
    else:
        expected = [np.clip(g, dtype.type(-limit), dtype.type(limit)) for g in norm_of]
    for ours, theirs in zip(grads, expected, strict=True):
        t.equal("clipped", np.array(ours), np.array(theirs))


MAKERS = [
    f
    for name in dir(schedules)
    if callable(f := getattr(schedules, name))
    and inspect.isfunction(f)
    and f.__module__ == schedules.__name__
    and not name.startswith("_")
]


def schedule(t):
    """A schedule of random arguments: refused, or finite numbers >= 0 that do not change."""
    maker, given = t.pick(MAKERS), {}
    for name, parameter in inspect.signature(maker).parameters.items():
        if t.chance(0.1):
            given[name] = junk(t.rng)
        elif parameter.default is parameter.empty or t.chance(0.5):
            given[name] = t.pick(
                [
                    0,
                    1,
                    2,
                    5,
                    100,
                    0.1,
                    0.5,
                    0.9,
                    1.0,
                    [2, 5],
                    [1, 3, 4],
                    "cos",
                    "linear",
                    [schedules.constant(0.1)] * 3,
                    True,
                ]
            )
    made = t.call(maker, **given)
    if isinstance(made, Refused) or not callable(made):
        return
    steps = [0, 1, 2, 3, 7, 10, 100, 10**6, 2**62]
    values = [t.call(made, step) for step in steps]
    for step, value in zip(steps, values, strict=True):
        if not isinstance(value, Refused):
            fine = isinstance(value, float | int) and value >= 0
            t.check(fine, f"{maker.__name__}({given})({step}) is {value!r}")
            t.equal("the same step again", made(step), value)
    t.call(made, junk(t.rng))
    repr(made)
