"""Exceptions at any moment: a call has happened, or not, or can be repeated."""

import os
import signal
import tempfile
import time

import numpy as np

import pyoptk

from .optimizers import CLASSES
from .trial import Fault, copied, equal


class Stop(BaseException):
    """What a signal handler raises."""


# Each of the following makes objects and returns (do, look, again): the public call, all that it
# changes, and whether it may leave that in part, because a repetition overwrites the whole.


def _optimizer(cls, **settings):
    params = {"a": np.linspace(-1, 1, 40, dtype=np.float32), "b": np.ones((3, 5), np.float32)}
    opt = cls(params, **settings)
    grads = {"a": np.full(40, 0.25, np.float32), "b": np.full((3, 5), -0.5, np.float32)}
    return params, opt, grads


def _whole(params, *objects):
    return lambda: copied(
        {"params": dict(params)} | {str(i): dict(o.state_dict()) for i, o in enumerate(objects)}
    )


def step(t):
    params, opt, grads = _optimizer(
        t.pick(CLASSES), lr=lambda s: 0.1 / (s + 1), max_norm=t.pick([None, 0.5])
    )
    return lambda: opt.step(grads), _whole(params, opt), False


def assign(t):
    params, opt, _ = _optimizer(t.pick(CLASSES))
    return lambda: setattr(opt, "lr", 0.5), lambda: _whole(params, opt)() | {"lr": opt.lr}, False


def load_state(t):
    params, opt, grads = _optimizer(pyoptk.Adam)
    _, other, _ = _optimizer(pyoptk.Adam, lr=0.5)
    other.step(grads)
    state = copied(dict(other.state_dict()))
    return lambda: opt.load_state_dict(state), _whole(params, opt), True


def averaged(t):
    params, opt, grads = _optimizer(pyoptk.Adam, ema_decay=0.5)
    opt.step(grads)

    def do():
        with opt.averaged():
            pass

    return do, _whole(params, opt), False


def wrapped(t):
    params, opt, grads = _optimizer(pyoptk.Adam)
    kind = t.pick(["Accumulation", "LossScaler", "Lookahead"])
    if kind == "LossScaler":
        outer = pyoptk.LossScaler(opt, 2.0, interval=2)
    else:
        outer = getattr(pyoptk, kind)(opt, k=2)
    if t.chance(0.5):
        outer.step(grads)
    return lambda: outer.step(grads), _whole(params, opt, outer), False


def swa(t):
    params, _, _ = _optimizer(pyoptk.Adam)
    average = pyoptk.SWA(params)
    if t.chance(0.5):
        average.update()
        params["a"] += 1
    return average.update, _whole(params, average), False


def loading(t):
    params, opt, grads = _optimizer(pyoptk.Adam)
    path = os.path.join(tempfile.gettempdir(), f"fuzz-{os.getpid()}.npz")
    other_params, other, _ = _optimizer(pyoptk.Adam, lr=0.5)
    other.step(grads)
    pyoptk.save(path, params=other_params, opt=other)
    return lambda: pyoptk.load(path, params=params, opt=opt), _whole(params, opt), True


def saving(t):
    params, _, _ = _optimizer(pyoptk.Adam)
    path = os.path.join(tempfile.gettempdir(), f"fuzz-{os.getpid()}.npz")
    pyoptk.save(path, params={"a": np.zeros(3)})
    return lambda: pyoptk.save(path, params=params), lambda: pyoptk.load(path), False


def forward(t):
    cell = t.pick([getattr(pyoptk.rnn, name) for name in pyoptk.rnn.__all__])
    layer = cell(3, 5, 2, rng=np.random.default_rng(0))
    x, dy = np.ones((4, 2, 3), np.float32), np.ones((4, 2, 5), np.float32)

    def do():
        layer.forward(x)
        layer.backward(dy)

    return do, lambda: {"grads": layer.flat_grads.copy(), "calls": 0}, True


ACTIONS = [
    step,
    step,
    assign,
    load_state,
    averaged,
    wrapped,
    wrapped,
    swa,
    loading,
    saving,
    forward,
]


def interrupt(t):
    """An exception at a random moment of a call: it has happened, or not at all, or is repeated."""
    make, seed = t.pick(ACTIONS), int(t.rng.integers(2**60))

    def made():
        t.rng = np.random.default_rng(seed)
        return make(t)

    do, look, again = made()
    began = time.perf_counter()
    do()
    lasted, once = time.perf_counter() - began, look()
    do()
    twice = look()
    for _ in range(5):
        do, look, _ = made()
        before = look()
        stopped = _interrupted(
            do, float(np.random.default_rng(t.rng.integers(2**60)).uniform(1e-6, lasted * 1.5))
        )
        after, name = look(), make.__name__
        if not stopped:
            t.equal(f"{name} done", after, once)
            continue
        if not again:
            done = not _same(after, before)
            if done:
                t.equal(f"{name} after an exception", after, once)
        try:
            do()
        except Exception as error:
            raise Fault(f"{name} cannot be repeated: {type(error).__name__}: {error}") from error
        t.equal(f"{name} repeated", look(), once if again or not done else twice)


def _same(a, b):
    try:
        equal("", a, b)
    except Fault:
        return False
    return True


def _interrupted(do, delay):
    """Whether the exception came before `do` was over."""
    armed = [True]

    def handler(*_):
        if armed[0]:
            armed[0] = False
            raise Stop

    old = signal.signal(signal.SIGALRM, handler)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            do()
            armed[0] = False
        except Stop:
            return True
        return False
    finally:
        armed[0] = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
