"""What people who come from other libraries type, and the answer that they get."""

import numpy as np
import pytest

import pyoptk


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"learning_rate": 1}, r"^learning_rate: unknown keyword; did you mean lr\? Known: lr, "),
        ({"betas": (0.9, 0.99)}, r"^betas: unknown keyword; did you mean beta1 and beta2\?"),
        ({"epsilon": 1e-8}, r"^epsilon: unknown keyword; did you mean eps\?"),
        ({"alpha": 1e-8}, r"^alpha: unknown keyword; did you mean lr\?"),
        ({"clipnorm": 1}, r"^clipnorm: unknown keyword; did you mean max_norm\?"),
        ({"weightdecay": 1}, r"^weightdecay: unknown keyword; did you mean weight_decay\?"),
        ({"xyzzy": 1}, r"^xyzzy: unknown keyword\. Known: lr"),
    ],
    ids=str,
)
def test_an_unknown_keyword_is_answered_with_the_right_one(keywords, message):
    with pytest.raises(TypeError, match=message):
        pyoptk.Adam(np.ones(2), **keywords)
    with pytest.raises(TypeError, match=r"^alpha: .* did you mean rho\?"):
        pyoptk.RMSprop(np.ones(2), alpha=0.9)


NET, LOSSES = pyoptk.layers.Sequential(pyoptk.layers.Linear(1, 1)), pyoptk.losses


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda opt, _: opt.learning_rate,
            "^SGD has no attribute 'learning_rate'; did you mean lr",
        ),
        (lambda opt, _: opt.param_groups, "^SGD has no attribute 'param_groups'; did you mean gro"),
        (lambda opt, _: opt.apply_gradients([]), "^SGD has no .*'; did you mean step.$"),
        (lambda opt, _: setattr(opt, "learning_rate", 1), "^SGD .*'learning_rate'; .* mean lr"),
        (lambda opt, _: setattr(opt, "xyzzy", 1), "^SGD has no .* 'xyzzy', only lr, momentum, "),
        (lambda opt, _: opt.beta1, "^SGD has no attribute 'beta1'$"),
        (lambda _, layer: layer.parameters(), "^RNN has no attribute .*; did you mean params"),
        (lambda _, layer: layer.xyzzy, "^RNN has no attribute 'xyzzy'$"),
        (
            lambda _, layer: layer.bias_hh_l0,
            r"^bias_hh_l0: an array of params; .*\['bias_hh_l0'\]$",
        ),
        (lambda _, layer: layer(1), r"^RNN is not callable; did you mean forward\?$"),
        (
            lambda *_: pyoptk.layers.Linear(1, 1)(1),
            r"^Linear is not callable; did you mean forward",
        ),
        (lambda *_: pyoptk.layers.Linear(1, 1).parameters(), "^Linear .*; did you mean params"),
        (lambda *_: pyoptk.layers.Linear(1, 1).weight, r"^weight: an array of params; .*'weight'"),
        (lambda *_: pyoptk.layers.Linear(1, 1).units, "^Linear .*; did you mean outputs"),
        (lambda *_: pyoptk.layers.LayerNorm(1).weight, r"^weight: an array of params"),
        (lambda *_: NET.fit(1), r"^Sequential has no attribute 'fit'; pyoptk\.fit\(model, "),
        (lambda *_: NET.eval(), r"^Sequential has no attribute 'eval'; forward\(x, train=False"),
        (lambda *_: NET.parameters(), "^Sequential has no attribute 'parameters'; see params$"),
        (lambda *_: LOSSES.cross_entropy(1, 2, weight=3), r"^weight: .* mean class_weights\?"),
        (lambda *_: LOSSES.mse(1, 2, sample_weight=3), r"^sample_weight: .* mean weights\?"),
        (lambda *_: LOSSES.huber(1, 2, beta=3), r"^beta: .* mean delta\?"),
        (lambda *_: LOSSES.bce_with_logits(1, 2, reduction="sum"), "^reduction: .* mean over rows"),
        (lambda *_: pyoptk.Linear, r"^module 'pyoptk' has .*; did you mean pyoptk\.layers\.Linear"),
        (lambda *_: pyoptk.Dense, "^module 'pyoptk' has no attribute 'Dense'$"),
    ],
    ids=range(24),
)
def test_what_other_libraries_have_is_answered_with_its_name_here(use, message):
    with pytest.raises((AttributeError, TypeError), match=message):
        use(pyoptk.SGD(np.ones(2), lr=0.1), pyoptk.RNN(1, 1))


def test_zero_grad_called_as_a_method_says_what_to_do():
    for value in (False, True):
        opt = pyoptk.SGD(np.ones(2), zero_grad=value)
        assert opt.zero_grad == opt.hyper["zero_grad"] == value
        assert repr(opt.zero_grad) == repr(value)
        with pytest.raises(TypeError, match=r"^zero_grad: a switch, .* zero_grad=True, .* = 0"):
            opt.zero_grad()
        opt.zero_grad = opt.zero_grad
        assert opt.hyper["zero_grad"] is value


def test_a_choice_may_be_anything_and_is_answered_in_our_words():
    for value in (np.array([1, 2]), {}, None):
        with pytest.raises(ValueError, match=r"^on_nonfinite: expected one of propagate, skip"):
            pyoptk.SGD(np.ones(2), on_nonfinite=value)


def test_numpy_integers_are_integers():
    before = pyoptk.get_num_threads()
    pyoptk.set_num_threads(np.int64(1))
    assert pyoptk.get_num_threads() == 1
    pyoptk.set_num_threads(before)


X = np.ones((4, 3), np.float32)
FOREIGN = {
    "Linear(in_features": (lambda of: of.Linear(in_features=3), "^in_features: .*mean inputs"),
    "use_bias": (lambda of: of.Linear(3, 2, use_bias=False), "^use_bias: .* mean bias"),
    "rate": (lambda of: of.Dropout(rate=0.1), "^rate: unknown keyword; did you mean p"),
    "num_embeddings": (lambda of: of.Embedding(num_embeddings=3), "^num_embeddings: .* mean rows"),
    "normalized_shape": (lambda of: of.LayerNorm(normalized_shape=3), "^normal.*mean size"),
    "Flatten(1)": (lambda of: of.Flatten(1), "^shapes: expected a dict of names and shapes or"),
    "integer keys": (lambda of: of.Linear(3, 2).load_state_dict({0: X}), "^state: expec"),
    "of a model": (lambda of: of.Sequential(of.Linear(3, 2)).from_torch({0: X}), "^state: exp"),
    "of PyTorch": (lambda _: pyoptk.LSTM.from_torch({0: X}), "^state: expected names as keys"),
    "no weights": (lambda _: pyoptk.LSTM.from_onnx([], []), "^W: expected at least one array"),
    "ragged": (lambda of: of.Sequential(of.Linear(3, 2)).predict([[1, 2, 3], [3]]), "^x: expected"),
    "unaligned": (
        lambda _: pyoptk.minGRU(3, 2).forward(
            np.frombuffer(bytes(49), np.float32, 12, 1).reshape(2, 2, 3)
        ),
        "^x: expected an array that is aligned",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_layers_do_not_take_is_answered_by_name(name):
    call, message = FOREIGN[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call(pyoptk.layers)


def test_a_users_layer_may_take_any_keyword():
    class Named(pyoptk.layers.Layer):
        def __init__(self, **keywords):
            super().__init__()
            self.named = keywords

    assert Named(units=3).named == {"units": 3}


@pytest.mark.parametrize("keyword", ["learning_rate", "betas"])
def test_groups_with_names_of_other_libraries_are_answered_with_ours(keyword):
    with pytest.raises(ValueError, match=rf"^groups\['\*'\]: .* got '{keyword}'; did you mean "):
        pyoptk.Adam({"w": np.ones(2)}, groups={"*": {keyword: 0.1}})


def test_numbers_of_another_dtype_are_refused_with_the_remedy():
    layers = pyoptk.layers
    for layer in (layers.Linear(2, 2), layers.LayerNorm(2), pyoptk.minGRU(2, 2), pyoptk.GRU(2, 2)):
        with pytest.raises(TypeError, match=r"; x\.astype\(numpy\.float32\) has that dtype$"):
            layer.forward(np.ones((3, 1, 2)))
    with pytest.raises(TypeError, match=r"; x\.astype\(numpy\.float32\) has that dtype$"):
        layers.Linear(2, 2).forward(np.ones((3, 2), int))


class Tensor:
    """What of a tensor of PyTorch that requires a gradient can be seen without PyTorch."""

    def detach(self):
        raise NotImplementedError

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda tensor: pyoptk.layers.Linear(3, 2).forward(tensor), "x"),
        (lambda tensor: pyoptk.losses.cross_entropy(X, tensor), "target"),
        (lambda tensor: pyoptk.GRU(3, 2).forward(X[None], lengths=tensor), "lengths"),
        (lambda tensor: pyoptk.save("x.npz", part=tensor), "part"),
        (
            lambda tensor: pyoptk.layers.LayerNorm(3).load_state_dict(
                {"weight": tensor, "bias": X}
            ),
            r"state\['weight'\]",
        ),
    ],
    ids=range(5),
)
def test_a_tensor_is_refused_with_the_call_that_helps(call, name):
    with pytest.raises(TypeError, match=rf"^{name}: .* got Tensor; its \.detach\(\)\.numpy\(\) sh"):
        call(Tensor())


class ReadOnly:
    """An array of another library, which NumPy may read."""

    def __init__(self, array):
        self.array = np.array(array)
        self.array.flags.writeable = False

    def __array__(self, *_, **__):
        return self.array


RNG = np.random.default_rng(0)
SEQ, ROWS, MASK = RNG.random((5, 2, 3), "f"), RNG.random((4, 3), "f"), np.zeros((5, 2), bool)
ONE = SEQ[..., 0]
MINIMAL = pyoptk.minGRU(3, 4, rng=RNG)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda x: LOSSES.cross_entropy(x, [0, 1, 2, 0]), [ROWS]),
        (LOSSES.cross_entropy, [ROWS, ROWS / ROWS.sum(1, keepdims=True)]),
        (LOSSES.mse, [ROWS, ROWS + 1]),
        (LOSSES.mae, [ROWS, ROWS + 1]),
        (LOSSES.huber, [ROWS, ROWS + 1]),
        (LOSSES.bce_with_logits, [ROWS, ROWS]),
        (pyoptk.linear_scan, [SEQ, SEQ, SEQ[0]]),
        (pyoptk.linear_scan_backward, [SEQ, SEQ, SEQ, SEQ[0]]),
        (lambda *a: pyoptk.gae(*a, 0.9, 0.8), [SEQ[..., 0], RNG.random((6, 2), "f"), MASK]),
        (lambda r, d, e: pyoptk.discounted_returns(r, d, 0.9, e), [ONE, MASK, ONE[0]]),
        (MINIMAL.forward, [SEQ, SEQ[:1, :, :1].repeat(4, 2)]),
        (lambda dy: (MINIMAL.forward(SEQ), MINIMAL.backward(dy))[1], [SEQ[..., :1].repeat(4, 2)]),
        (MINIMAL.step, [SEQ[0]]),
        (NET[0].forward, [ROWS[:, :1]]),
    ],
)  # fmt: skip
def test_arrays_of_other_libraries_are_read(function, arguments):
    wanted, found = function(*arguments), function(*map(ReadOnly, arguments))
    assert repr(found) == repr(wanted)
