"""`Sequential`: layers joined to a model, its passes, names, copies and files."""

import copy
import signal

import numpy as np
import pytest
from model_rows import classifier, rng

import pyoptk
from pyoptk.layers import (
    Activation,
    Dropout,
    Embedding,
    Flatten,
    Last,
    Layer,
    LayerNorm,
    Linear,
    Sequential,
)

X = rng().integers(0, 9, (7, 5))
LENGTHS = np.array([7, 1, 0, 4, 6])


def test_all_parameters_and_gradients_lie_in_one_buffer_each():
    layers = Linear(3, 5, rng=rng()), LayerNorm(5), pyoptk.LSTM(5, 2, rng=rng())
    values = {f"{i}.{n}": a.copy() for i, one in enumerate(layers) for n, a in one.params.items()}
    inner = Sequential(*layers[1:])
    model = Sequential(layers[0], inner)
    assert list(model.params) == [
        "0.weight", "0.bias", "1.0.weight", "1.0.bias",
        *(f"1.1.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    ]  # fmt: skip
    for n, array in model.params.items():
        i = n.replace("1.1.", "2.").replace("1.0.", "1.")
        np.testing.assert_array_equal(array, values[i])
        assert np.shares_memory(array, model.flat_params)
        assert np.shares_memory(model.grads[n], model.flat_grads)
    for layer in layers:
        for n in layer.params:
            assert any(layer.params[n] is array for array in model.params.values())
        assert np.shares_memory(layer.flat_params, model.flat_params)
        assert layer.params[next(iter(layer.params))].ctypes.data % 64 == 0
    assert inner.params["0.weight"] is model.params["1.0.weight"]
    rest = model.flat_params.sum() - sum(array.sum() for array in model.params.values())
    assert abs(rest) < 1e-4


def test_an_optimizer_of_arrays_that_have_moved_says_so():
    layer = Linear(2, 2)
    optimizer = pyoptk.SGD(layer.params, lr=0.1)
    model = Sequential(layer)
    with pytest.raises(ValueError, match=r"^params\['weight'\]: "):
        optimizer.step(layer.grads)
    pyoptk.SGD(model.params, lr=0.1).step(model.grads)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}])
def test_gradients_are_those_of_finite_differences(lengths, options):
    model, x = classifier(**options), X.T if options else X
    y = model.forward(x, lengths=lengths)
    dy = rng().standard_normal(y.shape)
    assert model.backward(dy) is None
    for name, array in model.params.items():
        grad = model.grads[name]
        grad = grad.dense() if isinstance(grad, pyoptk.SparseRows) else grad
        flat = array.reshape(-1)
        for at in range(0, flat.size, 1 + flat.size // 5):
            before, h, losses = flat[at], 1e-6, []
            for sign in (1, -1):
                flat[at] = before + sign * h
                losses.append(np.sum(model.forward(x, lengths=lengths, train=False) * dy))
            flat[at] = before
            slope = (losses[0] - losses[1]) / (2 * h) * (name != "0.weight" or at >= 3)
            # Losses of a few units to 1e-16, 2e-6 apart.
            assert abs(slope - grad.flat[at]) < 1e-7 * (1 + abs(slope)), (name, at)


def test_lengths_do_what_sequences_cut_short_do():
    model = classifier()
    y = model.forward(X, lengths=LENGTHS, train=False)
    for b, length in enumerate(LENGTHS):
        if length:
            alone = model.forward(X[:length, b : b + 1], train=False)
            np.testing.assert_allclose(y[b], alone[0], rtol=1e-12)


def test_state_goes_in_and_comes_out_and_steps_are_the_same():
    inner = Sequential(pyoptk.GRU(4, 3, dtype=float, rng=rng()), Dropout(0.5, seed=1))
    model = Sequential(pyoptk.LSTM(2, 4, dtype=float, rng=rng()), inner, LayerNorm(3, dtype=float))
    x = rng().standard_normal((6, 5, 2))
    whole = model.forward(x, train=False)
    first, state = model.forward(x[:4], return_state=True, train=False)
    rest = model.forward(x[4:], state=state, train=False)
    np.testing.assert_allclose(np.concatenate([first, rest]), whole, rtol=1e-12)
    for t in (4, 5):
        y, state = model.step(x[t], state)
        np.testing.assert_allclose(y, whole[t], rtol=1e-12)
    with pytest.raises(ValueError, match=r"^state: expected a list of 2, one for each .*got 1"):
        model.forward(x, state=state[:1])
    last = Sequential(pyoptk.RNN(2, 3), Last(), Linear(3, 1))
    y, state = last.step(np.ones((5, 2), np.float32))
    assert y.shape == (5, 1)
    assert len(state) == 1


@pytest.mark.parametrize("cell", [pyoptk.LSTM, pyoptk.GRU])
def test_the_gradient_of_the_last_step_is_one_of_all_steps_that_is_0_elsewhere(cell):
    layers = [cell(3, 4, 2, batch_first=True, rng=rng()) for _ in range(2)]
    model, x = Sequential(layers[0], Last(batch_first=True)), np.ones((2, 5, 3), np.float32)
    model.forward(x)
    dy = np.zeros_like(layers[1].forward(x)[0])
    dy[:, -1] = rng().standard_normal((2, 4))
    expected, _ = layers[1].backward(dy)
    np.testing.assert_array_equal(model.backward(dy[:, -1]), expected)
    np.testing.assert_array_equal(layers[0].flat_grads, layers[1].flat_grads)
    with pytest.raises(RuntimeError):
        model.backward(dy[:, -1])


def test_prediction_goes_in_batches_and_keeps_nothing():
    for options in ({}, {"batch_first": True}):
        model, x = classifier(**options), X.T if options else X
        y = model.forward(x, lengths=LENGTHS)
        assert model.batch_axis == (0 if options else 1)
        for size in (1, 2, 5, 9):
            out = model.predict(x, lengths=LENGTHS, batch_size=size)
            np.testing.assert_allclose(out, y, rtol=1e-12)
        model.backward(y)  # of the forward above
    steps = Sequential(pyoptk.RNN(2, 3, rng=rng()), Linear(3, 1, rng=rng()))
    x = rng().standard_normal((4, 7, 2)).astype(np.float32)
    np.testing.assert_allclose(steps.predict(x, batch_size=3), steps.forward(x), rtol=1e-6)
    assert Sequential(Linear(2, 1)).predict(np.zeros((0, 2), np.float32)).shape == (0, 1)

    class Mean(Layer):
        def forward(self, x, *, train=True):
            return x.mean(0)

    class Heads(Layer):
        def forward(self, x, *, train=True):
            return x.reshape(len(x), 3, 1)

    class Squeeze(Layer):
        def forward(self, x, *, train=True):
            return x[..., 0]

    # Rows are on the first axis, on the first of three, and on the second of two.
    for own in ([Mean(), Linear(3, 1, rng=rng())], [Last(), Heads()], [Squeeze()]):
        odd = Sequential(pyoptk.RNN(2, 3, rng=rng()), *own)
        for steps_, rows in ((4, 7), (3, 6), (1, 3)):  # as many steps as rows in a batch, too
            some = np.resize(x, (steps_, rows, 2))
            for size in (1, 3, 7):
                expected = odd.forward(some, train=False)
                np.testing.assert_allclose(odd.predict(some, batch_size=size), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1"):
        steps.predict(x, batch_size=0)


class Counted(Layer):
    """Calls a function; counts rows, of which it needs two."""

    rows = 0

    def __init__(self, call, axis):
        super().__init__()
        self.call, self.axis = call, axis

    def forward(self, x, *, train=True, lengths=None):
        assert x.shape[self.axis] > 1
        self.rows += x.shape[self.axis]
        return self.call(x)


MOVES = {  # batch_first, what a layer makes of x
    "time first": (True, lambda y: y.swapaxes(0, 1)),
    "rows first": (False, lambda y: y.swapaxes(0, 1)),
    "rows last": (True, lambda y: y.transpose(1, 2, 0)),
    "steps as rows": (True, lambda y: y.reshape(-1, y.shape[-1])),
    "no features": (False, lambda y: y[..., 0]),
    "the last": (False, lambda y: y[-1]),
    "one number": (True, lambda y: y.sum()),
    "one shape": (False, lambda y: y.sum((0, 1))[:3]),
    "steps as rows, time first": (False, lambda y: y.reshape(-1, y.shape[-1])),
}


@pytest.mark.parametrize("move", MOVES)
def test_prediction_finds_the_axis_of_rows_in_the_outputs_of_its_batches(move):
    batch_first, call = MOVES[move]
    for steps, rows, size in ((4, 8, 4), (4, 6, 4), (3, 8, 4), (5, 10, 4), (4, 5, 8)):
        counted = Counted(call, 1 - batch_first)
        model = Sequential(pyoptk.GRU(2, 4, batch_first=batch_first, rng=rng()), counted)
        x = rng().standard_normal((rows, steps, 2) if batch_first else (steps, rows, 2))
        x = x.astype(np.float32)
        expected, counted.rows = model.forward(x, train=False), 0
        if move in list(MOVES)[-3:] and size < rows:
            with pytest.raises(ValueError, match=r"^output of the last layer: .*, got \("):
                model.predict(x, batch_size=size)
        else:
            found = model.predict(x, batch_size=size)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert counted.rows == rows


def test_a_shared_model_runs_on_another_input_before_both_backward_calls():
    model, pair = classifier(), (X, X[:, ::-1])
    other = model.shared()
    dy = rng().standard_normal((2, 5, 2))
    model.forward(pair[0])
    other.forward(pair[1])
    model.backward(dy[0])
    other.backward(dy[1], accumulate=True)
    whole = copy.deepcopy(model)
    whole.forward(np.concatenate(pair, axis=1))
    whole.backward(np.concatenate(dy))
    for name, grad in whole.grads.items():
        both = [grad, model.grads[name]]
        both = [g.dense() if isinstance(g, pyoptk.SparseRows) else g for g in both]
        np.testing.assert_allclose(*both, rtol=1e-9, atol=1e-12)
    assert other.grads is model.grads
    with pytest.raises(TypeError, match=r"^layers\[0\]: expected a method shared"):
        Sequential(Plain()).shared()


class Plain:
    """A layer that derives from nothing, and takes lengths."""

    params = {"scale": np.full(1, 2.0, np.float32)}  # noqa: RUF012

    def __init__(self):
        self.grads = {"scale": np.zeros(1, np.float32)}

    def forward(self, x, *, lengths=None, train=True):
        self.x, self.lengths = x, lengths
        return x * self.params["scale"]

    def backward(self, dy, *, need_dx=True, accumulate=False):
        self.grads = {"scale": np.array([(dy * self.x).sum()])}
        return dy * self.params["scale"]


def test_a_layer_of_ones_own_takes_part():
    plain = Plain()
    model = Sequential(Linear(3, 2, rng=rng()), Sequential(plain), Activation("relu"))
    x = rng().standard_normal((4, 3)).astype(np.float32)
    model.forward(x, lengths=[1, 2])
    assert plain.lengths == [1, 2]
    model.backward(np.ones((4, 2), np.float32))
    assert model.grads["1.0.scale"] is plain.grads["scale"]
    model.load_state_dict({n: 2 * a for n, a in model.state_dict().items()})
    assert plain.params["scale"] == 4
    plain.params["scale"][:] = 2


def test_a_model_without_parameters_and_one_of_other_shapes():
    model = Sequential(Flatten(), Activation("tanh"))
    x = np.ones((2, 3, 4), np.float32)
    assert model.forward(x).shape == (2, 12)
    assert model.backward(np.ones((2, 12), np.float32), need_dx=False) is None
    assert model.flat_params.size == 0
    assert "(B, ...)" in repr(model)
    assert "(B, ...)" in repr(Sequential(Embedding(5, 4), Flatten()))  # of [B] or [B, T]


def test_gradients_of_x_are_not_made_where_nobody_asks():
    class Counting(Layer):
        calls = 0

        def forward(self, x, *, train=True):
            return x

        def backward(self, dy, *, need_dx=True, accumulate=False):
            self.calls += 1
            return dy

    first = Counting()
    model, x = Sequential(first, Linear(2, 2)), np.ones((1, 2), np.float32)
    model.forward(x)
    assert model.backward(x, need_dx=False) is None
    assert first.calls == 0
    model.forward(x)
    assert model.backward(x).shape == (1, 2)
    assert first.calls == 1


def test_backward_goes_with_the_last_forward_that_came_to_its_end():
    model, x = Sequential(Linear(3, 3), Linear(3, 2)), np.ones((1, 3), np.float32)
    dy = model.forward(x)
    with pytest.raises(TypeError):
        model.forward(x.astype(float))
    with pytest.raises(RuntimeError, match="backward: expected a forward with train=True"):
        model.backward(dy)  # the first layer could have kept another x than the second
    model.forward(x)
    model.forward(x, train=False)
    model.backward(dy)
    with pytest.raises(RuntimeError, match=r"train=True before it, .* on .shared\(\)"):
        model.backward(dy)
    model.forward(x)
    with pytest.raises(ValueError, match=r"^dy: expected"):
        model.backward(dy.T)
    model.backward(dy)


class Stop(BaseException):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here")
def test_an_exception_at_any_moment_leaves_no_mixture_of_two_forwards():
    """Gradients after an interrupted forward are those of the one before, or there are none."""
    layers = Linear(3, 4, "tanh", rng=rng()), LayerNorm(4), Dropout(0.0, seed=1)
    model = Sequential(*layers, Linear(4, 2, rng=rng()))
    one, two = (rng().standard_normal((2, 5, 3))).astype(np.float32)
    dy, right = np.ones((5, 2), np.float32), []
    for x in (one, two):
        model.forward(x)
        model.backward(dy)
        right.append(model.flat_grads.tobytes())
    assert right[0] != right[1]
    armed, stopped, draw = [False], 0, np.random.default_rng(1)

    def ring(*_):
        if armed[0]:
            raise Stop

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(300):
            model.forward(one)
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, 1e-4))
                model.forward(two)
                armed[0] = False
            except Stop:
                armed[0] = False
                stopped += 1
            try:
                model.backward(dy)
            except RuntimeError:
                continue
            assert model.flat_grads.tobytes() in right
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped > 20


def test_the_layers_of_a_model_are_those_of_a_sequence():
    model = Sequential(Linear(1, 2), Sequential(Activation("relu"), Linear(2, 1)))
    assert model[0] is model.layers[0]
    assert model[-1][0] is model.layers[1].layers[0]
    assert (len(model), list(model)) == (2, list(model.layers))


class Bare(pyoptk.layers.Layer):
    def forward(self, x):
        return x

    def backward(self, dy, *, need_dx=True):
        return dy


REFUSED = {
    r"layers\[0\]: expected forward with train=, got Bare.forward\(x\)": lambda: Sequential(Bare()),
    r"lengths: expected None, as no layer of this model takes them": lambda: Sequential(
        Linear(1, 1), Sequential(Activation("relu"))
    ).forward(np.ones((3, 2, 1), np.float32), lengths=[1, 2]),
    "layers: expected at least one, got none": lambda: Sequential(),
    r"layers\[0\]: expected an object with params, got <class .*Linear'>": lambda: Sequential(
        Linear
    ),
    r"layers\[1\]: expected an object with params, got str": lambda: Sequential(Linear(1, 1), "x"),
    "layers: expected one dtype, got float32 and float64": lambda: Sequential(
        Linear(1, 1), Linear(1, 1, dtype=float)
    ),
    r"layers\[1\]: expected a layer and parameters of its own": lambda: Sequential(
        *[Linear(1, 1)] * 2
    ),
    r"layers\[2\]: expected a layer and parameters of its own, got those of layers\[1\]": (
        lambda: Sequential(Linear(1, 1), *[Activation("relu")] * 2)
    ),
    r"layers\[1\]: expected batch_first=True, as before it, got False": lambda: Sequential(
        pyoptk.GRU(1, 1, batch_first=True), Sequential(Linear(1, 1), Last())
    ),
    "x: expected 2 axes or more, got float32": lambda: Sequential(pyoptk.RNN(1, 1)).predict(
        np.ones(3, np.float32)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_are_named(message):
    with pytest.raises((TypeError, ValueError), match="^" + message):
        REFUSED[message]()
