"""How `fit` ends: early, interrupted, diverged, and resumed from a checkpoint; its progress bar."""

import copy
import itertools
import pickle
import random
import signal
import sys

import numpy as np
import pytest
from alarm import Alarm, Stop, needs_timer
from small_models import Dense, Recurrent, data, flat, mse

import pyoptk
from pyoptk.fitting.console import Interrupts


def rising(losses):
    """A loss whose value in validation is given; the gradient is that of mse."""
    left = iter(losses)

    def loss(y, target):
        value, dy = mse(y, target)
        return (next(left) if len(target) == 2 else value), dy

    return loss


@pytest.mark.parametrize(
    ("patience", "epochs", "best", "stopped"),
    [(2, 4, 2, "no lower val_loss for 2 epochs"), (None, 6, 5, ""), (4, 6, 5, "")],
)
def test_training_ends_without_progress_and_gives_the_best_weights_back(
    patience, epochs, best, stopped
):
    x, y = data(22)
    model, after = Dense(), []
    history = pyoptk.fit(
        model, rising([5, 3, np.nan, 4, 2, 9]), pyoptk.SGD(model.params, lr=0.1), x, y, epochs=6,
        validation=(x[:2], y[:2]), patience=patience,
        callbacks=[lambda row: after.append(flat(model))],
    )  # fmt: skip
    assert (len(history["loss"]), history.best_epoch, history.stopped) == (epochs, best, stopped)
    np.testing.assert_array_equal(flat(model), after[best - 1])


def test_best_false_keeps_the_last_weights():
    x, y = data(22)
    model, after = Dense(), []
    pyoptk.fit(
        model, rising([1, 2]), pyoptk.SGD(model.params), x, y, epochs=2, best=False,
        validation=(x[:2], y[:2]), callbacks=[lambda row: after.append(flat(model))],
    )  # fmt: skip
    np.testing.assert_array_equal(flat(model), after[1])


@pytest.mark.parametrize("true", [True, np.bool_(True)])
def test_a_callback_that_returns_true_ends_it(true):
    x, y = data()
    model = Dense()
    stop = [lambda row: true if row["epoch"] == 2 else 1]
    history = pyoptk.fit(model, mse, pyoptk.SGD(model.params), x, y, callbacks=stop)
    assert history["epoch"] == [1, 2]
    assert history.stopped == "stopped by a callback after epoch 2"


def test_a_plateau_is_updated_with_the_loss_of_each_epoch():
    x, y = data(22)
    model = Dense()
    lr = pyoptk.schedules.ReduceOnPlateau(0.1, factor=0.5, patience=0)
    loss = rising([3, 4, 2, 2])
    history = pyoptk.fit(model, loss, pyoptk.SGD(model.params, lr), x, y, epochs=4,
                         validation=(x[:2], y[:2]))  # fmt: skip
    assert history["lr"] == [0.1, 0.1, 0.05, 0.05]
    assert lr.value == 0.025


def test_a_plateau_of_rising_values_gets_the_metric_wherever_it_is_joined():
    x, y = data(22)
    model, found = Dense(), iter([1, 1, 1, 2, 1, 3, 1, 4])
    lr = pyoptk.schedules.ReduceOnPlateau(0.1, "max", factor=0.5, patience=0)
    joined = pyoptk.schedules.join([lambda t: 0.2, lr], [2])
    history = pyoptk.fit(
        model, mse, pyoptk.SGD(model.params, joined), x, y, epochs=4, validation=(x[:2], y[:2]),
        metrics=[lambda out, target: next(found)],
    )  # fmt: skip
    assert history["lr"] == [0.2, 0.1, 0.1, 0.1]
    assert (lr.best, lr.value) == (4, 0.1)


@pytest.mark.parametrize("given", [{"validation": 0.5}, {}])
def test_a_frozen_parameter_stays(given):
    x, y = data(22)
    model = Dense()
    opt = pyoptk.SGD(model.params, lr=0.1)
    model.params["b0"].flags.writeable = False
    model.grads["b0"] = None
    model.backward = lambda dy: model.grads["w1"].fill(1)
    before = model.params["b0"].copy()
    assert len(pyoptk.fit(model, mse, opt, x, y, epochs=3, **given)["loss"]) == 3
    pyoptk.lr_range_test(model, mse, opt, x, y, steps=3)
    np.testing.assert_array_equal(model.params["b0"], before)


def interrupting(at, times=1):
    """mse that presses Ctrl-C in its call number `at`."""
    calls = itertools.count(1)

    def loss(y, target):
        if next(calls) == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return mse(y, target)

    return loss


def test_ctrl_c_ends_training_after_the_running_step():
    x, y = data()
    model, plain = Dense(), Dense()
    opt = pyoptk.SGD(model.params)
    options = {"epochs": 3, "batch_size": 8, "shuffle": False}
    history = pyoptk.fit(model, interrupting(5), opt, x, y, **options)  # of 3 calls in an epoch
    assert history["epoch"] == [1]
    assert history.stopped.startswith("interrupted in epoch 2 after 2 steps, mean loss ")
    assert opt.steps["w0"] == 5
    epoch = [(x[rows], y[rows]) for rows in (slice(8), slice(8, 16), slice(16, 22))]
    pyoptk.fit(plain, mse, pyoptk.SGD(plain.params), epoch + epoch[:2], epochs=1)
    np.testing.assert_array_equal(flat(model), flat(plain))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_validation_or_a_callback_ends_it_too_and_a_second_one_at_once():
    x, y = data()
    model = Dense()
    opt = pyoptk.SGD(model.params)
    history = pyoptk.fit(model, interrupting(4), opt, x, y, validation=(x, y))
    assert history["epoch"] == [1]
    assert history.stopped.startswith("interrupted in epoch 2 after 1 steps, mean loss ")
    press = [lambda row: signal.raise_signal(signal.SIGINT)]
    history = pyoptk.fit(model, mse, opt, x, y, callbacks=press)
    assert (history["epoch"], history.stopped) == ([1], "interrupted after epoch 1")
    with pytest.raises(KeyboardInterrupt):
        pyoptk.fit(model, interrupting(1, times=2), opt, x, y)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_of_the_program_stays():
    x, y = data()
    model, pressed = Dense(), []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        history = pyoptk.fit(model, interrupting(1), pyoptk.SGD(model.params), x, y, epochs=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (history["epoch"], pressed) == ([1, 2], [1])


@pytest.mark.parametrize("then", ["ctrl-c", "fit"])
def test_a_handler_that_an_exception_left_behind_swallows_no_ctrl_c(then):
    Interrupts().__enter__()  # what the `with` would have ended
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if then == "ctrl-c":
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    else:
        x, y = data()
        model = Dense()
        history = pyoptk.fit(model, interrupting(4), pyoptk.SGD(model.params), x, y)
        assert history.stopped
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def spoil(where):
    x, y = data(20)
    model = Dense()

    def loss(out, target):
        value, dy = mse(out, target)
        return {"loss": -np.inf, "parameter": np.nan}.get(where, value), dy

    if where == "x":
        x[3, 0] = np.nan
    if where == "parameter":
        model.params["b0"][1] = np.inf
    if where == "target":
        y[:2, 0] = np.inf
    return model, loss, x, y


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("x", r"^loss: expected a finite .* nan in epoch 1, step 1: x has 1 NaN or infinite"),
        ("target", r"got inf in epoch 1, step 1: y has 2 NaN or infinite"),
        ("parameter", r"the data are finite, but 1 of 3 parameters are not \(b0\).*lower lr than"),
        ("loss", r"got -inf .*data and parameters are finite, the output reaches \d"),
    ],
)
def test_a_loss_that_is_no_number_stops_before_the_step_and_says_what_to_look_at(where, message):
    model, loss, x, y = spoil(where)
    before = flat(model)
    with pytest.raises(pyoptk.Diverged, match=message) as info:
        pyoptk.fit(model, loss, pyoptk.SGD(model.params), x, y)
    np.testing.assert_array_equal(flat(model), before)
    assert info.value.history["loss"] == []
    assert isinstance(info.value, FloatingPointError)


def run_of(path, epochs, **options):
    """A model with dropout, every kind of state around it, and what a run of it leaves."""
    rng = np.random.default_rng(11)
    x, y = (rng.standard_normal((3, 9, 2)).astype("f4") for _ in "xy")
    model = Recurrent(pyoptk.LSTM(2, 2, 2, dropout=0.5, seed=4, rng=rng))
    lr = pyoptk.schedules.ReduceOnPlateau(0.3, factor=0.5, patience=0)
    opt = pyoptk.Adam(model.params, lr, ema_decay=0.5)
    top = pyoptk.Lookahead(pyoptk.Accumulation(opt, 2), k=3)
    history = pyoptk.fit(
        model, mse, top, x, y, epochs=epochs, batch_size=2, validation=0.3, batch_axis=1,
        rng=np.random.default_rng(6), checkpoint=path, metrics=[mse], **options,
    )  # fmt: skip
    del history["seconds"]
    whole = [model.state_dict(), opt.state_dict(), top.state_dict(), lr.state_dict(), history]
    return pickle.dumps(copy.deepcopy(whole)), history


def test_a_resumed_run_is_the_one_that_was_not_interrupted(tmp_path):
    whole, history = run_of(tmp_path / "whole.npz", 5)
    assert len(set(history["lr"])) > 1
    run_of(tmp_path / "parts.npz", 2)
    for epochs in (3, 5):
        parts, history = run_of(tmp_path / "parts.npz", epochs, resume=True)
        assert history["epoch"] == list(range(1, epochs + 1))
    assert parts == whole


def test_a_run_that_has_lost_patience_does_not_go_on_when_resumed(tmp_path):
    x, y = data(22)
    for _ in "12":
        model = Dense()
        history = pyoptk.fit(
            model, rising([1, 2, 3, 4, 5]), pyoptk.SGD(model.params, lr=0.1), x, y, epochs=5,
            validation=(x[:2], y[:2]), patience=2, checkpoint=tmp_path / "run.npz", resume=True,
        )  # fmt: skip
        assert history["epoch"] == [1, 2, 3]
        assert history.stopped == "no lower val_loss for 2 epochs"


def test_a_checkpoint_is_written_every_so_many_epochs(tmp_path):
    path = tmp_path / "run.npz"
    run_of(path, 5, checkpoint_every=2, resume=True)  # there is none yet
    assert pyoptk.load(path)["history"]["epoch"] == [1, 2, 3, 4]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_shown_in_a_terminal_alone(terminal, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    x, y = data()
    model = Dense()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    pyoptk.fit(model, mse, pyoptk.SGD(model.params, lr=0.25), x, y, epochs=2, batch_size=8)
    out, error = capsys.readouterr()
    assert out == ""
    if terminal:
        assert "epoch 1/2" in error
        assert "lr 0.25" in error
        assert "6/6" in error
    else:
        assert error == ""


def test_there_is_no_bar_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    model = Dense()
    pyoptk.fit(model, mse, pyoptk.SGD(model.params), *data(), epochs=1)
    assert capsys.readouterr().err == ""


@needs_timer
def test_training_goes_on_after_an_exception_and_ends_with_the_best_weights():
    rng = random.Random(1)
    x, y = np.linspace(-1, 1, 8, dtype="f4")[:, None], np.ones((8, 1), "f4")
    for _ in range(60):
        model = pyoptk.layers.Sequential(pyoptk.layers.Linear(1, 1))
        lr = pyoptk.schedules.ReduceOnPlateau(1.5, factor=0.9, patience=0)  # too high for long
        opt = pyoptk.SGD(model.params, lr)
        running = pyoptk.training(
            model, pyoptk.losses.mse, opt, x, y, validation=(x, y), epochs=6, progress=False
        )
        rows = []
        for seconds in (rng.uniform(1e-6, 2e-3), 9):
            try:
                with Alarm(seconds):
                    rows.extend(running)
            except Stop:
                pass
        found = running.history
        assert {len(column) for column in found.values()} == {6}
        assert opt.steps["0.weight"] >= 6
        loss, _ = pyoptk.losses.mse(model.forward(x, train=False), y)
        assert loss == min(found["val_loss"]) < found["val_loss"][-1]
    signal.signal(signal.SIGINT, signal.default_int_handler)
