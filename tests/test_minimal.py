"""The layers whose gates see the input alone: against the twin, differences and their formulas."""

import copy
import pickle
import threading
from functools import partial

import numpy as np
import pytest

import pyoptk
from pyoptk import reference

LAYERS = ["minGRU", "minLSTM"]
SIZES = [(7, 3, 5, 4), (1, 1, 1, 1), (0, 2, 3, 4), (6, 0, 3, 4), (20, 9, 40, 70)]  # T, B, I, H
OPTIONS = [
    {}, {"bias": False}, {"positive": False}, {"resets": True}, {"lengths": True},
    {"lengths": True, "resets": True, "positive": False}, {"batch_first": True, "lengths": True},
    {"num_layers": 3, "lengths": True, "resets": True}, {"num_layers": 2, "bias": False},
]  # fmt: skip


@pytest.fixture(params=LAYERS)
def cls(request):
    return getattr(pyoptk, request.param)


class Case:
    """A layer, a batch for it, and the twin."""

    def __init__(self, cls, size, dtype, rng, *, resets=False, lengths=False, **settings):
        self.T, self.B, I, H = size
        self.layer = cls(I, H, dtype=dtype, rng=rng, **settings)
        L = self.layer.num_layers
        self.x = self.turned(rng.standard_normal((self.T, self.B, I)).astype(dtype)).copy()
        self.h0, self.dh = rng.uniform(-1, 1, (2, L, self.B, H)).astype(dtype)
        self.dy = self.turned(rng.uniform(-1, 1, (self.T, self.B, H)).astype(dtype)).copy()
        self.how = {"lengths": rng.integers(0, self.T + 1, self.B)} if lengths else {}
        if resets:
            self.how["resets"] = self.turned(rng.random((self.T, self.B)) < 0.3)

    def turned(self, x):
        """From time-major to the axes of the layer, or back."""
        return x.swapaxes(0, 1) if self.layer.batch_first else x

    def twin(self, part):
        return getattr(reference, f"{type(self.layer).__name__.lower()}_{part}")

    def weights(self, level=0):
        params, gates = self.layer.params, self.layer.parts
        biases = None
        if self.layer.bias:
            biases = [params[f"bias_{gate}_l{level}"] for gate in gates]
        return [params[f"weight_{gate}_l{level}"] for gate in gates], biases

    def by_twin(self):
        """y, the last states, dx, dh0 and the gradients of all parameters."""
        how, L = self.how | {"positive": self.layer.positive}, self.layer.num_layers
        x, kept, last, first, grads = self.turned(self.x), [], [], [None] * L, []
        for level in range(L):
            h = self.twin("forward")(x, self.h0[level], *self.weights(level), **how)
            kept.append((x, h))
            last.append(h[-1])
            x = h[1:]
            if "lengths" in how:
                past = np.arange(self.T)[:, None] >= how["lengths"]
                x = np.where(past[:, :, None], 0, x)
        dx = self.turned(self.dy)
        for level in reversed(range(L)):
            below, h = kept[level]
            dx, first[level], dw, db = self.twin("backward")(
                below, h, *self.weights(level), dx, self.dh[level], **how
            )
            grads = [*dw, *(db if self.layer.bias else ()), *grads]
        return [self.turned(x), np.stack(last), self.turned(dx), np.stack(first), *grads]

    def by_layer(self):
        y, last = self.layer.forward(self.x, self.h0, **self.how)
        dx, dh0 = self.layer.backward(self.dy, self.dh)
        return [y, last, dx, dh0, *(grad.copy() for grad in self.layer.grads.values())]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_passes_equal_the_twin(cls, size, options, dtype, threads, rng):
    case = Case(cls, size, dtype, rng, **options)
    for ours, twin in zip(case.by_layer(), case.by_twin(), strict=True):
        assert ours.dtype == dtype
        # Sums of up to 180 rows, each of numbers of about 1.
        np.testing.assert_allclose(ours, twin, rtol=0, atol=500 * np.finfo(dtype).eps)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_agree_with_central_differences(cls, options, rng):
    case = Case(cls, (5, 3, 2, 3), np.float64, rng, **options)
    layer = case.layer

    def loss():
        y, last = layer.forward(case.x, case.h0, train=False, **case.how)
        return (y * case.dy).sum() + (last * case.dh).sum()

    _, _, dx, dh0, *_ = case.by_layer()
    for x, gradient in ((case.x, dx), (case.h0, dh0), (layer.flat_params, layer.flat_grads)):
        for i in np.ndindex(x.shape):
            was, found = x[i], []
            for x[i] in (was - 1e-6, was + 1e-6):
                found.append(loss())
            x[i] = was
            # Differences lose half of the digits.
            assert abs((found[1] - found[0]) / 2e-6 - gradient[i]) < 1e-7


def test_a_continued_sequence_is_the_same_sequence(cls, dtype, rng):
    """Bit for bit: in pieces, and step by step."""
    case = Case(cls, (9, 4, 5, 6), dtype, rng)
    y, last = case.layer.forward(case.x, case.h0)
    state, pieces = case.h0, []
    for piece in (case.x[:4], case.x[4:]):
        part, state = case.layer.forward(piece, state)
        pieces.append(part)
    np.testing.assert_array_equal(np.concatenate(pieces), y)
    np.testing.assert_array_equal(state, last)
    state = case.h0
    for x, whole in zip(case.x, y, strict=True):
        part, state = case.layer.step(x, state)
        np.testing.assert_array_equal(part, whole)
    np.testing.assert_array_equal(state, last)


def test_threads_and_the_rest_of_the_batch_change_no_bit(cls, rng):
    case = Case(cls, (40, 9, 33, 70), np.float32, rng)
    pyoptk.set_num_threads(1)
    one = case.by_layer()
    pyoptk.set_num_threads(3)
    for ours, first in zip(case.by_layer(), one, strict=True):
        np.testing.assert_array_equal(ours, first)
    pyoptk.set_num_threads()
    y, _ = case.layer.forward(case.x[:, 2:5], case.h0[:, 2:5])
    np.testing.assert_array_equal(y, one[0][:, 2:5])


def test_nan_past_an_end_and_before_a_reset_reaches_nothing(cls, rng):
    case = Case(cls, (6, 3, 4, 5), np.float64, rng)
    case.how = {"lengths": np.array([6, 2, 0]), "resets": np.zeros((6, 3), bool)}
    expected = case.by_layer()
    case.x[2:, 1] = case.x[:, 2] = case.dy[2:, 1] = case.dy[:, 2] = np.nan
    for ours, first in zip(case.by_layer(), expected, strict=True):
        np.testing.assert_array_equal(ours, first)
    case.how["resets"][3, 0] = True
    case.h0[0, 0] = np.nan
    y, last = case.layer.forward(case.x, case.h0, **case.how)
    assert np.isnan(y[:3, 0]).all()
    assert np.isfinite(y[3:, 0]).all()
    assert np.isfinite(last[0, 0]).all()


def test_gates_far_below_zero_divide_nothing_by_zero(dtype):
    layer = pyoptk.minLSTM(1, 2, bias=False, positive=False, dtype=dtype)
    for name, values in {"f": [-900, -400], "i": [-900, -401], "h": [1, 1]}.items():
        layer.params[f"weight_{name}_l0"][:, 0] = values
    y, _ = layer.forward(np.ones((1, 1, 1), dtype), np.zeros((1, 1, 2), dtype))
    # i / (f + i) with f = i, then with i = f / e
    np.testing.assert_allclose(y[0, 0], [0.5, 1 / (1 + np.e)], rtol=1e-5)
    assert all(np.isfinite(part).all() for part in layer.backward(y))


def test_accumulated_gradients_add_up_and_parts_may_be_left_out(cls, dtype, rng):
    case = Case(cls, (5, 2, 3, 4), dtype, rng)
    whole, layer = case.by_layer(), case.layer
    layer.forward(case.x, case.h0)
    dx, dh0 = layer.backward(case.dy, case.dh, accumulate=True, need_dx=False)
    assert dx is None
    np.testing.assert_array_equal(dh0, whole[3])
    for grad, once in zip(layer.grads.values(), whole[4:], strict=True):
        np.testing.assert_array_equal(grad, 2 * once)
    layer.forward(case.x)
    assert layer.backward(None, case.dh)[1] is None
    with pytest.raises(RuntimeError, match=r"^backward: expected a forward with train=True"):
        layer.backward(None)
    layer.forward(case.x)
    layer.forward(case.x, train=False)[0][:] = 0
    layer.forward(case.x)[0][:] = 0  # results are the caller's
    first = layer.backward(case.dy)[0]
    layer.forward(case.x)
    np.testing.assert_array_equal(layer.backward(case.dy)[0], first)


def test_copies_are_whole_layers_and_weights_stay_their_arrays(cls, rng):
    layer = cls(3, 4, positive=False, rng=rng)
    x = rng.standard_normal((2, 1, 3)).astype("f4")
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(other.forward(x)[0], layer.forward(x)[0])
        other.flat_params[:] = 0
        assert not other.params["weight_h_l0"].any()
        assert layer.params["weight_h_l0"].all()
        other.load_state_dict(layer.state_dict())
        np.testing.assert_array_equal(other.flat_params, layer.flat_params)
        assert repr(other) == repr(layer)
    with pytest.raises(AttributeError, match=r"^hidden_size: cannot be assigned"):
        layer.hidden_size = 5
    with pytest.raises(ValueError, match="state"):
        layer.load_state_dict({"weight_z_l0": 1})


def test_a_step_of_layers_is_forward(cls, dtype, rng):
    case = Case(cls, (5, 4, 3, 6), dtype, rng, num_layers=2, batch_first=True)
    y, last = case.layer.forward(case.x, case.h0)
    assert y.shape == (4, 5, 6)
    assert y.flags.c_contiguous
    state = case.h0
    for t in range(5):
        part, state = case.layer.step(case.x[:, t], state)
        np.testing.assert_array_equal(part, y[:, t])
    np.testing.assert_array_equal(state, last)


def test_a_second_thread_is_refused_and_an_exception_unlocks(cls, monkeypatch):
    layer, inside, results = cls(3, 4), threading.Event(), []
    go, opened = threading.Event(), cls._open

    def slow(self, *k):
        inside.set()
        go.wait(10)
        return opened(self, *k)

    x = np.ones((2, 1, 3), np.float32)
    monkeypatch.setattr(cls, "_open", slow)
    first = threading.Thread(target=lambda: results.append(layer.forward(x)))
    first.start()
    inside.wait(10)
    load = partial(layer.load_state_dict, layer.state_dict())
    for call in (lambda: layer.forward(x), lambda: layer.backward(None), load):
        with pytest.raises(RuntimeError, match=r"^this layer is in use in another thread already$"):
            call()
    go.set()
    first.join()
    np.testing.assert_array_equal(layer.step(x[0])[0], results[0][0][0])
    with pytest.raises(TypeError, match=r"^x: "):
        layer.forward([1])
    assert layer.backward(results[0][0])[0].shape == x.shape


def test_a_layer_learns(cls, rng):
    layer = cls(2, 8, rng=rng)
    opt = pyoptk.Adam(layer.params, lr=0.05)
    x = rng.standard_normal((10, 16, 2)).astype("f4")
    target = np.abs(np.cumsum(x, 0)[-1, :, :1])
    losses = []
    for _ in range(60):
        y, _ = layer.forward(x)
        dy = np.zeros_like(y)
        dy[-1] = y[-1] - target
        losses.append((dy**2).sum())
        layer.backward(dy)
        opt.step(layer.grads)
    assert losses[-1] < losses[0] / 2


X, LAYER = np.ones((4, 2, 3), np.float32), pyoptk.minGRU(3, 5)
BAD = {
    "sizes": (lambda: pyoptk.minGRU(0, 5), ValueError, "^input_size: expected an integer >= 1"),
    "a keyword": (lambda: pyoptk.minGRU(3, 5, layers=1), TypeError, "^layers: unknown keyword"),
    "a switch": (lambda: pyoptk.minLSTM(3, 5, positive=1), TypeError, "^positive: expected True"),
    "x": (lambda: LAYER.forward(X[0]), ValueError, r"^x: expected shape \(any, any, 3\), got"),
    "another dtype": (lambda: LAYER.forward(X.astype(float)), TypeError, "^x: expected float32"),
    "a list": (lambda: LAYER.forward([1.0]), TypeError, "^x: expected a float32 or float64"),
    "a state": (lambda: LAYER.forward(X, X), ValueError, r"^state: expected shape \(1, 2, 5\)"),
    "lengths": (lambda: LAYER.forward(X, lengths=[5, 1]), ValueError, "^lengths: expected numbers"),
    "resets": (lambda: LAYER.forward(X, resets=[1]), TypeError, "^resets: expected bool "),
    "a step": (lambda: LAYER.step(X), ValueError, r"^x: expected shape \(any, 3\)"),
}


@pytest.mark.parametrize("bad", BAD)
def test_wrong_arguments_are_refused_by_name(bad):
    call, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        call()


def test_wrong_gradients_leave_the_forward_to_be_repeated():
    y, _ = LAYER.forward(X)
    for dy, dstate in ((X, None), (y.astype(float), None), (y, X)):
        with pytest.raises((TypeError, ValueError), match=r"^d(y|state): expected"):
            LAYER.backward(dy, dstate)
    LAYER.backward(y)
