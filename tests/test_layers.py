"""The layers of `pyoptk.layers`, one at a time: values, gradients, options, copies, refusals."""

import copy
import pickle
import sys

import numpy as np
import pytest

import pyoptk
from pyoptk import reference
from pyoptk.layers import Activation, Dropout, Embedding, Flatten, Last, Layer, LayerNorm, Linear

SMOOTH = ("tanh", "sigmoid", "gelu", "gelu_tanh", "silu", "softplus")
KINKED = ("relu", "leaky_relu")


def rng():
    return np.random.default_rng(3)


def make(dtype, **options):
    """Each layer by name, with the shape of an input."""
    with_dtype = {"dtype": dtype, "rng": rng()}
    layers = {f"Linear {f}": (Linear(5, 4, f, **with_dtype), (6, 5)) for f in (*SMOOTH, *KINKED)}
    layers |= {f"Activation {f}": (Activation(f), (2, 3, 4)) for f in (*SMOOTH, *KINKED, "none")}
    return layers | {
        "Linear": (Linear(5, 4, **with_dtype), (2, 3, 5)),
        "Linear without bias": (Linear(5, 1, bias=False, **with_dtype), (1, 5)),
        "Linear of a vector": (Linear(5, 2, **with_dtype), (5,)),
        "LayerNorm": (LayerNorm(6, dtype=dtype), (3, 2, 6)),
        "Dropout": (Dropout(0.4, seed=1), (30, 2)),
        "Last": (Last(), (4, 3, 2)),
        "Last, both ways": (Last(batch_first=True, bidirectional=True), (3, 4, 6)),
        "Flatten": (Flatten(), (3, 2, 4)),
    }


NAMES = list(make(np.float64))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    layer, shape = make(np.float64)[name]
    draw = rng()
    x = draw.standard_normal(shape)
    x += np.sign(x) * 1e-3  # no kink within a difference
    y = layer.forward(x)
    dy = draw.standard_normal(y.shape)
    dx = layer.backward(dy)

    def loss():
        if isinstance(layer, Dropout):
            layer.dropout_calls = 0
        return np.sum(layer.forward(x) * dy)

    for array, grad in [(x, dx), *((layer.params[n], layer.grads[n]) for n in layer.params)]:
        assert grad.shape == array.shape
        for at in np.ndindex(array.shape):
            before, h = array[at], 1e-6
            array[at] = before + h
            above = loss()
            array[at] = before - h
            slope = (above - loss()) / (2 * h)
            array[at] = before
            # Losses of a few units to 1e-16, 2e-6 apart; the rest is the third derivative.
            assert abs(slope - grad[at]) < 1e-7 * (1 + abs(slope)), (at, slope, grad[at])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_calls_keep_shape_and_dtype_and_what_is_asked_for(name, dtype):
    layer, shape = make(dtype)[name]
    x = rng().standard_normal(shape).astype(dtype)
    y = layer.forward(x)
    dy = rng().standard_normal(y.shape).astype(dtype)
    assert y.dtype == layer.backward(dy).dtype == dtype
    first = {n: g.copy() for n, g in layer.grads.items()}
    layer.forward(x)
    assert layer.backward(dy, need_dx=False, accumulate=True) is None
    for n, grad in layer.grads.items():
        np.testing.assert_allclose(grad, 2 * first[n], rtol=1e-5)
    strided = np.repeat(x, 2, axis=-1)[..., ::2]
    if not isinstance(layer, Dropout):
        np.testing.assert_array_equal(layer.forward(strided), y)
        np.testing.assert_array_equal(layer.forward(x, train=False), y)
    layer.forward(x)
    layer.backward(dy)
    with pytest.raises(RuntimeError, match="backward: expected a forward with train=True"):
        layer.backward(dy)


@pytest.mark.parametrize("name", NAMES)
def test_a_refused_gradient_uses_nothing_up(name):
    layer, shape = make(np.float32)[name]
    y = layer.forward(np.ones(shape, np.float32))
    for wrong, error in (
        (np.ones((7, 7, 7), np.float32), ValueError),
        (y.astype(float), TypeError),
    ):
        with pytest.raises(error, match=r"^dy: expected"):
            layer.backward(wrong)
    layer.backward(np.ones_like(y))


@pytest.mark.parametrize("name", [*NAMES, "Embedding", "LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_a_copy_is_a_whole_layer_of_its_own(name, how):
    layers = {
        "Embedding": (Embedding(5, 2, padding_idx=0, rng=rng()), None),
        **{n: (getattr(pyoptk, n)(3, 2, rng=rng()), (4, 2, 3)) for n in ("LSTM", "GRU", "RNN")},
    } | make(np.float32)
    layer, shape = layers[name]
    x = np.array([1, 0, 4]) if shape is None else rng().standard_normal(shape).astype(np.float32)
    y = layer.forward(x)
    y = y[0] if isinstance(y, tuple) else y
    layer.backward(np.ones_like(y))
    new = {
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    }[how](layer)
    assert repr(new) == repr(layer)
    for n, array in layer.params.items():
        np.testing.assert_array_equal(new.params[n], array)
        assert not np.shares_memory(new.params[n], array)
        assert np.shares_memory(new.params[n], new.flat_params)
        pair = [
            one.dense() if name == "Embedding" else one for one in (new.grads[n], layer.grads[n])
        ]
        np.testing.assert_array_equal(*pair)
    with pytest.raises(RuntimeError, match="forward"):  # what forward kept stays with the first
        new.backward(np.ones_like(y))
    again = new.forward(x)
    if name != "Dropout":
        np.testing.assert_array_equal(again[0] if isinstance(again, tuple) else again, y)


def test_first_weights_are_those_of_torch_or_keras():
    weight, bias = Linear(50, 30, rng=rng()).params.values()
    assert 0.9 < abs(weight).max() * np.sqrt(50) < 1
    assert 0.7 < abs(bias).max() * np.sqrt(50) < 1
    weight, bias = Linear(50, 30, init="keras", rng=rng()).params.values()
    assert 0.95 < abs(weight).max() / np.sqrt(6 / 80) < 1
    assert not bias.any()
    table = Embedding(200, 40, padding_idx=2, rng=rng()).params["weight"]
    assert not table[2].any()
    assert abs(table.std() - 1) < 0.02
    assert abs(Embedding(9, 9, init="keras", rng=rng()).params["weight"]).max() < 0.05


def test_linear_and_norm_are_their_twins():
    x = rng().standard_normal((6, 5)).astype(np.float32)
    layer = Linear(5, 4, "leaky_relu", slope=0.2, rng=rng())
    expected = np.empty((6, 4), np.float32)
    reference.linear_forward(
        x, *layer.params.values(), expected, activation="leaky_relu", slope=0.2
    )
    np.testing.assert_allclose(layer.forward(x), expected, rtol=1e-5, atol=1e-6)
    norm, (mean, scale) = LayerNorm(5, eps=1e-3), np.empty((2, 6), np.float32)
    expected = np.empty_like(x)
    reference.layer_norm_forward(x, *norm.params.values(), expected, mean, scale, eps=1e-3)
    np.testing.assert_allclose(norm.forward(x), expected, rtol=1e-5, atol=1e-6)


def test_masks_of_dropout_are_new_each_time_and_come_back_from_a_state_dict():
    layer, x = Dropout(0.5, seed=9), np.ones((40, 5), np.float32)
    state = layer.state_dict()
    first, second = layer.forward(x), layer.forward(x)
    assert set(np.unique(first)) == {0, 2}
    assert (first != second).any()
    np.testing.assert_array_equal(layer.backward(x), second)
    layer.load_state_dict(state)
    np.testing.assert_array_equal(layer.forward(x), first)
    assert layer.forward(x, train=False) is x
    with pytest.raises(ValueError, match=r"^state\['seed'\]: expected an integer in 0"):
        layer.check_state_dict({"seed": -1, "dropout_calls": 0})


def test_embedding_has_a_gradient_of_rows():
    layer = Embedding(6, 2, padding_idx=0, rng=rng())
    x = np.array([[1, 0, 5], [5, 1, 1]])
    y = layer.forward(x)
    np.testing.assert_array_equal(y, layer.params["weight"][x])
    dy = rng().standard_normal(y.shape).astype(np.float32)
    assert layer.backward(dy) is None
    expected = np.zeros((6, 2), np.float32)
    np.add.at(expected, x, dy)
    expected[0] = 0
    np.testing.assert_allclose(layer.grads["weight"].dense(), expected, rtol=1e-6)
    layer.forward(x)
    layer.backward(dy, accumulate=True)
    np.testing.assert_allclose(layer.grads["weight"].dense(), 2 * expected, rtol=1e-6)
    before = layer.params["weight"].copy()
    pyoptk.SGD(layer.params, lr=0.5).step(layer.grads)
    np.testing.assert_allclose(layer.params["weight"], before - expected, rtol=1e-6)
    assert layer.flat_grads.size == 0


def test_last_goes_by_lengths():
    x = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    layer = Last()
    np.testing.assert_array_equal(layer.forward(x, lengths=[2, 0]), [x[1, 0], np.zeros(4)])
    dx = layer.backward(np.ones((2, 4), np.float32))
    assert dx.sum() == dx[1, 0].sum() == 4
    both = Last(bidirectional=True, batch_first=True)
    y = both.forward(x.swapaxes(0, 1), lengths=[3, 2])
    np.testing.assert_array_equal(y, [[*x[2, 0, :2], *x[0, 0, 2:]], [*x[1, 1, :2], *x[0, 1, 2:]]])


def test_a_shared_layer_has_the_same_weights_and_a_forward_of_its_own():
    layer = Linear(3, 2, "tanh", rng=rng())
    other, x = layer.shared(), rng().standard_normal((2, 4, 3)).astype(np.float32)
    dy = [np.ones_like(one.forward(part)) for one, part in zip((layer, other), x, strict=True)]
    layer.backward(dy[0])
    other.backward(dy[1], accumulate=True)
    whole = copy.deepcopy(layer)
    whole.forward(x.reshape(8, 3))
    whole.backward(np.ones((8, 2), np.float32))
    for name in layer.grads:
        np.testing.assert_allclose(layer.grads[name], whole.grads[name], rtol=1e-5, atol=1e-6)
    assert Dropout(0.5, seed=2**64 - 1).shared().seed < 2**64 - 1


X = np.ones((2, 3), np.float32)
REFUSED = {
    "inputs: expected an integer >= 1": lambda: Linear(0, 1),
    "activation: expected": lambda: Linear(1, 1, "rulu"),
    "activation: expected one": lambda: Activation(None),
    "slope: expected a number >= 0": lambda: Linear(1, 1, "leaky_relu", slope=-1),
    "init: expected": lambda: Linear(1, 1, init="none"),
    "bias: expected True or False": lambda: Linear(1, 1, bias=1),
    "dtype: expected float32 or float64": lambda: LayerNorm(1, dtype=int),
    "rng: expected a numpy.random.Generator": lambda: Dropout(0.5, rng=1),
    "p: expected a number in": lambda: Dropout(1.0),
    "eps: expected a number >= 0": lambda: LayerNorm(1, eps=-1),
    "eps: expected a number >= 0 that float32": lambda: LayerNorm(1, eps=1e39),
    "slope: expected a number >= 0 that float32": lambda: Activation("leaky_relu", slope=1e39),
    "padding_idx: expected a row in 0..2": lambda: Embedding(3, 1, padding_idx=3),
    r"x: expected float32 \(..., 2\), got float32 \(2, 3\)": lambda: Linear(2, 1).forward(X),
    r"x: expected float32 \(..., 3\), got float64 \(2, 3\); x.astype": lambda: Linear(3, 1).forward(
        X.astype(float)
    ),
    r"x: expected float32 or float64, got int64": lambda: Activation("relu").forward(X.astype(int)),
    "x: expected integers, got float32": lambda: Embedding(3, 1).forward(X),
    "x: expected rows in 0..2, got -1..2": lambda: Embedding(3, 1).forward([2, -1]),
    "x: expected floats of 3 axes": lambda: Last().forward(X),
    "accumulate: expected True or False, got 'yes'": lambda: Last().backward(X, accumulate="yes"),
    "need_dx: expected True or False, got 1": lambda: Dropout(0.5).backward(X, need_dx=1),
    "accumulate: expected True or False, got 0": lambda: Flatten().backward(X, accumulate=0),
    "accumulate: expected True or False, got None": lambda: Activation("relu").backward(
        X, accumulate=None
    ),
    "need_dx: expected True or False, got None": lambda: Embedding(3, 1).backward(X, need_dx=None),
    "x: expected 2 axes or more": lambda: Flatten().forward(X[0]),
    "lengths: expected numbers in 0..2": lambda: Last().forward(X[:, :, None], lengths=[1, 2, 3]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_are_named(message):
    with pytest.raises((TypeError, ValueError), match="^" + message):
        REFUSED[message]()


def test_a_call_lets_go_of_its_arrays():
    layer, x, dy = Linear(3, 2, rng=rng()), X.copy(), np.ones((2, 2), np.float32)
    before = [sys.getrefcount(array) for array in (x, dy)]
    for _ in range(3):
        layer.forward(x)
        layer.backward(dy)
    layer.forward(x, train=False)
    assert [sys.getrefcount(array) for array in (x, dy)] == before


@pytest.mark.parametrize(
    ("layer", "name", "arguments"),
    [
        (Linear(4, 3, rng=rng()), "Linear", (4, 3)),
        (LayerNorm(4), "LayerNorm", (4,)),
        *[
            (Activation(f), name, given)
            for f, name, given in (
                ("relu", "ReLU", ()),
                ("gelu", "GELU", ()),
                ("gelu_tanh", "GELU", ("tanh",)),
                ("silu", "SiLU", ()),
                ("softplus", "Softplus", ()),
            )
        ],
    ],
)
def test_values_and_gradients_are_those_of_torch(layer, name, arguments):
    torch = pytest.importorskip("torch")
    keywords = {"approximate": "tanh"} if arguments == ("tanh",) else {}
    theirs = getattr(torch.nn, name)(*(() if keywords else arguments), **keywords)
    theirs.load_state_dict({n: torch.tensor(a) for n, a in layer.state_dict().items()})
    x = torch.tensor(rng().standard_normal((5, 4)).astype(np.float32), requires_grad=True)
    y = theirs(x)
    y.backward(torch.ones_like(y))
    np.testing.assert_allclose(layer.forward(x.detach().numpy()), y.detach(), rtol=1e-5, atol=1e-6)
    dx = layer.backward(np.ones(tuple(y.shape), np.float32))
    np.testing.assert_allclose(dx, x.grad, rtol=1e-4, atol=1e-5)
    for n, parameter in theirs.named_parameters():
        np.testing.assert_allclose(layer.grads[n], parameter.grad, rtol=1e-4, atol=1e-5)


def test_a_layer_of_its_own_needs_two_methods():
    class Double(Layer):
        def forward(self, x, *, train=True):
            if train:
                self._kept = True
            return 2 * x

        def backward(self, dy, *, need_dx=True, accumulate=False):
            self._take()
            return 2 * dy

    layer = copy.deepcopy(Double())
    assert layer.forward(X).sum() == layer.backward(X).sum() == 12
    assert repr(layer) == "Double()"


EIGHT = np.random.default_rng(0).standard_normal((8, 20)).astype(np.float32)
CALLS = {  # arguments of forward, and the error
    "none": (
        lambda: Linear(20, 20).forward(),
        "x: expected once, and nothing else by position, got 0 by position",
    ),
    "two": (lambda: Linear(20, 20).forward(EIGHT, True), "x: expected once, .* got 2 by"),
    "twice": (
        lambda: Linear(20, 20).forward(EIGHT, x=EIGHT),
        "x: expected once, .* got 1 by position and one by keyword",
    ),
    "unknown": (lambda: Linear(20, 20).forward(EIGHT, trian=True), "trian: .* mean train"),
    "no bool": (lambda: Linear(20, 20).backward(EIGHT, need_dx=1), "need_dx: expected True or"),
}


@pytest.mark.parametrize("how", CALLS)
def test_calls_with_other_arguments_are_refused(how):
    call, message = CALLS[how]
    with pytest.raises(TypeError, match=f"^{message}"):
        call()
    layer = Linear(20, 20, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(layer.forward(x=EIGHT, train=False), layer.forward(EIGHT))
    assert layer.backward(dy=EIGHT, need_dx=False) is None
