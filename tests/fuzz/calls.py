"""Junk in the place of one argument of everything public, and arrays changed behind our back."""

import inspect
import warnings

import numpy as np

import pyoptk

from .arrays import junk
from .optimizers import CLASSES
from .settings import draw_value
from .trial import Fault, Refused


def _losses(array):
    y = array(2, 3)
    entropy = {
        "y": array(2, 1, 3), "target": [[0], [2]], "lengths": [2], "weights": [1.0, 2.0],
        "class_weights": [1, 2, 3], "label_smoothing": 0.1, "ignore_index": -1,
    }  # fmt: skip
    return [
        (pyoptk.losses.cross_entropy, entropy),
        (pyoptk.losses.huber, {"y": y, "target": y, "delta": 2.0, "weights": [1, 0]}),
    ]


def _given(t):
    """For everything public its right arguments, made anew."""
    dtype = np.dtype(t.pick(["f4", "f8"]))

    def array(*shape):
        return t.place(t.normal(shape, dtype))

    opt = t.pick(CLASSES)(array(5))
    adam = pyoptk.Adam({"a": array(5), "b": array(2, 3)}, ema_decay=0.5)
    lstm = pyoptk.LSTM(3, 4, dtype=dtype, rng=np.random.default_rng(0))
    lstm.forward(array(2, 1, 3))
    rows = pyoptk.SparseRows([1, 2], array(2, 3), (5, 3))
    return [
        *((cls, {"params": array(5)}) for cls in CLASSES),
        (opt.step, {"grads": array(5)}),
        (opt.value, {"name": "lr", "param": None}),
        (t.pick(CLASSES).like, {"library": "torch", "params": array(5)}),
        (opt.load_state_dict, {"state": dict(opt.state_dict())}),
        (opt.check_state_dict, {"state": dict(opt.state_dict())}),
        (adam.step, {"grads": {"a": array(5), "b": array(2, 3)}}),
        (adam.value, {"name": "lr", "param": "a"}),
        (pyoptk.Accumulation, {"opt": adam, "k": 2}),
        (
            pyoptk.LossScaler,
            {"opt": adam, "scale": 2.0, "growth": 2.0, "backoff": 0.5, "interval": 3},
        ),
        (pyoptk.Lookahead, {"opt": adam, "k": 2, "alpha": 0.5}),
        (pyoptk.SWA, {"params": array(3)}),
        (pyoptk.SparseRows, {"indices": [0, 1], "values": array(2, 3), "shape": (5, 3)}),
        (rows.dense, {}),
        (pyoptk.clip_by_global_norm, {"grads": [array(3)], "max_norm": 1.0}),
        (pyoptk.clip_by_value, {"grads": [array(3)], "clip_value": 1.0}),
        (pyoptk.global_norm, {"grads": [array(3)]}),
        *_losses(array),
        (pyoptk.set_num_threads, {"n": 2}),
        (pyoptk.use_isa, {"name": "baseline"}),
        (pyoptk.load, {"w": array(3)}),
        (
            lstm.forward,
            {
                "x": array(2, 1, 3),
                "state": None,
                "lengths": [2],
                "past_end": "zeros",
                "train": True,
                "out": array(2, 1, 4),
            },
        ),
        (
            lstm.backward,
            {"dy": array(2, 1, 4), "dstate": None, "accumulate": False, "need_dx": True},
        ),
        (lstm.step, {"x": array(1, 3), "state": None}),
        (lstm.load_state_dict, {"state": dict(lstm.state_dict())}),
        (pyoptk.LSTM.from_torch, {"state": lstm.to_torch(), "prefix": ""}),
        (
            pyoptk.LSTM.from_keras,
            dict(zip(("kernel", "recurrent", "bias"), lstm.to_keras(), strict=True)),
        ),
        (pyoptk.LSTM.from_onnx, dict(zip("WRB", lstm.to_onnx(), strict=True))),
    ]


def call(t):
    """One call with one argument replaced by junk: it is taken, or refused by name."""
    function, given = t.pick(_given(t))
    if function is pyoptk.load:
        t.call(function, t.pick(["", "x", b"x.npy", "no.such"]), must=True, **given)
        return
    name = t.pick([*given, "none"])
    if name in given:
        given[name] = junk(t.rng)
    elif isinstance(function, type) and issubclass(function, pyoptk.Optimizer):
        extra = t.pick(list(function(np.zeros(1)).hyper))
        given[extra] = t.pick([draw_value(t, extra, None), junk(t.rng)])
    positional = function is pyoptk.SparseRows
    everything = [
        block.array for block in t.memory.blocks
    ]  # nothing here depends on what is in them
    try:
        t.call(function, *(given.values() if positional else ()), writes=everything,
               **({} if positional else given))  # fmt: skip
    finally:
        pyoptk.set_num_threads()
        pyoptk.use_isa()


def _changed(t, array):
    """Changes what an array is, in place, without a copy."""
    kind = t.pick(["dtype", "shape", "readonly", "strides"])
    try:
        if kind == "dtype":
            array.dtype = t.pick(["f4", "f8", "i4", "u1"])
        elif kind == "shape":
            array.shape = t.pick([(-1,), (1, -1), (2, -1)])
        elif kind == "readonly":
            array.flags.writeable = False
        else:
            array.strides = tuple(0 for _ in array.shape)
    except (ValueError, TypeError, AttributeError):
        pass
    return kind


def flags(t):
    """Arrays that are held are changed in dtype, shape or flags: refused, or nothing lost."""
    dtype = np.dtype(t.pick(["f4", "f8"]))
    what = t.pick(["params", "layer", "state", "rows", "rebound", "wrapper"])
    if what == "layer":
        lstm = pyoptk.LSTM(16, 32, dtype=dtype, rng=np.random.default_rng(0))
        x = t.normal((4, 3, 16), dtype)
        if t.chance(0.5):
            lstm.forward(x)
        array = t.pick(
            [lstm.flat_params, lstm.flat_grads, *lstm.params.values(), *lstm.grads.values()]
        )
        _quietly(t, array)
        y = t.call(lstm.forward, x)
        if not isinstance(y, Refused):
            t.call(lstm.backward, np.array(y[0]))
            t.call(lstm.step, x[0])
        return
    param = t.place(t.normal((6, 4), dtype))
    params = {"a": param}
    opt = pyoptk.Adam(params, lr=0.1)
    before = np.array(param)
    grad = t.place(np.ones((6, 4), dtype))
    if what == "rebound":
        params["a"] = np.array(param)
        result = t.call(opt.step, {"a": grad}, writes=[param])
        moved = not isinstance(result, Refused) and bool((params["a"] == before).all())
        t.check(not moved, "the optimizer trains an array that params has no more")
        return
    if what == "rows":
        rows = pyoptk.SparseRows([1, 2], t.place(np.ones((2, 4), dtype)), (6, 4))
        _quietly(t, rows.values)
        t.call(opt.step, {"a": rows}, writes=[param])
        return
    if what == "wrapper":
        top = t.pick([pyoptk.SWA(params), pyoptk.Lookahead(opt, 1), pyoptk.Accumulation(opt, 2)])
        state = top.state_dict().values()
        _quietly(t, t.pick([param, *(a for a in state if isinstance(a, np.ndarray))]))
        for _ in range(2):
            given = [] if isinstance(top, pyoptk.SWA) else [{"a": grad}]
            t.call(top.step if given else top.update, *given, writes=[param])
        return
    array = param if what == "params" else opt.state["m"]["a"]
    kind = _quietly(t, array)
    result = t.call(
        opt.step, {"a": grad}, writes=[] if kind == "readonly" and what == "params" else [param]
    )
    if isinstance(result, Refused) and what == "params":
        t.equal(
            "param after a refusal", np.array(param).view(dtype).ravel()[:0], before.ravel()[:0]
        )


def _quietly(t, array):
    """The same without NumPy's warning that strides are not to be assigned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _changed(t, array)


def names(t):
    """Every public name has a docstring, a signature and a representation that does not raise."""
    name = t.pick(pyoptk.__all__)
    value = getattr(pyoptk, name)
    if not value.__doc__:
        raise Fault(f"{name} has no docstring")
    if inspect.isfunction(value) or inspect.ismethod(getattr(value, "step", None)):
        inspect.signature(value)
    t.check(bool(repr(value)), name)
