"""``compute="bfloat16"``: products of rounded operands, against the twin that rounds them."""

import copy
import pickle

import numpy as np
import pytest
from rnn_rows import by_pyoptk, by_twin, case

import pyoptk
from pyoptk import kernels, reference

SETS = [name for name, usable in pyoptk.isas().items() if usable]
IN_ORDER = [name for name in SETS if name != "amx"]  # that add the products of k one by one
CELLS = [
    "LSTM", "RNN tanh", "RNN relu", "GRU", "GRU before", "LSTM peepholes", "LSTM coupled",
    "LSTM projected", "LSTM all",
]  # fmt: skip
# T, B, I, H, L; options of the layer; of the call
ROWS = {
    "layers": ((6, 5, 7, 19, 2), {"bidirectional": True}, {}),
    "rows": ((3, 53, 2, 16, 1), {}, {}),
    "lengths": ((5, 3, 33, 40, 1), {}, {"lengths": [5, 0, 3]}),
    "resets": ((7, 3, 20, 9, 1), {"save": "minimal"}, {"resets": True, "reset_to": "initial"}),
    "dropout": ((4, 5, 3, 70, 1), {"recurrent_dropout": 0.3, "seed": 1}, {}),
    "dropout, resets": (
        (7, 3, 20, 9, 1), {"recurrent_dropout": 0.5, "seed": 1, "save": "minimal"},
        {"lengths": [7, 0, 5], "resets": True, "reset_to": "initial"},
    ),
}  # fmt: skip


@pytest.fixture(params=SETS)
def any_set(request):
    pyoptk.use_isa(request.param)
    yield request.param
    pyoptk.use_isa()


def row_of(rng, name, cell, **options):
    """The arguments of `by_pyoptk`, and its keywords."""
    shape, own, call = ROWS[name]
    arguments = case(rng, shape, np.float32, cell, **own, **options)
    if "resets" in call:
        call = call | {"resets": rng.random(shape[:2]) < 0.2}
    return arguments, call


ROUNDED = [  # a number, and the twin's
    (1 + 2**-8, 1.0),  # ties
    (1 + 3 * 2**-8, 1 + 2**-6),
    (-1 - 2**-8 - 2**-20, -1 - 2**-7),
    (3.4028235e38, np.inf),
    (-np.inf, -np.inf),
    (np.nan, np.nan),
    (2.0**-126, 2.0**-126),
    (2.0**-126 - 2.0**-149, 0.0),
    (-0.0, -0.0),
]


@pytest.mark.parametrize(("x", "rounded"), ROUNDED)
def test_twin_rounds_to_nearest(x, rounded):
    found = reference.bfloat16(np.array([x], np.float32))
    np.testing.assert_array_equal(found, np.array([rounded], np.float32))
    assert np.signbit(found[0]) == np.signbit(np.float32(rounded))


@pytest.mark.parametrize("operand", ["x", "w", "dy"])
def test_kernels_round_as_the_twin(rng, any_set, operand):
    """Products with 1, of numbers of all magnitudes."""
    any_bits = rng.integers(2**32, size=5000, dtype=np.uint32).view(np.float32)
    numbers = np.append(np.float32([x for x, _ in ROUNDED]), any_bits)[:, None]
    layer = pyoptk.layers.Linear(1, len(numbers) if operand == "w" else 1, compute="bfloat16")
    layer.params["weight"][...] = numbers if operand == "w" else 1
    layer.params["bias"][...] = 0
    ones = np.ones_like(numbers[:1] if operand == "w" else numbers)
    y = layer.forward(numbers if operand == "x" else ones)
    found = layer.backward(numbers) if operand == "dy" else y.reshape(-1, 1)
    np.testing.assert_array_equal(found, reference.bfloat16(numbers))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ROWS)
def test_layers_are_near_the_twin(rng, any_set, name, cell):
    """A value near a tie may be rounded otherwise than in the twin, which computes in double. What
    follows then differs by some 1e-4 of the largest element; rounding itself makes 1e-3."""
    arguments, call = row_of(rng, name, cell, compute="bfloat16")
    ours, exact = by_pyoptk(*arguments, **call), by_twin(*arguments, **call)
    errors = [
        np.abs(array - exact[key]).max() / max(np.abs(exact[key]).max(), 1e-30)
        for key, array in ours.items()
    ]
    assert max(errors) < 2e-3
    assert np.median(errors) < 2e-4
    assert all(array.dtype == np.float32 for array in ours.values())


@pytest.mark.parametrize(("cell", "p"), [("GRU", 0.3), ("LSTM projected", (0.2, 0.3))])
def test_zoneout_is_near_the_twin(rng, cell, p):
    arguments = case(rng, (4, 5, 6, 20, 2), np.float32, cell, zoneout=p, compute="bfloat16")
    exact = by_twin(*arguments)
    for key, array in by_pyoptk(*arguments).items():
        assert np.abs(array - exact[key]).max() < 2e-3 * np.abs(exact[key]).max(), key


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "LSTM projected"])
@pytest.mark.parametrize("name", ROWS)
def test_bits_depend_on_nothing_but_the_operands(rng, name, cell):
    """Not on the number of threads, and not on whether the processor multiplies pairs."""
    arguments, call = row_of(rng, name, cell, compute="bfloat16")
    first = {}
    for isa in dict.fromkeys([SETS[0], *IN_ORDER[: 2 if IN_ORDER[0] == "avx512bf16" else 1]]):
        pyoptk.use_isa(isa)
        for threads in (1, 2, 3):
            pyoptk.set_num_threads(threads)
            arguments[0].__dict__["dropout_calls"] = 0
            found = by_pyoptk(*arguments, **call)
            same = first.setdefault(isa in IN_ORDER, found)
            for key, array in same.items():
                np.testing.assert_array_equal(array, found[key], strict=True)
    pyoptk.set_num_threads()
    pyoptk.use_isa()


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_a_row_does_not_depend_on_the_others(rng, any_set, cell):
    layer = getattr(pyoptk, cell)(35, 41, compute="bfloat16", rng=rng)
    x = rng.standard_normal((4, 71, 35), dtype=np.float32)
    dy = rng.standard_normal((4, 71, 41), dtype=np.float32)
    y, _ = layer.forward(x)
    dx, *_ = layer.backward(dy)
    x[:, 1::2] = np.nan
    for rows in (slice(0, 1), slice(30, 70), slice(70, 71)):
        alone, _ = layer.forward(x[:, rows])
        np.testing.assert_array_equal(alone[:, ::2], y[:, rows][:, ::2])
        found, *_ = layer.backward(dy[:, rows])
        np.testing.assert_array_equal(found[:, ::2], dx[:, rows][:, ::2])


def assert_same_sums(isa, found, exact):
    """To the bit, unless the set adds products in an order of its own."""
    if isa in IN_ORDER:
        np.testing.assert_array_equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=5e-6 * max(1, np.abs(exact).max(initial=0)))


@pytest.mark.parametrize("shape", [(1, 5, 3, 4), (1, 60, 131, 70)], ids=str)
def test_products_are_those_of_rounded_operands(rng, any_set, shape):
    """Products of two bfloat16 are exact in float32, and most sets add them in the same order."""
    T, B, I, H = shape
    narrow = pyoptk.RNN(I, H, nonlinearity="relu", compute="bfloat16", rng=rng)
    wide = pyoptk.RNN(I, H, nonlinearity="relu")
    for name, array in narrow.params.items():
        wide.params[name][...] = reference.bfloat16(array) if array.ndim == 2 else array
    x = rng.standard_normal((T, B, I), dtype=np.float32)
    dy = reference.bfloat16(rng.standard_normal((T, B, H), dtype=np.float32))
    y, _ = narrow.forward(x)
    assert_same_sums(any_set, y, wide.forward(reference.bfloat16(x))[0])
    assert_same_sums(any_set, narrow.backward(dy)[0], wide.backward(dy)[0])
    for name, grad in narrow.grads.items():
        assert_same_sums(any_set, grad, wide.grads[name])


def test_gradients_are_within_a_hundredth(rng):
    """Against float64, at T 50 and H 128: the largest error, as a part of the largest element."""
    arguments = case(rng, (50, 4, 64, 128, 1), np.float32, compute="bfloat16")
    ours = by_pyoptk(*arguments)
    arguments[0].__dict__["compute"] = None  # the twin does not round then
    exact = by_twin(*arguments)
    for key, array in ours.items():
        assert np.abs(array - exact[key]).max() <= 0.01 * np.abs(exact[key]).max(), key


@pytest.mark.parametrize("cell", CELLS)
def test_nan_and_infinity_are_kept(any_set, cell, rng):
    layer, x, state, *_ = case(rng, (2, 3, 5, 17, 1), np.float32, cell, compute="bfloat16")
    x[0, 1, 4] = np.nan
    y, _ = layer.forward(x, state)
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, ::2]).all()


def test_copies_keep_the_mode(rng):
    layer, x, *_ = case(rng, (2, 3, 5, 17, 1), np.float32, compute="bfloat16")
    y, _ = layer.forward(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.shared()):
        assert other.compute == "bfloat16"
        np.testing.assert_array_equal(other.forward(x)[0], y)
    assert "compute=bfloat16" in repr(layer)


def test_default_is_the_dtype(rng):
    """And a layer that says so computes the same."""
    x = rng.standard_normal((3, 2, 4), dtype=np.float32)
    plain, said = (
        pyoptk.LSTM(4, 8, rng=np.random.default_rng(0), **o) for o in ({}, {"compute": "float32"})
    )
    assert plain.compute is None
    assert said.compute is None
    np.testing.assert_array_equal(plain.forward(x)[0], said.forward(x)[0])


@pytest.mark.parametrize(
    ("compute", "dtype", "choices"),
    [
        ("float16", np.float32, "None, float32, bfloat16"),
        (np.float32, np.float32, "None, float32, bfloat16"),
        ("bfloat16", np.float64, "None, float64"),
    ],
)
def test_other_modes_are_refused(compute, dtype, choices):
    with pytest.raises(ValueError, match=f"compute: expected one of {choices}, got "):
        pyoptk.GRU(3, 4, compute=compute, dtype=dtype)
    with pytest.raises(ValueError, match=f"compute: expected one of {choices}, got "):
        pyoptk.minGRU(3, 4, compute=compute, dtype=dtype)


def test_a_step_is_one_of_float32(rng):
    """Its products round nothing: the same bits as without the mode, near those of `forward`."""
    layer, x, state, *_ = case(rng, (1, 3, 5, 17, 1), np.float32, "GRU", compute="bfloat16")
    plain = pyoptk.GRU(5, 17)
    plain.load_state_dict(layer.state_dict())
    y, _ = layer.step(x[0], state)
    np.testing.assert_array_equal(y, plain.step(x[0], state)[0])
    np.testing.assert_allclose(y, layer.forward(x, state)[0][0], atol=0.02)


# ---- dense layers --------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh", "none"])
@pytest.mark.parametrize(
    "shape", [(1, 3, 2), (7, 5, 33), (35, 5, 33), (60, 137, 70), (0, 4, 5)], ids=str
)
def test_linear_is_that_of_rounded_operands(rng, any_set, threads, shape, activation):
    """The kernel in float32, given arrays that are rounded already."""
    M, I, O = shape

    def draw(*sizes):
        return rng.standard_normal(sizes, dtype=np.float32)

    x, w, b, dy = draw(M, I), draw(O, I), draw(O), draw(M, O)
    narrow, wide = (np.empty((M, O), np.float32) for _ in range(2))
    kernels.linear_forward(x, w, b, narrow, activation=activation, compute="bfloat16")
    x, w = reference.bfloat16(x), reference.bfloat16(w)
    if M > 16:  # few rows are multiplied in another order
        kernels.linear_forward(x, w, b, wide, activation=activation)
        assert_same_sums(any_set, narrow, wide)
    reference.linear_forward(x, w, b, wide, activation=activation)
    np.testing.assert_allclose(narrow, wide, atol=1e-5)
    found, exact = ([np.ones_like(a) for a in (x, w, b)] for _ in range(2))
    for backward, (dx, dw, db) in (
        (kernels.linear_backward, found),
        (reference.linear_backward, exact),
    ):
        backward(
            dy, x, w, narrow, dx=dx, dw=dw, db=db, activation=activation, accumulate=True,
            compute="bfloat16",
        )  # fmt: skip
    for array, near in zip(found, exact, strict=True):
        np.testing.assert_allclose(array, near, atol=2e-5 * max(1, np.abs(near).max(initial=0)))


@pytest.mark.parametrize("shape", [(33, 1061, 81), (1061, 96, 17), (47, 31, 1061)], ids=str)
def test_long_sums(rng, any_set, shape):
    """Longer than the blocks of a product, and edges of its tiles on either side."""
    M, I, O = shape
    x, w, dy = (rng.standard_normal(s, dtype=np.float32) for s in ((M, I), (O, I), (M, O)))
    y, dx, dw = np.empty_like(dy), np.empty_like(x), np.ones_like(w)
    kernels.linear_forward(x, w, None, y, compute="bfloat16")
    kernels.linear_backward(dy, x, w, dx=dx, dw=dw, accumulate=True, compute="bfloat16")
    x, w, dy = (reference.bfloat16(a).astype(np.float64) for a in (x, w, dy))
    for found, exact in ((y, x @ w.T), (dx, dy @ w), (dw, 1 + dy.T @ x)):
        np.testing.assert_allclose(found, exact, atol=2e-4)


def test_every_set_that_adds_in_order_gives_the_same_bits(rng):
    """Sums of exact products in the order of k: nothing depends on the width of vectors, or on
    whether a product and its sum are one operation."""
    shapes = (60, 137), (70, 137), (60, 70)
    x, w, dy = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
    found = []
    for isa in IN_ORDER:
        pyoptk.use_isa(isa)
        y, dx, dw = np.empty_like(dy), np.empty_like(x), np.empty_like(w)
        kernels.linear_forward(x, w, None, y, compute="bfloat16")
        kernels.linear_backward(dy, x, w, dx=dx, dw=dw, compute="bfloat16")
        found.append((y, dx, dw))
    pyoptk.use_isa()
    for arrays in found[1:]:
        for first, other in zip(found[0], arrays, strict=True):
            np.testing.assert_array_equal(first, other)


def test_linear_layer_has_the_mode(rng):
    x = rng.standard_normal((20, 30), dtype=np.float32)
    layer, wide = (
        pyoptk.layers.Linear(30, 40, "relu", rng=np.random.default_rng(0), compute=compute)
        for compute in ("bfloat16", None)
    )
    y, near = layer.forward(x), wide.forward(x)
    assert 1e-4 < np.abs(y - near).max() < 0.03
    dx, near = layer.backward(y), wide.backward(y)
    assert 1e-4 < np.abs(dx - near).max() < 0.03
    np.testing.assert_array_equal(copy.deepcopy(layer).forward(x), y)
    assert repr(layer) == "Linear(30, 40, 'relu', compute='bfloat16')"
    with pytest.raises(ValueError, match="compute: expected one of None, float32, bfloat16, got"):
        pyoptk.layers.Linear(3, 4, compute="half")
    with pytest.raises(ValueError, match="compute: expected one of None, float64, got 'bfloat16'"):
        pyoptk.layers.Linear(3, 4, dtype=np.float64, compute="bfloat16")


@pytest.mark.parametrize("name", ["minGRU", "minLSTM"])
def test_minimal_layers_have_the_mode(rng, name):
    layer = getattr(pyoptk, name)(7, 33, rng=rng, compute="bfloat16")
    x, dy = (rng.standard_normal((9, 4, n), dtype=np.float32) for n in (7, 33))
    forward, backward = (getattr(reference, f"{name.lower()}_{p}") for p in ("forward", "backward"))
    weights, biases = (
        [layer.params[f"{kind}_{gate}_l0"] for gate in layer.parts] for kind in ("weight", "bias")
    )
    zeros = np.zeros((4, 33), np.float32)
    h = forward(x, zeros, weights, biases, compute="bfloat16")
    dx, _, dw, db = backward(x, h, weights, biases, dy, zeros, compute="bfloat16")
    y, _ = layer.forward(x)
    ours = [y, layer.backward(dy)[0], *layer.grads.values()]
    for array, twin in zip(ours, [h[1:], dx, *dw, *db], strict=True):
        assert np.abs(array - twin).max() < 1e-3 * np.abs(twin).max()
    np.testing.assert_array_equal(layer.step(x[0])[0], y[0])
    assert repr(layer).endswith("compute=bfloat16)")
    assert copy.deepcopy(layer).compute == "bfloat16"
