"""Linear layers and losses: against the twins, finite differences, and what each refuses."""

import inspect
from itertools import pairwise

import numpy as np
import pytest
from conftest import everywhere

import pyoptk
from pyoptk import kernels, reference
from pyoptk._dense import ACTIVATIONS

NEED_Z = ("gelu", "gelu_tanh", "silu", "softplus")
SIZES = [
    (0, 3, 4), (1, 0, 5), (1, 1, 1), (1, 64, 64), (3, 20, 33), (4, 66, 75), (5, 3, 16), (7, 66, 75),
    (8, 0, 20), (8, 64, 64), (8, 512, 150), (11, 130, 70), (12, 130, 70), (50, 17, 10),
    (60, 150, 129),
]  # fmt: skip


def case(rng, dtype, M, I, O):
    shapes = {"x": (M, I), "w": (O, I), "b": (O,), "dy": (M, O)}
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes.values()]


def both_ways(module, x, w, b, dy, activation, accumulate=False):
    """y, dx, dw and db."""
    y, z = (np.full(dy.shape, 7.0, x.dtype) for _ in range(2))
    dx, dw, db = (np.full(shape, 0.5, x.dtype) for shape in (x.shape, w.shape, len(w)))
    z = z if activation in NEED_Z else None
    options = {"activation": activation, "slope": 0.1}
    module.linear_forward(x, w, b, y, z, **options)
    grads = {"dx": dx, "dw": dw, "db": db, "accumulate": accumulate}
    module.linear_backward(dy, x, w, y, z, **grads, **options)
    return [y, dx, dw, db]


@everywhere
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_linear_equals_its_twin(size, activation, dtype, isa, threads, rng):
    x, w, b, dy = case(rng, dtype, *size)
    for bias, accumulate in ((b, False), (None, True)):
        options = (x, w, bias, dy, activation, accumulate)
        ours, twins = (both_ways(module, *options) for module in (kernels, reference))
        for got, wanted in zip(ours, twins, strict=True):
            largest = 1 + np.abs(wanted).max(initial=0)
            room = 20 * np.finfo(dtype).eps * np.sqrt(max(size) + 1) * largest
            np.testing.assert_allclose(got, wanted, rtol=0, atol=room)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_over_their_range(activation, dtype, isa, rng):
    z = np.concatenate([np.linspace(-12, 12, 2001), rng.standard_normal(200) * 1e-3, [0.0]])
    z, one = z.astype(dtype)[:, None], np.ones((1, 1), dtype)
    arrays = (z, one, np.zeros(1, dtype), np.ones_like(z))
    got = both_ways(kernels, *arrays, activation)[:2]
    exact = both_ways(reference, *(a.astype(float) for a in arrays), activation)[:2]
    eps = np.finfo(dtype).eps
    for a, b in zip(got, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=30 * eps, atol=30 * eps)
    if activation in ("gelu", "silu", "softplus", "sigmoid"):  # small values have their own digits
        np.testing.assert_allclose(got[0][:400], exact[0][:400], rtol=200 * eps)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_values_pass_through_activations(activation, dtype, isa):
    x = np.array([[np.nan], [np.inf], [-np.inf], [0.0]] * 5, dtype)
    y, z = np.empty_like(x), np.empty_like(x)
    kernels.linear_forward(x, np.ones((1, 1), dtype), None, y, z, activation=activation)
    above = 1 if activation in ("tanh", "sigmoid") else np.inf
    below = {"none": -np.inf, "leaky_relu": -np.inf, "tanh": -1}.get(activation, 0)
    zero = {"sigmoid": 0.5, "softplus": np.log(dtype.type(2))}.get(activation, 0)
    np.testing.assert_array_equal(y[:4, 0], [np.nan, above, below, zero])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_gradients_equal_finite_differences(activation, rng):
    x, w, b, dy = case(rng, np.float64, 5, 4, 3)
    _, *found = both_ways(kernels, x, w, b, dy, activation)

    def total():
        y = np.empty_like(dy)
        kernels.linear_forward(x, w, b, y, activation=activation, slope=0.1)
        return (y * dy).sum()

    for array, gradient in zip((x, w, b), found, strict=True):
        np.testing.assert_allclose(gradient, differences(total, array), rtol=1e-6, atol=1e-8)


def differences(f, array, h=1e-6):
    found = np.empty_like(array)
    for at in np.ndindex(array.shape):
        value = array[at]
        values = []
        for moved in (value + h, value - h):
            array[at] = moved
            values.append(f())
        array[at] = value
        found[at] = (values[0] - values[1]) / (2 * h)
    return found


@pytest.mark.parametrize("size", [(200, 90, 130), (8, 512, 150), (4, 1024, 133)], ids=str)
def test_bits_depend_on_no_number_of_threads(size, dtype, isa, rng):
    arrays = case(rng, dtype, *size)
    runs = []
    for n in (1, 2, 3):
        pyoptk.set_num_threads(n)
        runs.append(both_ways(kernels, *arrays, "gelu"))
    pyoptk.set_num_threads()
    for a, b in pairwise(runs):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, other)


# ---- normalization -------------------------------------------------------------------------------


def norm_both_ways(module, x, gain, bias, dy, rms, accumulate=False):
    """y, dx, dgain and dbias; the last is 0.5 if `rms`."""
    y, dx, (dgain, dbias) = (
        np.empty_like(x),
        np.empty_like(x),
        np.full((2, x.shape[1]), 0.5, x.dtype),
    )
    mean, scale = np.empty((2, len(x)), x.dtype)
    grads = {"dx": dx, "dgain": dgain, "accumulate": accumulate}
    if rms:
        module.rms_norm_forward(x, gain, y, scale)
        module.rms_norm_backward(dy, x, gain, scale, **grads)
    else:
        module.layer_norm_forward(x, gain, bias, y, mean, scale)
        module.layer_norm_backward(dy, x, gain, mean, scale, dbias=dbias, **grads)
    return [y, dx, dgain, dbias]


@everywhere
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("size", [(0, 3), (1, 1), (7, 10), (40, 64), (130, 333)], ids=str)
def test_normalization_equals_its_twin(size, rms, dtype, isa, threads, rng):
    x, dy = rng.standard_normal((2, *size)).astype(dtype)
    x += 3
    gain, bias = rng.standard_normal((2, size[1])).astype(dtype)
    eps = np.finfo(dtype).eps
    for accumulate, affine in ((False, (gain, bias)), (True, (None, None))):
        options = (x, *affine, dy, rms, accumulate)
        ours, twins = (norm_both_ways(module, *options) for module in (kernels, reference))
        for got, wanted in zip(ours, twins, strict=True):
            room = 100 * eps * (1 + np.abs(wanted).max(initial=0)) * (1 + len(x) ** 0.5)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=room)


@pytest.mark.parametrize("rms", [False, True])
def test_normalization_gradients_equal_finite_differences(rms, rng):
    x, dy = rng.standard_normal((2, 5, 7))
    gain, bias = rng.standard_normal((2, 7))
    _, *found = norm_both_ways(kernels, x, gain, bias, dy, rms)

    def total():
        return (norm_both_ways(kernels, x, gain, bias, dy, rms)[0] * dy).sum()

    for array, gradient in zip((x, gain, bias)[: 3 - rms], found, strict=False):
        np.testing.assert_allclose(gradient, differences(total, array), rtol=1e-6, atol=1e-8)


# ---- losses --------------------------------------------------------------------------------------

CROSS_ENTROPY = [
    {},
    {"label_smoothing": 0.1},
    {"class_weights": True},
    {"class_weights": True, "label_smoothing": 0.2, "weights": True},
    {"weights": True, "scale": 128.0},
    {"distribution": True},
    {"distribution": True, "class_weights": True, "label_smoothing": 0.1, "weights": True},
]


def cross_entropy_case(rng, dtype, M, C, options):
    x = (4 * rng.standard_normal((M, C))).astype(dtype)
    target = rng.integers(0, C, M)
    target[::5] = -100
    options = dict(options)
    if options.pop("distribution", False):
        target = rng.random((M, C)).astype(dtype)
        target /= target.sum(axis=1, keepdims=True)
    for name, n in (("weights", M), ("class_weights", C)):
        if name in options:
            options[name] = rng.random(n).astype(dtype)
            options[name][::4] = 0
    return x, target, options


@everywhere
@pytest.mark.parametrize("options", CROSS_ENTROPY, ids=str)
@pytest.mark.parametrize("size", [(0, 3), (1, 1), (7, 10), (33, 16), (20, 1000)], ids=str)
def test_cross_entropy_equals_its_twin(size, options, dtype, isa, threads, rng):
    x, target, options = cross_entropy_case(rng, dtype, *size, options)
    if "weights" in options and size[0]:
        x[options["weights"] == 0] = np.nan
    dx, wanted = np.full_like(x, 7), np.full_like(x, 7)
    loss = kernels.softmax_cross_entropy(x, target, dx, **options)
    expected = reference.softmax_cross_entropy(x, target, wanted, **options)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, expected, rtol=40 * eps, atol=40 * eps)
    np.testing.assert_allclose(
        dx, wanted, rtol=0, atol=40 * eps * (1 + np.abs(wanted).max(initial=0))
    )
    assert loss == kernels.softmax_cross_entropy(x, target, **options)
    kernels.softmax_cross_entropy(x, target, x, **options)
    np.testing.assert_array_equal(x, dx)


@pytest.mark.parametrize("options", CROSS_ENTROPY, ids=str)
def test_cross_entropy_gradient_equals_finite_differences(options, rng):
    x, target, options = cross_entropy_case(rng, np.float64, 6, 5, options)
    options.pop("scale", None)
    dx = np.empty_like(x)
    kernels.softmax_cross_entropy(x, target, dx, **options)
    found = differences(lambda: kernels.softmax_cross_entropy(x, target, **options), x)
    np.testing.assert_allclose(dx, found, rtol=1e-6, atol=1e-8)


def test_cross_entropy_of_large_scores_and_of_nothing(dtype, isa):
    x = np.array([[1e4, -1e4, 0.0], [-np.inf, 0.0, -np.inf]], dtype)
    dx = np.empty_like(x)
    assert kernels.softmax_cross_entropy(x, [0, 1], dx) == 0
    np.testing.assert_array_equal(dx, 0)
    assert kernels.softmax_cross_entropy(x, [-100, -100], dx) == 0
    assert kernels.softmax_cross_entropy(x[:1], [1]) == 2e4
    np.testing.assert_array_equal(dx, 0)


ELEMENTWISE = [
    ("mse", {}), ("mae", {}), ("huber", {}), ("huber", {"delta": 0.3}), ("bce_with_logits", {}),
    ("bce_with_logits", {"pos_weight": 3.0}),
]  # fmt: skip


@everywhere
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("row", ELEMENTWISE, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (7, 1), (40, 33), (3, 5, 700)], ids=str)
def test_elementwise_losses_equal_their_twins(shape, row, weighted, dtype, isa, threads, rng):
    name, options = row
    x, target = (np.asarray(rng.standard_normal(shape), dtype) for _ in range(2))
    if weighted and shape:
        options = {**options, "weights": rng.random(shape[0]).astype(dtype)}
        options["weights"][::3] = 0
        x[::3] = np.nan
    if name == "bce_with_logits":
        target = np.asarray(target > 0, dtype)
    dx, wanted = np.full_like(x, 7), np.full_like(x, 7)
    loss = getattr(kernels, name)(x, target, dx, scale=3.0, **options)
    expected = getattr(reference, name)(x, target, wanted, scale=3.0, **options)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, expected, rtol=30 * eps, atol=eps)
    np.testing.assert_allclose(dx, wanted, rtol=10 * eps, atol=eps)
    getattr(kernels, name)(x, target, x, scale=3.0, **options)
    np.testing.assert_array_equal(x, dx)


@pytest.mark.parametrize(("name", "options"), ELEMENTWISE, ids=str)
def test_elementwise_gradients_equal_finite_differences(name, options, rng):
    x, target = rng.standard_normal((4, 3)), rng.random((4, 3))
    dx = np.empty_like(x)
    loss = getattr(kernels, name)
    loss(x, target, dx, **options)
    found = differences(lambda: loss(x, target, **options), x)
    np.testing.assert_allclose(dx, found, rtol=1e-6, atol=1e-8)


# ---- wrong input ---------------------------------------------------------------------------------

x, w, b, y = (np.ones(s, np.float32) for s in ((4, 3), (2, 3), (2,), (4, 2)))
label, minus = np.zeros(4, np.int64), -x[:, 0].copy()
LINEAR, BACKWARD, ENTROPY = "linear_forward", "linear_backward", "softmax_cross_entropy"
WRONG = [
    (LINEAR, (x[0], w, b, y), {}, r"x: expected 2 axes, got shape \(3,\)$"),
    (LINEAR, (x, w.T.copy(), b, y), {}, r"w: expected .*\(3, 3\), got .*\(3, 2\)$"),
    (LINEAR, (x, w, b, y.astype("f8")), {}, r"y: expected float32"),
    (LINEAR, (x, w, b, None), {}, r"y: expected an array, got None$"),
    (LINEAR, (x, w, b, x[:, :2]), {}, r"y: expected"),
    (LINEAR, (x, w, b, y), {"activation": "elu"}, r"activation: expected"),
    (LINEAR, (x, w, b, y), {"slope": -1}, r"slope: expected a number >= 0 .*, got -1$"),
    (BACKWARD, (y, x, w), {"activation": "tanh"}, r"y: expected an array, as activation='tanh'"),
    (BACKWARD, (y, x, w, y), {"activation": "silu"}, r"z: expected an array, as activation='s"),
    (BACKWARD, (None, x, w), {}, r"dy: expected an array, got None$"),
    (BACKWARD, (y, x, w), {"dx": x}, r"dx: expected memory of its own, .* overlaps x$"),
    (ENTROPY, (y, [0, 1, 2, 1]), {}, r"target\[2\]: expected a label in 0\.\.1 or ignore_index="),
    (ENTROPY, (y, label[:3]), {}, r"target: expected 4 integers or .*\(4, 2\), got int64 \(3,\)$"),
    (ENTROPY, (y, x), {}, r"target: expected .*\(4, 2\), got .*\(4, 3\)$"),
    (ENTROPY, (y, label > 0), {}, r"target: expected 4 integers or .*\(4, 2\), got bool \(4,\)$"),
    (ENTROPY, (y, label), {"weights": minus}, r"weights: expected finite numbers >= 0, got -1"),
    (ENTROPY, (y, label), {"label_smoothing": 1}, r"label_smoothing: expected"),
    (ENTROPY, (y[:, :0].copy(), label), {}, r"x: expected at least 1 column"),
    ("rms_norm_forward", (x, None, x.copy(), None), {}, r"scale: expected an array, got None$"),
    ("rms_norm_forward", (x, b, x.copy(), minus), {}, r"gain: expected"),
    ("layer_norm_forward", (x, None, None, x, minus, +minus), {}, r"y: expected memory of its own"),
    ("mse", (x, y), {}, r"target: expected .*\(4, 3\).*, got .*\(4, 2\)$"),
    ("mse", (x, x, y), {}, r"dx: expected"),
    ("huber", (x, x), {"delta": -1}, r"delta: expected"),
    ("bce_with_logits", (x, x), {"pos_weight": np.inf}, r"pos_weight: expected"),
]  # fmt: skip


@pytest.mark.parametrize("row", WRONG, ids=lambda row: row[0] + ": " + row[3][:30])
def test_wrong_input_is_named_and_changes_nothing(row):
    name, args, options, message = row
    arrays = [a for a in (*args, *options.values()) if isinstance(a, np.ndarray)]
    before = [a.copy() for a in arrays]
    with pytest.raises((TypeError, ValueError), match="^" + message):
        getattr(kernels, name)(*args, **options)
    for a, c in zip(before, arrays, strict=True):
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("name", reference.dense.__all__)
def test_a_twin_has_the_arguments_of_its_kernel(name):
    ours, twins = (inspect.signature(getattr(m, name)).parameters for m in (kernels, reference))
    names, twin_names = ([(p.name, p.default) for p in f.values()] for f in (ours, twins))
    assert names == twin_names


def test_nan_has_no_sign_and_denormal_weights_are_none(dtype, isa):
    """As in the twins."""
    x = np.array([np.nan, 1, -np.inf, np.inf, -0.0], dtype)
    target = np.array([0, 0, 0, np.inf, 0], dtype)
    found, exact = np.empty((2, 5), dtype)
    with np.errstate(all="ignore"):
        kernels.mae(x, target, found)
        reference.mae(x, target, exact)
    np.testing.assert_array_equal(found, exact)
    tiny, rows = np.finfo(dtype).tiny, np.array([[1], [3]], dtype)
    for weights in ([tiny / 2, tiny / 4], [tiny, tiny / 2], [tiny, tiny]):
        given, found, exact = np.array(weights, dtype), *np.empty((2, 2, 1), dtype)
        losses = [
            module.mse(rows, rows * 0, dx, weights=given)
            for module, dx in ((kernels, found), (reference, exact))
        ]
        np.testing.assert_allclose(*losses)
        np.testing.assert_allclose(found, exact)
    with pytest.raises(ValueError, match=r"^weights: expected finite numbers >= 0, got 1e\+308"):
        kernels.mse(np.ones((2, 1)), np.zeros((2, 1)), weights=np.full(2, 1e308))
