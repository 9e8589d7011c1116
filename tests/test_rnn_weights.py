"""Initial weights of layers; weights from and to other libraries."""

import inspect
import os
import re

import numpy as np
import pytest

import pyoptk
from pyoptk.rnn.layer import OWN_ARGUMENTS
from pyoptk.rnn.weights import KINDS


def keras_like(dtype, seed=4):
    return pyoptk.LSTM(3, 16, 2, dtype=dtype, init="keras", rng=np.random.default_rng(seed))


def test_the_same_generator_gives_the_same_weights_in_pytorchs_range():
    one, two = (pyoptk.LSTM(3, 16, rng=np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one.flat_params, two.flat_params)
    assert 0.24 < np.abs(one.flat_params).max() <= 0.25


def test_keras_weights_are_glorot_orthogonal_and_open_the_forget_gate(dtype):
    lstm = keras_like(dtype)
    for layer, inputs in enumerate((3, 16)):
        w_ih, w_hh, b_ih, b_hh = (lstm.params[f"{kind}_l{layer}"] for kind in KINDS)
        limit = np.sqrt(6 / (inputs + 64))
        assert 0.9 * limit < np.abs(w_ih).max() <= limit
        assert abs(w_ih.mean()) < 5 * limit / np.sqrt(3 * w_ih.size)
        np.testing.assert_allclose(w_hh.T @ w_hh, np.eye(16), atol=10 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(b_ih.reshape(4, 16), [[0] * 16, [1] * 16, [0] * 16, [0] * 16])
        assert (b_hh == 0).all()
    np.testing.assert_array_equal(lstm.flat_params, keras_like(dtype).flat_params)
    assert (lstm.flat_params != keras_like(dtype, seed=5).flat_params).any()


def test_orthogonal_weights_favour_no_direction():
    """NumPy's QR alone gives a Q whose diagonal is never positive: the signs of R correct it."""
    rng = np.random.default_rng(0)
    corners = [
        pyoptk.LSTM(1, 4, init="keras", rng=rng).params["weight_hh_l0"][0, 0] for _ in range(400)
    ]
    assert abs(np.mean(corners)) < 5 * np.std(corners) / 20


def test_a_library_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"^init: expected one of torch, keras, got 'zeros'$"):
        pyoptk.LSTM(2, 3, init="zeros")


# ---- other libraries ----------------------------------------------------------------------------

LAYERS = [
    {"num_layers": layers, "bidirectional": both, "bias": bias}
    for layers in (1, 3)
    for both in (False, True)
    for bias in (False, True)
]

# The class: Keras's name, what ONNX's operator must be told, keywords here and in Keras.
KINDS_OF_LAYERS = {
    "LSTM": (pyoptk.LSTM, "LSTM", {}, {}),
    "GRU": (pyoptk.GRU, "GRU", {"linear_before_reset": 1}, {}),
    "GRU before": (pyoptk.GRU, "GRU", {"linear_before_reset": 0}, {"reset_after": False}),
    "RNN": (pyoptk.RNN, "SimpleRNN", {}, {}),
}
OF_ONNX = {"LSTM peepholes": (pyoptk.LSTM, None, {}, {"peepholes": True})}
kinds = pytest.mark.parametrize("kind", KINDS_OF_LAYERS)
OF_TORCH = {"LSTM projected": (pyoptk.LSTM, None, {}, {"proj_size": 4})}
of_torch = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", *OF_TORCH])


def exactly(options, dtype, rng, kind="LSTM"):
    """A layer, a sequence, and the output of the layer for it."""
    made, _, _, own = (KINDS_OF_LAYERS | OF_ONNX | OF_TORCH)[kind]
    lstm = made(5, 7, **options, **own, dtype=dtype, rng=rng)
    x = rng.standard_normal((6, 3, 5)).astype(dtype)
    return lstm, x, lstm.forward(x, train=False)[0]


@kinds
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_weights_come_back_as_they_went(options, kind, dtype, rng):
    lstm, x, y = exactly(options, dtype, rng, kind)
    both = {"bidirectional": options["bidirectional"]}
    made, _, _, own = KINDS_OF_LAYERS[kind]
    others = [made.from_onnx(*lstm.to_onnx(), **own)]
    if not own:
        prefixed = {f"a.b.{n}": a for n, a in lstm.params.items()}
        others += [made.from_torch(lstm.to_torch()), made.from_torch(prefixed, prefix="a.b.")]
    for other in others:
        assert repr(other) == repr(lstm)
        np.testing.assert_array_equal(other.flat_params, lstm.flat_params)
    keras = made.from_keras(*lstm.to_keras(), **both, **own)  # whose one bias is the sum
    assert repr(keras) == repr(lstm)
    np.testing.assert_array_equal(keras.forward(x)[0], y)
    for ours, theirs in zip(keras.to_keras(), lstm.to_keras(), strict=True):
        pairs = zip(ours, theirs, strict=True) if isinstance(ours, list) else [(ours, theirs)]
        for one, other in pairs:
            np.testing.assert_array_equal(one, other)


@of_torch
def test_converted_weights_are_copies(kind, rng):
    lstm, *_ = exactly({}, np.float32, rng, kind)
    others = () if kind in OF_TORCH else (lstm.to_keras(), lstm.to_onnx())
    for arrays in (lstm.to_torch().values(), *others):
        assert not any(np.shares_memory(a, lstm.flat_params) for a in arrays)
    state = lstm.to_torch()
    other = type(lstm).from_torch(state, batch_first=True, save="minimal")
    assert not any(np.shares_memory(a, other.flat_params) for a in state.values())
    assert (other.batch_first, other.save) == (True, "minimal")


OPTIONS = [
    (pyoptk.GRU, "reset_after", False, ["torch"]),
    (pyoptk.LSTM, "peepholes", True, ["torch", "keras"]),
    (pyoptk.LSTM, "coupled", True, ["torch", "keras"]),
    (pyoptk.LSTM, "cell_clip", 0.5, ["torch", "keras", "onnx"]),
    (pyoptk.LSTM, "proj_size", 3, ["keras", "onnx"]),
    (pyoptk.LSTM, "zoneout", (0.1, 0.2), ["torch", "keras", "onnx"]),
    (pyoptk.GRU, "zoneout", 0.2, ["torch", "keras", "onnx"]),
    (pyoptk.RNN, "zoneout", 0.2, ["torch", "keras", "onnx"]),
]


@pytest.mark.parametrize(("kind", "name", "value", "libraries"), OPTIONS)
def test_what_a_library_does_not_compute_is_refused(kind, name, value, libraries):
    for library in libraries:
        weights = getattr(kind(5, 7), f"to_{library}")()
        weights = [weights] if library == "torch" else weights
        message = rf"^{name}: expected .+, as \w+ has nothing else, got {re.escape(str(value))}$"
        with pytest.raises(ValueError, match=message):
            getattr(kind(5, 7, **{name: value}), f"to_{library}")()
        with pytest.raises(ValueError, match=message):
            getattr(kind, f"from_{library}")(*weights, **{name: value})


@of_torch
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_outputs_equal_pytorch(options, kind, dtype, rng):
    torch = pytest.importorskip("torch")
    made, _, _, own = (KINDS_OF_LAYERS | OF_TORCH)[kind]
    theirs = getattr(torch.nn, made.__name__)(
        5, 7, **options, **own, dtype=getattr(torch, np.dtype(dtype).name)
    )
    lstm = made.from_torch(theirs.state_dict())
    x = rng.standard_normal((6, 3, 5)).astype(dtype)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(x))[0].numpy()
    assert np.abs(lstm.forward(x)[0] - expected).max() < 2e-6
    back = {name: torch.from_numpy(a) for name, a in lstm.to_torch().items()}
    theirs.load_state_dict(back)


@pytest.fixture
def keras(monkeypatch):
    """Keras, on its NumPy backend unless another is chosen."""
    if "KERAS_BACKEND" not in os.environ:
        monkeypatch.setenv("KERAS_BACKEND", "numpy")
    return pytest.importorskip("keras")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
@kinds
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_outputs_equal_keras(options, kind, keras, rng):
    layers = []
    for _ in range(options["num_layers"]):
        made, name, _, own = KINDS_OF_LAYERS[kind]
        layer = getattr(keras.layers, name)(
            7, return_sequences=True, use_bias=options["bias"], **own
        )
        layers.append(keras.layers.Bidirectional(layer) if options["bidirectional"] else layer)
    model = keras.Sequential([keras.Input((6, 5)), *layers])
    lstm, x, y = exactly(options, np.float32, rng, kind)
    parts = lstm.to_keras()
    parts = [p if isinstance(p, list) else [p] for p in parts if p is not None]
    model.set_weights([array for part in zip(*parts, strict=True) for array in part])
    theirs = keras.ops.convert_to_numpy(model(x.swapaxes(0, 1)))
    assert np.abs(y - theirs.swapaxes(0, 1)).max() < 2e-6
    got = model.get_weights()
    kernels, recurrents, *biases = (got[k :: len(parts)] for k in range(len(parts)))
    both = options["bidirectional"]
    back = made.from_keras(kernels, recurrents, *biases, bidirectional=both, **own)
    np.testing.assert_array_equal(back.forward(x)[0], y)


@pytest.mark.parametrize("kind", [*KINDS_OF_LAYERS, *OF_ONNX])
@pytest.mark.parametrize("options", [o for o in LAYERS if o["num_layers"] == 1], ids=str)
def test_outputs_equal_onnx(options, kind, rng):
    onnx = pytest.importorskip("onnx")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    lstm, x, y = exactly(options, np.float32, rng, kind)
    given = dict(zip("XWRBP", (x, *lstm.to_onnx()), strict=False))
    names = [name if given.get(name) is not None else "" for name in "XWRB"]
    names += ["", "", "", "P"] if "P" in given else []
    given = {name: a for name, a in given.items() if a is not None}
    helper = onnx.helper
    node = helper.make_node(
        type(lstm).__name__, names, ["Y"], hidden_size=7, **(KINDS_OF_LAYERS | OF_ONNX)[kind][2],
        direction="bidirectional" if options["bidirectional"] else "forward",
    )  # fmt: skip
    inputs, outputs = (
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names]
        for names in (given, "Y")
    )
    model = helper.make_model(helper.make_graph([node], "g", inputs, outputs))
    (theirs,) = evaluator(model).run(None, given)  # [T, D, B, H]
    assert np.abs(y - np.concatenate(list(theirs.swapaxes(0, 1)), axis=2)).max() < 2e-6


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_peepholes_and_coupled_gates_come_back_from_onnx(options, coupled, dtype, rng):
    lstm, x, _ = exactly(options | {"coupled": coupled}, dtype, rng, "LSTM peepholes")
    W, R, B, P = lstm.to_onnx()
    other = pyoptk.LSTM.from_onnx(W, R, B, P, coupled=coupled)
    assert repr(other) == repr(lstm)
    np.testing.assert_array_equal(other.flat_params, lstm.flat_params)
    if (
        coupled and options["num_layers"] == 1
    ):  # the operator's equations: i of its weights, f = 1 - i
        first = W[0], R[0], np.zeros(56, dtype) if B is None else B[0], P[0]
        h, c = by_onnx(x, *first)
        last = lstm.forward(x)[1]
        assert np.abs(last[0][0] - h).max() < 2e-6
        assert np.abs(last[1][0] - c).max() < 2e-6
    with pytest.raises(TypeError, match=r"^peepholes: expected none, as P says it, got True$"):
        pyoptk.LSTM.from_onnx(W, R, B, peepholes=True)
    with pytest.raises(ValueError, match=r"^P.*: expected float"):
        pyoptk.LSTM.from_onnx(W, R, B, R)


def by_onnx(x, W, R, B, P):
    """The last state of ONNX's LSTM with input_forget=1."""
    h = c = np.zeros((x.shape[1], 7), x.dtype)
    p_i, p_o, _ = np.split(P, 3)
    for x_t in x:
        a_i, a_o, _, a_c = np.split(x_t @ W.T + h @ R.T + B[:28] + B[28:], 4, axis=1)
        i = 1 / (1 + np.exp(-a_i - p_i * c))
        c = (1 - i) * c + i * np.tanh(a_c)
        h = np.tanh(c) / (1 + np.exp(-a_o - p_o * c))
    return h, c


@pytest.mark.parametrize("made", [pyoptk.LSTM, pyoptk.GRU])
def test_layers_of_cudnn_in_keras_are_taken(made, rng):
    """Each gate is [H, I] in memory, in the place of Keras's [I, H]; biases count apart."""
    ours = made(5, 7, rng=rng)
    split = (np.split(array, ours.gates) for array in ours.params.values())
    w_ih, w_hh, *b = ([gates[k] for k in made.keras_gates] for gates in split)
    theirs = np.hstack([w.reshape(5, 7) for w in w_ih]), np.hstack(w_hh), np.hstack(b[0] + b[1])
    expected = made.from_keras(*ours.to_keras())
    np.testing.assert_array_equal(made.from_keras(*theirs).flat_params, expected.flat_params)
    found = made.from_keras(*([array, array] for array in theirs), bidirectional=True)
    np.testing.assert_array_equal(found.flat_params, np.tile(expected.flat_params, 2))
    with pytest.raises(ValueError, match=r"^bias: expected float32 \(.*, got float32 \(\d+,\)$"):
        made.from_keras(theirs[0], theirs[1], theirs[2][1:])


def state(**changed):
    return pyoptk.LSTM(3, 4, rng=np.random.default_rng(0)).to_torch() | changed


class Parameter:
    def __init__(self, array):
        self.array = array

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def detach(self):
        return self.array


K, R, B = np.ones((3, 16), np.float32), np.ones((4, 16), np.float32), np.ones(16, np.float32)
OW, OR, OB = K.T[None], R.T[None], np.ones((1, 32), np.float32)
BAD = {
    "nothing": ("torch", ({},), ValueError, r"^state: expected weight_ih_l0 \[4H, I\], .*, got $"),
    "another prefix": ("torch", ({"rnn." + n: a for n, a in state().items()},), ValueError, r"^state: expected weight_ih_l0"),
    "a layer": ("torch", (pyoptk.LSTM(3, 4),), TypeError, r"^state: expected a dict, got LSTM; its .state_dict\(\) is one$"),
    "a projection": ("torch", (state(weight_hr_l0=K),), ValueError, r"^state: expected .*weight_hr_l0"),
    "no array": ("torch", (state(bias_hh_l0=Parameter(Parameter(B))),), TypeError, r"^state\['bias_hh_l0'\]: expected what numpy\.asarray takes, got Parameter \(Can"),
    "a part of a layer": ("torch", (state(weight_ih_l1=K),), ValueError, r"^state: expected 8 names, got none for 'weight_hh_l1'"),
    "a wrong shape": ("torch", (state(bias_hh_l0=B[:8]),), ValueError, r"^state\['bias_hh_l0'\]: expected float32 \(16,\), got float32 \(8,\)$"),
    "a wrong dtype": ("torch", (state(weight_hh_l0=np.ones((16, 4))),), TypeError, r"^state\['weight_hh_l0'\]: expected float32 \(16, 4\), got float64 \(16, 4\)$"),
    "integers": ("torch", ({n: a.astype(int) for n, a in state().items()},), TypeError, r"^state\['weight_ih_l0'\]: expected float32"),
    "no kernel": ("keras", (None, R), ValueError, r"^kernel: expected an array of 2 axes, got shape \(\)$"),
    "a kernel too large": ("keras", (np.ones((3, 20), np.float32), R), ValueError, r"^kernel: expected float32 \(3, 16\), got float32 \(3, 20\)$"),
    "a kernel not transposed": ("keras", (K.T, R), ValueError, r"^kernel: expected float32 \(16, 16\), got float32 \(16, 3\)$"),
    "a second layer too small": ("keras", ([K, K], [R, R]), ValueError, r"^kernel\[1\]: expected float32 \(4, 16\), got float32 \(3, 16\)$"),
    "too few recurrent": ("keras", ([K, R], R), ValueError, r"^recurrent: expected as many arrays as kernel, 2, got 1$"),
    "no layer": ("keras", ([], []), ValueError, r"^kernel: expected at least one array, got none$"),
    "a bias of another dtype": ("keras", (K, R, np.ones(16)), TypeError, r"^bias: expected float32 \(16,\), got float64 \(16,\)$"),
    "three directions": ("onnx", (np.ones((3, 16, 3), np.float32), OR, OB), ValueError, r"^W: expected 1 or 2 directions, got shape \(3, 16, 3\)$"),
    "W of two axes": ("onnx", (K, OR, OB), ValueError, r"^W: expected an array of 3 axes, got shape \(3, 16\)$"),
    "R too large": ("onnx", (OW, np.ones((1, 20, 4), np.float32), OB), ValueError, r"^R: expected float32 \(1, 16, 4\), got float32 \(1, 20, 4\)$"),
    "half a bias": ("onnx", (OW, OR, OB[:, :16]), ValueError, r"^B: expected float32 \(1, 32\), got float32 \(1, 16\)$"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_weights_that_do_not_fit_are_refused_by_name(bad):
    library, arguments, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        getattr(pyoptk.LSTM, f"from_{library}")(*arguments)


# ONNX's clip is not cell_clip.
OF_NAMES = dict.fromkeys(("direction", "projection", "nonlinearity"), ".*") | {
    "clip": r"\.", "input_forget": r"; did you mean coupled\?", "layout": r"; did you mean batch_first\?",
}  # fmt: skip


@pytest.mark.parametrize("name", OF_NAMES)
def test_unknown_keywords_are_refused_by_name(name):
    for make in (
        lambda **given: pyoptk.LSTM(3, 4, **given),
        lambda **given: pyoptk.LSTM.from_torch(state(), **given),
        lambda **given: pyoptk.LSTM.from_keras(K, R, B, **given),
        lambda **given: pyoptk.LSTM.from_onnx(OW, OR, OB, **given),
    ):
        with pytest.raises(
            TypeError, match=rf"^{name}: unknown keyword{OF_NAMES[name]} Known: hidden_size, num_"
        ):
            make(**{name: 1})


def test_a_projection_is_narrower_than_the_layer():
    for wrong, error in ((4, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^proj_size: expected an integer in 0\.\.3, got "):
            pyoptk.LSTM(3, 4, proj_size=wrong)
    with pytest.raises(TypeError, match=r"^proj_size: expected none, as the weights say it, got 2"):
        pyoptk.LSTM.from_torch(state(), proj_size=2)
    with pytest.raises(ValueError, match=r"^state: expected .*weight_hr_l0 \(16, 2\)$"):
        pyoptk.GRU.from_torch(state(weight_hr_l0=np.ones((16, 2))))


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers", "dtype"])
def test_what_the_weights_say_is_no_setting(name):
    for library, weights in (("torch", [state()]), ("keras", [K, R, B]), ("onnx", [OW, OR, OB])):
        make = getattr(pyoptk.LSTM, f"from_{library}")
        with pytest.raises(TypeError, match=rf"^{name}: expected none, as the weights say it, got"):
            make(*weights, **{name: 1})


def test_parameters_of_pytorch_that_have_a_gradient_are_taken():
    lstm = pyoptk.LSTM.from_torch({name: Parameter(array) for name, array in state().items()})
    np.testing.assert_array_equal(lstm.params["bias_ih_l0"], state()["bias_ih_l0"])


def test_the_arrays_of_a_layer_are_shown_by_their_shapes():
    shown = repr(pyoptk.LSTM(100, 100).params)
    assert shown.startswith("{'weight_ih_l0': float32 (400, 100), 'weight_hh_l0': ")


def test_the_other_keywords_of_converters_are_checked():
    with pytest.raises(TypeError, match=r"^prefix: expected a str, got 1$"):
        pyoptk.LSTM.from_torch(state(), prefix=1)
    with pytest.raises(TypeError, match=r"^bidirectional: expected True or False, got 2$"):
        pyoptk.LSTM.from_keras(K, R, B, bidirectional=2)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 2**31), r"^parameters: expected less than 2\*\*63 bytes, got \d"),
        ((2**62, 2**40), r"^parameters: expected less than 2\*\*63 bytes, got \d"),
        ((3, 4, 2**31), r"^num_layers: expected less than 2\*\*16, got 2,147,483,648$"),
        ((1, 1, 2**62), r"^num_layers: expected less than 2\*\*16, got \d"),
    ],
)
def test_a_layer_that_no_memory_holds_is_refused(sizes, message):
    with pytest.raises(MemoryError, match=message):
        pyoptk.LSTM(*sizes)


def test_arguments_of_a_layer_are_those_of_its_class():
    lstm, gru, rnn = (
        [n for n in inspect.signature(kind).parameters if n not in OWN_ARGUMENTS]
        for kind in (pyoptk.LSTM, pyoptk.GRU, pyoptk.RNN)
    )
    assert lstm == gru == rnn
    rnn = pyoptk.RNN(3, 4, 1, "relu", bias=False)
    assert (rnn.nonlinearity, rnn.bias, pyoptk.RNN(3, 4).nonlinearity) == ("relu", False, "tanh")
    assert repr(rnn).startswith("RNN(3, 4, num_layers=1, nonlinearity=relu, bias=False, ")
    with pytest.raises(TypeError, match=r"^missing a required argument: 'hidden_size'$"):
        pyoptk.LSTM(3)


def test_a_bidirectional_layer_takes_two_arrays_of_each_kind():
    with pytest.raises(ValueError, match=r"^kernel: expected two arrays for each layer, got 1$"):
        pyoptk.LSTM.from_keras(K, R, B, bidirectional=True)
