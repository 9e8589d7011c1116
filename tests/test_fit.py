"""`fit` against loops written out, with a model in NumPy; its arguments; accuracy."""

import subprocess
import sys
import types

import numpy as np
import pytest
from small_models import Dense, Recurrent, data, flat, masked_mse, mse

import pyoptk
from pyoptk import mpi
from pyoptk.fitting.metrics import accuracy


def test_fit_is_the_loop_written_out():
    x, y = data()
    model, plain = Dense(), Dense()
    opt, plain_opt = pyoptk.Adam(model.params, lr=0.05), pyoptk.Adam(plain.params, lr=0.05)
    history = pyoptk.fit(
        model, mse, opt, x, y, epochs=3, batch_size=8, rng=np.random.default_rng(7), metrics=[mse]
    )
    rng = np.random.default_rng(7)
    for epoch in range(3):
        total, order = 0.0, rng.permutation(22)
        for rows in (order[:8], order[8:16], order[16:]):
            loss, dy = mse(plain.forward(x[rows]), y[rows])
            plain.backward(dy)
            plain_opt.step(plain.grads)
            total += loss * len(rows)
        assert history["loss"][epoch] == total / 22 == history["mse"][epoch]
    np.testing.assert_array_equal(flat(model), flat(plain))
    assert history["epoch"] == [1, 2, 3]
    assert history["lr"] == [0.05] * 3


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", [pyoptk.LSTM, pyoptk.GRU])
def test_sequences_keep_their_lengths(kind, axis):
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal((5, 11, 2)).astype("f4") for _ in "xy")  # [T, N, 2]
    lengths = rng.integers(1, 6, 11)
    if axis == 0:
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)
    models = [
        Recurrent(kind(2, 2, batch_first=axis == 0, rng=np.random.default_rng(5))) for _ in "ab"
    ]
    opts = [pyoptk.SGD(model.params, lr=0.1) for model in models]
    history = pyoptk.fit(
        models[0], masked_mse, opts[0], x, y, lengths=lengths, epochs=2, batch_size=4,
        shuffle=False, batch_axis=axis, validation=(x, y, lengths), best=False,
    )  # fmt: skip
    for start in 2 * [0, 4, 8]:
        rows = slice(start, start + 4)
        part = (rows,) if axis == 0 else (slice(None), rows)
        out = models[1].forward(np.ascontiguousarray(x[part]), lengths=lengths[rows])
        dy = masked_mse(out, y[part], lengths=lengths[rows], batch_first=axis == 0)[1]
        models[1].backward(dy)
        opts[1].step(models[1].grads)
    np.testing.assert_array_equal(flat(models[0]), flat(models[1]))
    assert history["val_loss"][1] < history["val_loss"][0]


def test_targets_of_whole_sequences_have_their_rows_first_and_the_loss_no_lengths():
    seen = []

    class Last(Recurrent):
        def forward(self, x, *, lengths=None, train=True):
            seen.append((x.shape, lengths.tolist()))
            self.shape = x.shape[:2]
            return super().forward(x, lengths=lengths, train=train)[-1]

        def backward(self, dy):
            whole = np.zeros((*self.shape, 2), "f4")
            whole[-1] = dy
            super().backward(whole)

    def loss(y, target, lengths=None):
        assert lengths is None
        return mse(y, target)

    model = Last(pyoptk.RNN(2, 2))
    x, y = np.ones((4, 6, 2), "f4"), np.ones((6, 2), "f4")
    opt, lengths = pyoptk.SGD(model.params), np.arange(6) % 4 + 1
    pyoptk.fit(model, loss, opt, x, y, epochs=1, batch_size=4, lengths=lengths, batch_axis=1,
               shuffle=False)  # fmt: skip
    assert seen == [((4, 4, 2), [1, 2, 3, 4]), ((4, 2, 2), [1, 2])]


def test_a_share_for_validation_is_the_last_rows():
    x, y = data(10)
    kept = []

    def rows(y, target):
        kept.append(target.copy())
        return mse(y, target)

    model = Dense()
    pyoptk.fit(model, rows, pyoptk.SGD(model.params), x, y, epochs=1, validation=np.float32(0.3))
    assert [len(part) for part in kept] == [7, 3]
    np.testing.assert_array_equal(kept[1], y[7:])
    np.testing.assert_array_equal(np.sort(kept[0], 0), np.sort(y[:7], 0))


def test_batches_may_be_given_as_a_list_or_by_a_function():
    x, y = data(12)
    batches = [(x[:5], y[:5]), [x[5:], y[5:]]]
    found = []
    for source in (batches, lambda: iter(batches)):
        model = Dense()
        opt = pyoptk.SGD(model.params, lr=0.1)
        history = pyoptk.fit(model, mse, opt, source, epochs=2, validation=source, best=False)
        found.append((flat(model).tolist(), history["loss"], history["val_loss"]))
    assert found[0] == found[1]
    model = Dense()
    pyoptk.fit(model, mse, pyoptk.SGD(model.params, lr=0.1), iter(batches), epochs=1)


def test_what_a_metric_keeps_stays_as_it_was():
    x, y = data(6)
    model, kept = Dense(), []

    def keep(y, target):
        return float(kept.append(target) or 0)

    opt = pyoptk.SGD(model.params)
    pyoptk.fit(model, mse, opt, x, y, epochs=1, batch_size=2, shuffle=False, metrics=[keep])
    np.testing.assert_array_equal(np.concatenate(kept), y)


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: x.tolist(),
        lambda x: (x, x[:, :1]),
        lambda x: (x, x),
        lambda x: {"left": x, "right": x},
        lambda x: [*map(tuple, x)],
        lambda x: [[*range(n)] for n in range(len(x))],
    ],
)
def test_a_batch_counts_as_many_rows_as_it_has_however_it_is_given(given):
    x, y = data(12)

    class Model(Dense):
        def forward(self, rows, *, train=True):
            return super().forward(x)

    def count(out, target):
        return len(target), 0 * out

    model, pairs = Model(), [(given(x[rows]), y[rows]) for rows in (slice(5), slice(5, 12))]
    history = pyoptk.fit(model, count, pyoptk.SGD(model.params), pairs, epochs=1)
    assert history["loss"] == [(25 + 49) / 12]


def test_training_yields_what_the_history_keeps_and_a_break_ends_it():
    x, y = data()
    model = Dense()
    running = pyoptk.training(model, mse, pyoptk.SGD(model.params), x, y, epochs=9, validation=0.5)
    for row in running:
        assert row == {name: values[-1] for name, values in running.history.items()}
        if row["epoch"] == 4:
            break
    assert len(running.history["loss"]) == 4
    assert [row["epoch"] for row in running] == [5, 6, 7, 8, 9]  # and goes on


@pytest.mark.parametrize(
    "wrap", [lambda opt: pyoptk.Accumulation(opt, 2), lambda opt: pyoptk.LossScaler(opt, 8.0)]
)
def test_wrappers_get_what_they_need(wrap):
    x, y = data(24)
    models = [Dense(), Dense()]
    top = wrap(pyoptk.SGD(models[0].params, lr=0.1))
    plain = pyoptk.SGD(models[1].params, lr=0.1)
    size = 8 // getattr(top, "k", 1)  # an epoch ends with 8 rows
    pyoptk.fit(models[0], mse, top, x, y, epochs=2, batch_size=size, shuffle=False)
    pyoptk.fit(models[1], mse, plain, x, y, epochs=2, batch_size=8, shuffle=False)
    np.testing.assert_allclose(flat(models[0]), flat(models[1]), rtol=1e-12)


def test_the_micro_batches_left_at_the_end_of_an_epoch_make_a_step():
    x, y = data(24)
    model = Dense()
    opt = pyoptk.SGD(model.params)
    pyoptk.fit(model, mse, pyoptk.Accumulation(opt, 2), x, y, epochs=1, batch_size=8)
    assert opt.steps["w0"] == 2


def test_import_pyoptk_does_not_import_the_loop():
    code = "import sys, pyoptk; print('pyoptk.fitting' in sys.modules, pyoptk.fit.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False fit\n"
    with pytest.raises(AttributeError, match="module 'pyoptk' has no attribute 'fitt'"):
        pyoptk.fitt  # noqa: B018


# ---- arguments -----------------------------------------------------------------------------------

X, Y = data(6)
MODEL = Dense()
SHARDED = mpi.Sharded(pyoptk.SGD, MODEL.params)
RNN = pyoptk.RNN(3, 2, dtype=np.float64)
EVERY = {"checkpoint": "run.npz", "checkpoint_every": 4, "epochs": 3}
PART = {"optimizer": pyoptk.SGD({name: MODEL.params[name] for name in ("b0", "w1")})}
UPWARD = {"optimizer": pyoptk.SGD(MODEL.params, pyoptk.schedules.ReduceOnPlateau(0.1, "max"))}
PLAIN = {
    "model": types.SimpleNamespace(**vars(MODEL), forward=abs, backward=abs),
    "validation": 0.5,
}


def val_loss(y, target):
    return 0.0


TIME_MAJOR = {"model": RNN, "optimizer": pyoptk.SGD(RNN.params)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, r"^epochs: expected an integer >= 1, got 0"),
        ({"batch_size": 2.0}, r"^batch_size: expected an integer >= 1, got 2.0"),
        ({"y": None}, r"^y: expected targets for the array x, got None"),
        ({"y": Y[:5]}, r"^y: expected 6 rows like x \(6, 3\), got shape \(5, 2\)"),
        ({"x": X[:0], "y": Y[:0]}, r"^y: expected at least one row"),
        ({"x": 3.0}, r"^x: expected at least 1 axes, got shape \(\)"),
        ({"x": 3.0, "y": None}, r"^x: expected arrays, an iterable of batches or .*, got float"),
        ({"x": iter([]), "y": None}, r"^x: expected a list or a function .* an iterator, which is"),
        ({"x": [], "y": None}, r"^x: expected at least one batch in an epoch, got none"),
        ({"x": [X], "y": None}, r"^x: expected batches \(x, y\) or .*, got float64 \(6, 3\)"),
        ({"x": [(X, Y)], "y": None, "lengths": [1]}, r"^lengths: expected None for batches"),
        ({"x": [(X, Y)], "y": None, "validation": 0.5}, r"^validation: expected \(x, y\) or batch"),
        ({"validation": 1.5}, r"^validation: expected a share in \(0, 1\), got 1.5"),
        ({"validation": 0.99}, r"^validation: expected to leave rows to train on, got 0.99"),
        ({"validation": (X, Y[:2])}, r"^validation.y: expected 6 rows like x"),
        ({"validation": 3}, r"^validation: expected arrays, an iterable"),
        ({"lengths": [1] * 6}, "^lengths: expected None, as the model does not take them, and nei"),
        ({"lengths": [1, 2]}, r"^lengths: expected shape \(6,\), got \(2,\)"),
        ({"batch_axis": 2}, r"^batch_axis: expected one of 0, 1, got 2"),
        (TIME_MAJOR, r"^batch_axis: expected 1, as the model has batch_first=False, got 0"),
        ({"metrics": "accuracy"}, r"^metrics: expected a list or tuple, got 'accuracy'"),
        ({"metrics": ["f1"]}, r"^metrics\[0\]: expected one of accuracy, got 'f1'"),
        ({"metrics": [mse, 3]}, r"^metrics\[1\]: expected 'accuracy' or a function, got 3"),
        ({"metrics": [mse, mse]}, r"^metrics\[1\]: expected a name of its own, got 'mse' again"),
        ({"metrics": [lambda y, t: None]}, r"^metrics: expected a number of <lambda>, got NoneTy"),
        ({"metrics": [lambda y, t: t]}, r"^metrics: expected a number of <lambda>, got float64"),
        ({"loss": lambda y, t: (t, t)}, r"^loss: expected \(value, gradient\), the value a number"),
        ({"patience": 0}, r"^patience: expected an integer >= 1, got 0"),
        ({"best": 1}, r"^best: expected True or False, got 1"),
        ({"rng": 3}, r"^rng: expected a numpy.random.Generator or None, got int"),
        ({"loss": "mse"}, r"^loss: expected a function \(y, target\), got str"),
        ({"resume": True}, r"^checkpoint: expected the path to resume from, got None"),
        ({"checkpoint": "run.pt"}, r"^checkpoint: expected a name in .npz or .*, got run.pt"),
        ({"checkpoint": "none/run.npz"}, r"^checkpoint: expected a folder that exists, got .*none"),
        (EVERY, r"^checkpoint_every: expected 1..3, because there are 3 epochs, got 4"),
        ({"callbacks": [5]}, r"^callbacks: expected a list or tuple of functions, got \[5\]"),
        ({"callbacks": print}, r"^callbacks: expected a list or tuple of functions, got <built"),
        ({"validation": [X, Y]}, r"^validation: expected batches \(x, y\) or .*, got float64 \(6"),
        ({"validation": []}, r"^validation: expected at least one batch in an epoch, got none"),
        ({"x": [*X.tolist()[:5], [1]]}, r"^x: expected an array, got a ragged sequence"),
        ({"x": frozenset({1})}, "^x: expected an array, got frozenset"),
        ({"x": {1: 2}.keys()}, "^x: expected an array, got dict_keys"),
        ({"validation": np.array(0.25)}, "^validation: expected arrays, an iterable of batches"),
        ({"x": {"left": X}}, r"^x: expected an array, got dict"),
        ({"x": np.ma.array(X)}, r"^x: expected an array, got a masked array"),
        ({"y": np.ma.array(Y)}, r"^y: expected an array, got a masked array"),
        ({"validation": (X, np.ma.array(Y))}, r"^validation.y: expected an array, got a masked"),
        ({"metrics": [val_loss]}, r"^metrics\[0\]: expected a name without 'val_', got 'val_loss'"),
        ({"loss": lambda y, t: 1.0}, r"^loss: expected \(value, gradient\), got float"),
        (
            {"validation_data": (X, Y)},
            r"^validation_data: unknown keyword; did you mean validation",
        ),
        ({"verbose": 0}, r"^verbose: unknown keyword; did you mean progress"),
        (
            PART,
            r"^optimizer: expected one of all parameters that have gradients, got none for 'w0'",
        ),
        (UPWARD, r"^metrics: expected one, for the ReduceOnPlateau whose mode is 'max', got 0"),
        (PLAIN, r"^model: expected a forward with train=, for validation, got none"),
        ({"model": Y}, r"^model: expected an object with params, got ndarray"),
        ({"optimizer": "adam"}, r"^optimizer: expected one, got str"),
        ({"optimizer": SHARDED}, r"^optimizer: expected one of a single process, got Sharded"),
        ({"optimizer": pyoptk.SGD(Dense().params)}, r"^optimizer: expected one that was made with"),
    ],
)
def test_wrong_arguments_are_refused_by_name(given, message):
    whole = {"model": MODEL, "loss": mse, "optimizer": pyoptk.SGD(MODEL.params), "x": X, "y": Y}
    with pytest.raises((TypeError, ValueError), match=message):
        pyoptk.fit(**{**whole, **given})


LOGITS = np.array([[2.0, 1, 0], [0, 1, 2], [0, 3, 2], [1, 0, 0]])


@pytest.mark.parametrize(
    ("y", "target", "options", "expected"),
    [
        (LOGITS, np.array([0, 2, 2, 0]), {}, 0.75),
        (LOGITS, np.array([0, 2, -100, -1]), {}, 1.0),
        (LOGITS, np.eye(3)[[0, 2, 0, 0]], {}, 0.75),
        (LOGITS[:, :1] - 0.5, np.array([1, 1, 0, 1]), {}, 0.75),
        (LOGITS[:, :1] - 0.5, np.array([[1.0], [0], [0], [0]]), {}, 0.75),
        (LOGITS[None], np.array([[0, 2, 2, 0]]), {"lengths": [1, 1, 1, 0]}, 2 / 3),
        (LOGITS[None], np.array([[0, 2, 2, 1]]), {"lengths": [2], "batch_first": True}, 1.0),
        (LOGITS, np.array([-1, -1, -1, -1]), {}, 0.0),
    ],
)
def test_accuracy_is_the_share_of_right_classes(y, target, options, expected):
    assert accuracy(y, target, **options) == expected


def test_accuracy_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"^target: expected labels \(4,\), got int64 \(3,\)"):
        accuracy(LOGITS, np.zeros(3, np.int64))
