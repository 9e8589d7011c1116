"""`lr_range_test` finds a learning rate and leaves everything as it was."""

import copy
import itertools
import pickle
import signal

import numpy as np
import pytest
from small_models import Dense, data, mse

import pyoptk


class Blow(Exception):
    pass


def at_step(n, do):
    calls = itertools.count(1)

    def loss(y, target):
        if next(calls) == n:
            do()
        return mse(y, target)

    return loss


def blow():
    raise Blow


@pytest.mark.parametrize(
    ("loss", "steps"),
    [
        (mse, 30),
        (at_step(4, blow), None),
        (at_step(4, lambda: signal.raise_signal(signal.SIGINT)), 4),
        (at_step(4, lambda: [signal.raise_signal(signal.SIGINT) for _ in "12"]), 4),
    ],
    ids=["whole", "exception", "interrupt", "interrupts"],
)
def test_a_range_test_leaves_everything_as_it_was(loss, steps):
    x, y = data()
    model, rng = Dense(), np.random.default_rng(5)
    lr = pyoptk.schedules.cosine(0.1, 50)
    opt = pyoptk.Adam(
        model.params, lr, max_norm=1.0, groups={"b*": {"lr": 0.2}, "w1": {"lr": lambda t: 0.3}}
    )
    top, opt.watch = pyoptk.Lookahead(opt, k=2), True
    pyoptk.fit(model, mse, top, x, y, epochs=2, batch_size=8, rng=rng)

    def state():
        whole = [model.params, model.grads, opt.state_dict(), top.state_dict()]
        whole += [opt.watch, opt.watched, opt.grad_norm]
        return pickle.dumps(copy.deepcopy([*whole, rng.bit_generator.state]))

    before, groups = state(), opt.groups
    options = {"batch_size": 8, "rng": rng, "highest": 0.1, "steps": 30}
    if steps is None:
        with pytest.raises(Blow):
            pyoptk.lr_range_test(model, loss, top, x, y, **options)
    else:
        assert len(pyoptk.lr_range_test(model, loss, top, x, y, **options).lr) == steps
    assert state() == before
    assert opt.lr is lr
    assert opt.groups == groups
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("frozen", [False, True])
def test_rows_of_a_table_that_are_accumulated_are_put_back(frozen, rng):
    layers = pyoptk.layers
    head = layers.Linear(2, 1, rng=rng)
    table = layers.Sequential(layers.Embedding(5, 1, rng=rng), layers.Dropout(0.5, seed=1))
    model = layers.Sequential(table, layers.Flatten(), head)
    top = pyoptk.Accumulation(pyoptk.SGD(model.params, lr=0.1), 3)
    head.params["bias"].flags.writeable = not frozen
    x, y = rng.integers(0, 5, (40, 2)), np.ones((40, 1), np.float32)
    if frozen:
        dict.__setitem__(model.grads, "2.bias", None)
        dict.__setitem__(head.grads, "bias", None)
    before = pickle.dumps([model.state_dict(), top.state_dict(), top.opt.state_dict()])
    rows = [one.grads for one in (model, table, table[0])]
    values = [[*each.values()] for each in rows]
    found = pyoptk.lr_range_test(model, pyoptk.losses.mse, top, x, y, steps=10, batch_size=4)
    assert len(found.lr) == 10
    for each, before_it in zip(rows, values, strict=True):
        assert all(a is b for a, b in zip(each.values(), before_it, strict=True))
    assert pickle.dumps([model.state_dict(), top.state_dict(), top.opt.state_dict()]) == before


def test_a_range_test_finds_where_the_loss_falls_and_ends_where_it_explodes(tmp_path):
    x, y = data(64)
    model = Dense()
    opt = pyoptk.SGD(model.params)
    found = pyoptk.lr_range_test(
        model, mse, opt, x, y, lowest=1e-5, highest=1e3, steps=120, rng=np.random.default_rng(2)
    )
    assert len(found.lr) < 120
    assert found.lr[0] == 1e-5
    assert 0.01 < found.suggestion < 1
    assert repr(found).startswith("suggested lr 0.")
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "range.png")
    assert (tmp_path / "range.png").stat().st_size > 10_000


def test_a_trained_model_gets_no_suggestion_and_one_for_a_range_too_high_none_either():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((512, 4)).astype(np.float32)
    y = x[:, :1] + 0.1 * rng.standard_normal((512, 1)).astype(np.float32)
    model = pyoptk.layers.Sequential(pyoptk.layers.Linear(4, 1, rng=rng))
    opt = pyoptk.SGD(model.params, lr=0.1)
    given = {"rng": rng, "batch_size": 16}
    fresh = pyoptk.lr_range_test(model, pyoptk.losses.mse, opt, x, y, **given)
    assert 0.003 < fresh.suggestion < 1
    assert fresh.why == ""
    high = pyoptk.lr_range_test(model, pyoptk.losses.mse, opt, x, y, lowest=0.3, **given)
    assert high.suggestion is None
    assert high.why.endswith("below 0.3")
    pyoptk.fit(model, pyoptk.losses.mse, opt, x, y, epochs=20, progress=False, **given)
    for highest in (1.0, 10.0):
        found = pyoptk.lr_range_test(model, pyoptk.losses.mse, opt, x, y, highest=highest, **given)
        assert found.suggestion is None
        assert "trained already" in found.why
        assert repr(found).startswith("no suggestion, the loss does not fall")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 1}, r"^steps: expected an integer >= 2, got 1"),
        ({"lowest": 0.0}, r"^lowest: expected a number > 0, got 0.0"),
        ({"lowest": 0.5, "highest": 0.1}, r"^highest: expected a number above lowest, 0.5"),
        ({"loss": "mse"}, r"^loss: expected a function \(y, target\), got str"),
        (
            {"optimizer": pyoptk.Rprop},
            r"^optimizer: expected one whose steps go with lr, got Rprop",
        ),
    ],
)
def test_wrong_ranges_are_refused(given, message):
    model, (x, y) = Dense(), data()
    whole = {"model": model, "loss": mse, "x": x, "y": y, **given}
    whole["optimizer"] = whole.get("optimizer", pyoptk.SGD)(model.params)
    with pytest.raises((TypeError, ValueError), match=message):
        pyoptk.lr_range_test(**whole)
