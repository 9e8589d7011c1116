"""An exception at any moment (Ctrl-C, a timeout) leaves every object as before a call or after it.

Each row calls one method again and again while a timer's signal handler raises at a random moment.
Then the state must be that after as many calls as came back, or one more; calls that may simply be
repeated must, once repeated, have made it that after one more.
"""

import os
import pickle
import random
import signal
import time
import warnings

import numpy as np
import pytest
from alarm import Alarm, Stop, needs_timer

import pyoptk

CALLS = 24  # in each try
EXCEPTIONS = 100  # in each of the rows below


def some_model(rng, *between):
    linear = pyoptk.layers.Linear
    return pyoptk.layers.Sequential(
        linear(2, 3, "gelu", rng=rng), pyoptk.layers.LayerNorm(3), *between, linear(3, 1, rng=rng)
    )


MODELS = {
    "plain": lambda rng: pyoptk.LSTM(2, 3, rng=rng),
    "drops": lambda rng: pyoptk.LSTM(2, 3, 2, dropout=0.5, seed=1, rng=rng),
    "net": some_model,
    "dropping": lambda rng: some_model(rng, pyoptk.layers.Dropout(0.5, seed=2)),
    "fitted": some_model,
}


class Model:
    """A few small parameters, an optimizer and whatever a row puts around it; layers and a file.

    Of `MODELS` it has those that the call of a row names: they take most of the time of a try.
    """

    def __init__(self, wrap, folder, call=None, **settings):
        rng = np.random.default_rng(0)
        self.params = {name: rng.standard_normal(5) for name in "abcd"}
        self.grads = [{name: rng.standard_normal(5) for name in "abcd"} for _ in range(3)]
        settings = {"lr": 0.1, "ema_decay": 0.5, "groups": {"a": {"lr": 0.5}}, **settings}
        self.opt = pyoptk.Adam(self.params, **settings)
        for name in MODELS.keys() & (call.__code__.co_names if call else ()):
            setattr(self, name, MODELS[name](np.random.default_rng(0)))
        if hasattr(self, "fitted"):
            self.fitted_opt = pyoptk.Adam(self.fitted.params, lr=0.1)
        if hasattr(self, "dropping"):
            self.range_opt = pyoptk.Adam(self.dropping.params, lr=0.1, groups={"0.*": {"lr": 0.5}})
        self.lr = pyoptk.schedules.ReduceOnPlateau(1.0, patience=0, cooldown=1, factor=0.9)
        self.history, self.rng = pyoptk.History(["loss"]), np.random.default_rng(1)
        append(self, 0)
        self.paths = [folder / f"{name}.npz" for name in ("one", "two", "saved", "table")]
        self.tops = wrap(self.opt)
        self.top = self.tops[-1]
        for grads in self.grads:
            self.opt.step(grads)
        self.saved = [pickle.loads(pickle.dumps(self.top.state_dict()))]
        self.move()
        self.saved.append(pickle.loads(pickle.dumps(self.top.state_dict())))

    def move(self):
        if isinstance(self.top, pyoptk.SWA):
            self.top.update()
        else:
            self.top.step(self.grads[0])

    def state(self):
        whole = [top.state_dict() for top in self.tops]
        models = {name: getattr(self, name) for name in MODELS if hasattr(self, name)}
        layers = [(m.state_dict(), getattr(m, "dropout_calls", 0)) for m in models.values()]
        layers += [m.flat_grads for name, m in models.items() if name != "fitted"]
        file = pyoptk.load(self.paths[2]) if self.paths[2].exists() else None
        layers += [self.fitted_opt.state_dict()] if hasattr(self, "fitted") else []
        layers += [(self.lr.state_dict(), self.history, self.rng.bit_generator.state)]
        layers += [self.paths[3].read_text() if self.paths[3].exists() else None]
        return pickle.dumps((self.params, self.grads, whole, layers, file, self.top.__repr__()))


def alone(opt):
    return [opt]


def accumulation(opt):
    return [opt, pyoptk.Accumulation(opt, 3)]


def scaler(opt):
    return [opt, pyoptk.LossScaler(opt, 4.0, interval=2)]


def lookahead(opt):
    return [opt, pyoptk.Lookahead(opt, k=2)]


def swa(opt):
    return [opt, pyoptk.SWA(opt.params)]


def nested(opt):
    tops = [opt]
    for wrap in (accumulation, scaler, lookahead, accumulation):
        tops.append(wrap(tops[-1])[-1])
    return tops


def step(model, n):
    model.top.step(model.grads[n % 3])


def weighted(model, n):
    model.top.step(model.grads[n % 3], weight=1 + n % 2)


def flush(model, n):
    (model.top.step if n % 2 else lambda _: model.top.flush())(model.grads[n % 3])


def restore(model, n):
    model.top.load_state_dict(model.saved[n % 2])


def restore_masters(model, n):
    masters = {f"master.{key}": n + 0 * param for key, param in model.fitted.params.items()}
    model.fitted_opt.load_state_dict({**model.fitted_opt.state_dict(), **masters, "calls": n})


def assign(model, n):
    model.opt.lr = 1 / (1 + n)


def assign_groups(model, n):
    model.opt.groups = {"a": {"lr": 1 / (1 + n)}}


def swapped(model, n):
    with model.top.averaged():
        pass


def clipped(model, n):
    pyoptk.clip_by_global_norm(model.grads[0], 2 * 0.7**n)


def clipped_by_value(model, n):
    pyoptk.clip_by_value(model.grads[0], 0.9**n)


X, DY = np.ones((4, 2, 2), np.float32), np.ones((4, 2, 3), np.float32)


def forward(model, n):
    model.drops.forward(X)


def backward(model, n):
    model.plain.forward(X)
    model.plain.backward(DY, accumulate=True)


def restore_layer(model, n):
    state = model.drops.state_dict()
    model.drops.load_state_dict({**state, "weight_hh_l1": DY[:1, 0] * np.ones((12, 1), "f4") * n})


def forward_model(model, n):
    model.dropping.forward(X[0])


def backward_model(model, n):
    model.net.forward(X[0])
    model.net.backward(DY[0, :, :1], need_dx=bool(n % 2))


def accumulate_model(model, n):
    model.net.forward(X[0])
    model.net.backward(DY[0, :, :1], accumulate=True)


def backward_linear(model, n):
    linear = model.net.layers[0]
    linear.forward(X[0])
    linear.backward(DY[0], accumulate=True)


def backward_norm(model, n):
    norm = model.net.layers[1]
    norm.forward(DY[0])
    norm.backward(DY[0], accumulate=True)


def restore_model(model, n):
    state = model.net.state_dict()
    more = {"0.weight": n * np.ones((3, 2), "f4"), "2.bias": n * np.ones(1, "f4")}
    model.net.load_state_dict({**state, **more})


def fit(model, n):
    """One step. An exception between the first and the last bytecode of a `with` can leave fit's
    own handler of Ctrl-C behind.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loss, y = pyoptk.losses.mse, DY[0, :, :1]
    pyoptk.fit(model.fitted, loss, model.fitted_opt, X[0], y, epochs=1, shuffle=False, rng=RNG)


def search(model, n):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loss, y = pyoptk.losses.mse, DY[0, :, :1]
    pyoptk.lr_range_test(model.dropping, loss, model.range_opt, X[0], y, rng=model.rng, steps=2)


def reduce(model, n):
    model.lr.update(n % 3)


def append(model, n):
    model.history.append({"epoch": n, "loss": 0.5, "lr": 0.1, "seconds": 0.0})


def add_updates(model, n):
    model.history.add_updates(n, {name: {"ratio": n, "lr": 0.1} for name in "ab"[: 1 + n // 4]})


def to_csv(model, n):
    model.history["epoch"][:] = [n]
    model.history.to_csv(model.paths[3])


def watched(model, n):
    model.opt.watch = True
    model.top.step(model.grads[n % 3])
    assert model.opt.watched["a"]["param_norm"] > 0


def save(model, n):
    pyoptk.save(model.paths[2], grads=model.grads[n % 3], opt=model.opt, n=[n])


def load(model, n):
    pyoptk.load(model.paths[n % 2], params=model.params, opt=model.opt)


def slower(n):
    return 1 / (1 + n)


# Made here: NumPy's default_rng() itself loses the error state.
RNG, MINIMAL = np.random.default_rng(0), pyoptk.minGRU(2, 3)


def free_of_state(model, n):
    """Calls of which nothing is kept, but which NumPy may warn of."""
    pyoptk.losses.cross_entropy(np.zeros((2, 3)), [0, 1], lengths=None)
    MINIMAL.forward(np.ones((3, 2, 2), np.float32), lengths=[1, 3])
    pyoptk.gae(np.ones(3), np.ones(4), np.zeros(3, bool), 0.5, 0.5)


ROWS = {
    "losses and scans": (free_of_state, alone, {}),
    "step": (step, alone, {"zero_grad": True}),
    "step, watched": (watched, alone, {}),
    "step, lr scheduled": (step, alone, {"lr": slower, "groups": None}),
    "step, all scheduled": (step, alone, {"groups": {"a": {"lr": slower}}, "weight_decay": slower}),
    "assignment": (assign, alone, {}),
    "assignment of groups": (assign_groups, alone, {}),
    "load_state_dict": (restore, alone, {}),
    "load_state_dict, masters": (restore_masters, alone, {}),
    "averaged": (swapped, alone, {}),
    "Accumulation.step": (step, accumulation, {}),
    "Accumulation.step, weights": (weighted, accumulation, {"zero_grad": True}),
    "Accumulation.flush": (flush, accumulation, {}),
    "Accumulation.load_state_dict": (restore, accumulation, {}),
    "LossScaler.step": (step, scaler, {}),
    "LossScaler.load_state_dict": (restore, scaler, {}),
    "Lookahead.step": (step, lookahead, {}),
    "Lookahead.load_state_dict": (restore, lookahead, {}),
    "Lookahead.averaged": (swapped, lookahead, {}),
    "SWA.update": (lambda model, n: model.top.update(), swa, {}),
    "SWA.load_state_dict": (restore, swa, {}),
    "SWA.averaged": (swapped, swa, {}),
    "wrappers in wrappers": (step, nested, {}),
    "clip_by_global_norm": (clipped, alone, {}),
    "LSTM.forward": (forward, alone, {}),
    "LSTM.backward": (backward, alone, {}),
    "Linear.backward": (backward_linear, alone, {}),
    "LayerNorm.backward": (backward_norm, alone, {}),
    "Sequential.forward": (forward_model, alone, {}),
    "Sequential.backward, accumulate": (accumulate_model, alone, {}),
    "fit": (fit, alone, {}),
    "lr_range_test": (search, alone, {}),
    "ReduceOnPlateau.update": (reduce, alone, {}),
    "History.append": (append, alone, {}),
    "History.add_updates": (add_updates, alone, {}),
    "save": (save, alone, {}),
}
REPEATED = {
    "Sequential.backward": (backward_model, alone, {}),
    "Sequential.load_state_dict": (restore_model, alone, {}),
    "clip_by_value": (clipped_by_value, alone, {}),
    "LSTM.load_state_dict": (restore_layer, alone, {}),
    "load": (load, alone, {}),
    "History.to_csv": (to_csv, alone, {}),
}


def of_process():
    """What belongs to the thread or the process, which a call may change while it runs."""
    return np.geterr(), list(warnings.filters)


def repeat(call, model, done):
    """A function of its own: in Python 3.13 the jump of a loop is outside the `try` around it."""
    while len(done) < CALLS:
        call(model, len(done))
        done.append(call)


@needs_timer
@pytest.mark.parametrize("name", [*ROWS, *REPEATED])
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_call_has_happened_wholly_or_not_at_all(name, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # most of the time of a save
    call, wrap, settings = ROWS.get(name) or REPEATED[name]
    rng = random.Random(name)
    saved = Model(alone, tmp_path)
    for path in saved.paths[:2]:
        pyoptk.save(path, params=saved.params, opt=saved.opt)
        saved.move()
    model = Model(wrap, tmp_path, call, **settings)
    states, length = [model.state()], 1.0
    for n in range(CALLS):
        begin = time.perf_counter()
        call(model, n)
        length = min(length, time.perf_counter() - begin)
        states.append(model.state())
    before = of_process()
    interrupted, kept = 0, []  # a notebook keeps an exception, and with it the frames
    for _ in range(20 * EXCEPTIONS):
        if interrupted == EXCEPTIONS:
            break
        model, done = Model(wrap, tmp_path, call, **settings), []
        for path in model.paths[2:]:
            path.unlink(missing_ok=True)
        try:
            with Alarm(rng.uniform(1e-6, CALLS * length)):
                repeat(call, model, done)
        except Stop as stop:  # while the block was entered or left
            kept.append(stop)
        n = len(done)
        interrupted += n < CALLS
        if name in REPEATED and n < CALLS:
            call(model, n)
        assert model.state() in states[n : n + 2], f"after {n} calls"
        assert of_process() == before, f"after {n} calls"
        model.move()  # and it goes on
    assert interrupted == EXCEPTIONS
    signal.signal(signal.SIGINT, signal.default_int_handler)


@needs_timer
def test_layers_move_into_a_model_wholly_or_not_at_all():
    chance = random.Random(1)
    for _ in range(EXCEPTIONS):
        layers = pyoptk.LSTM(2, 3), pyoptk.layers.Linear(3, 2)
        try:
            with Alarm(chance.uniform(1e-5, 4e-4)):
                pyoptk.layers.Sequential(*layers)
        except Stop:  # while the block was entered or left
            pass
        addresses = [layer.flat_params.ctypes.data for layer in layers]
        assert (abs(addresses[1] - addresses[0]) == 4 * 96) == (layers[0]._owner is not None)
        for layer in layers:
            assert all(np.shares_memory(a, layer.flat_params) for a in layer.params.values())
        expected = layers[0].forward(X, train=False)[0]
        layers[0].flat_params[:] *= 2
        assert (layers[0].forward(X, train=False)[0] != expected).any()
