"""`pyoptk.losses`: sequences, weights, what stands behind an end, and what each refuses."""

import re

import numpy as np
import pytest

import pyoptk
from pyoptk import losses, reference

T, B, C = 5, 3, 4
LENGTHS = [5, 0, 2]
INSIDE = np.arange(T)[:, None] < LENGTHS
PAIRS = ["mse", "mae", "huber", "bce_with_logits"]  # whose target is like y


def case(rng, dtype, name):
    """Scores [T, B, C], a target, and a weight for each step."""
    y = rng.standard_normal((T, B, C)).astype(dtype)
    target = rng.integers(0, C, (T, B)) if name == "cross_entropy" else rng.random(y.shape)
    target = target if name == "cross_entropy" else target.astype(dtype)
    return y, target, rng.random((T, B))


def twin(name, y, target, weights, **options):
    """The loss and the gradient of the reference, of rows that lie one after the other."""
    y = y.reshape(-1, C)
    name = "softmax_cross_entropy" if name == "cross_entropy" else name
    target = target.ravel() if target.ndim == 2 else target.reshape(y.shape)
    dy = np.empty_like(y)
    loss = getattr(reference, name)(y, target, dy, weights=weights.ravel(), **options)
    return loss, dy.reshape(T, B, C)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", *PAIRS])
def test_lengths_and_weights_are_weights_of_rows(name, batch_first, dtype, rng):
    y, target, weights = case(rng, dtype, name)
    expected, gradient = twin(name, y, target, (weights * INSIDE).astype(dtype))
    y[~INSIDE], weights[~INSIDE] = np.nan, np.nan
    target[~INSIDE] = -7 if name == "cross_entropy" else np.nan
    if batch_first:
        y, target, weights = (a.swapaxes(0, 1) for a in (y, target, weights))
    given = {"lengths": LENGTHS, "weights": weights, "batch_first": batch_first}
    loss, dy = getattr(losses, name)(y, target, **given)
    eps = np.finfo(dtype).eps
    assert (type(loss), dy.dtype, dy.shape) == (float, dtype, y.shape)
    np.testing.assert_allclose(loss, expected, rtol=20 * eps)
    dy = dy.swapaxes(0, 1) if batch_first else dy
    np.testing.assert_allclose(dy, gradient, rtol=0, atol=20 * eps)  # all are below 1
    assert not dy[~INSIDE].any()


@pytest.mark.parametrize("name", ["cross_entropy", *PAIRS])
def test_a_gradient_is_the_difference_quotient_of_its_loss(name, rng):
    y, target, weights = case(rng, np.float64, name)
    options = {"lengths": LENGTHS, "weights": weights}
    options |= (
        {"label_smoothing": 0.1, "class_weights": [1, 2, 3, 4]} if y.ndim > target.ndim else {}
    )
    _, dy = getattr(losses, name)(y, target, **options)
    for at in [(0, 0, 0), (1, 2, 3), (4, 0, 1), (3, 2, 2)]:
        moved = [y.copy(), y.copy()]
        for array, h in zip(moved, (1e-6, -1e-6), strict=True):
            array[at] += h
        above, below = (getattr(losses, name)(array, target, **options)[0] for array in moved)
        np.testing.assert_allclose(dy[at], (above - below) / 2e-6, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"class_weights": True}], ids=str
)
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_is_that_of_pytorch(options, soft, dtype, rng):
    torch = pytest.importorskip("torch")
    y, target = rng.standard_normal((7, C)).astype(dtype), rng.integers(0, C, 7)
    if soft:
        target = rng.dirichlet(np.ones(C), 7).astype(dtype)
    else:
        target[2] = -100
    weight = rng.random(C).astype(dtype) if "class_weights" in options else None
    theirs = torch.tensor(y, requires_grad=True)
    smoothing = options.get("label_smoothing", 0.0)
    given = {"weight": None if weight is None else torch.tensor(weight)}
    expected = torch.nn.functional.cross_entropy(
        theirs, torch.tensor(target), label_smoothing=smoothing, **given
    )
    expected.backward()
    loss, dy = losses.cross_entropy(y, target, label_smoothing=smoothing, class_weights=weight)
    tolerance = {"rtol": 0, "atol": 10 * np.finfo(dtype).eps}  # the numbers are about 1
    np.testing.assert_allclose(loss, expected.item(), **tolerance)
    np.testing.assert_allclose(dy, theirs.grad.numpy(), **tolerance)


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("mse", "mse_loss", {}),
        ("mae", "l1_loss", {}),
        ("huber", "huber_loss", {"delta": 0.3}),
        ("bce_with_logits", "binary_cross_entropy_with_logits", {"pos_weight": 3.0}),
    ],
)
def test_losses_of_single_elements_are_those_of_pytorch(name, theirs, options, dtype, rng):
    torch = pytest.importorskip("torch")
    y, target = rng.standard_normal((6, C)).astype(dtype), rng.random((6, C)).astype(dtype)
    tensor = torch.tensor(y, requires_grad=True)
    given = {k: torch.tensor(v) if k == "pos_weight" else v for k, v in options.items()}
    expected = getattr(torch.nn.functional, theirs)(tensor, torch.tensor(target), **given)
    expected.backward()
    loss, dy = getattr(losses, name)(y, target, **options)
    tolerance = {"rtol": 0, "atol": 10 * np.finfo(dtype).eps}
    np.testing.assert_allclose(loss, expected.item(), **tolerance)
    np.testing.assert_allclose(dy, tensor.grad.numpy(), **tolerance)


def test_any_layout_and_any_number_of_axes_is_taken(rng):
    whole = rng.standard_normal((6, 8)).astype(np.float32)
    y, target = whole[::2, ::-2], np.zeros((3, 4), np.float32)
    loss, dy = losses.mse(y, target)
    np.testing.assert_allclose(loss, (y**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(dy, 2 * y / y.size, rtol=1e-6)
    for shape in ((), (0,), (0, 3), (2, 3, 4, 5)):
        y = np.full(shape, 2.0)
        loss, dy = losses.mae(y, np.zeros(shape))
        assert (loss, dy.shape) == (2.0 if y.size else 0.0, shape)
    assert losses.cross_entropy(np.zeros((0, 3)), [])[0] == 0
    np.testing.assert_allclose(losses.cross_entropy(np.zeros(4), np.full(4, 0.25))[0], np.log(4))
    np.testing.assert_allclose(losses.cross_entropy(np.zeros((2, 3)), [0, 2])[0], np.log(3))
    np.testing.assert_allclose(losses.cross_entropy(np.zeros(3), 1)[0], np.log(3))


def test_a_mask_may_be_of_bools_and_weights_of_steps_alone(rng):
    y, target = rng.standard_normal((2, T, B, C))
    mask = y > 0
    loss, dy = losses.mse(y, target, weights=mask)
    np.testing.assert_allclose(loss, ((y - target)[mask] ** 2).mean())
    assert not dy[~mask].any()
    by_step = losses.mse(y, target, weights=[0, 0, 1, 0, 0])[0]
    np.testing.assert_allclose(by_step, ((y - target)[2] ** 2).mean())
    by_step = losses.mse(y, target, weights=[0, 0, 1, 0, 0], lengths=[5, 2, 3])[0]
    np.testing.assert_allclose(by_step, ((y - target)[2, [0, 2]] ** 2).mean())


# ---- wrong input ---------------------------------------------------------------------------------

y, labels = np.ones((T, B, C), np.float32), np.zeros((T, B), np.int64)
masked = np.ma.masked_array(y, y > 0)
ENTROPY, MSE = losses.cross_entropy, losses.mse
WRONG = [
    (ENTROPY, ([1.0], [0]), {}, "y: expected a float32 or float64 array, got list"),
    (ENTROPY, (y.astype("f2"), labels), {}, "y: expected a float32 or float64 array, got float16"),
    (ENTROPY, (masked, labels), {}, "y: expected a float32 or float64 array, got "),
    (ENTROPY, (y[..., :0], labels), {}, "y: expected scores of at least 1 class"),
    (ENTROPY, (y, labels[0]), {}, r"target: expected integers (5, 3) or float32 (5, 3, 4), got in"),
    (ENTROPY, (y, labels + 0.5), {}, "target: expected float32 (5, 3, 4) like y, got float64 (5,"),
    (ENTROPY, (y, labels + C), {}, "target[0]: expected a label in 0..3 or ignore_index=-100, got"),
    (ENTROPY, (y, y.astype("f8")), {}, "target: expected float32 (5, 3, 4) like y, got float64"),
    (ENTROPY, (y, [[0], [1, 2]]), {}, "target: expected integers (5, 3), got a ragged sequence"),
    (ENTROPY, (y, labels), {"class_weights": [1, 2]}, "class_weights: expected 4 numbers, got"),
    (ENTROPY, (y, labels), {"class_weights": [1, 2, 3, -4]}, "class_weights: expected finite numb"),
    (ENTROPY, (y, labels), {"label_smoothing": "a"}, "label_smoothing: expected a number in [0, 1"),
    (ENTROPY, (y, labels), {"ignore_index": 0.5}, "ignore_index: expected an int"),
    (ENTROPY, (y, labels), {"weights": y}, "weights: expected numbers of the shape of the first"),
    (ENTROPY, (y, labels), {"lengths": [6, 1, 1]}, "lengths: expected numbers in 0..5, got 1..6"),
    (ENTROPY, (y, labels), {"batch_first": 2}, "batch_first: expected True or False, got 2"),
    (MSE, (y, y[0]), {}, "target: expected float32 (5, 3, 4) like y, got float32 (3, 4)"),
    (MSE, (y, 0.0), {}, "target: expected a plain array float32 (5, 3, 4) like y, got float"),
    (MSE, (y, masked), {}, "target: expected a plain array float32 (5, 3, 4) like y"),
    (MSE, (y, labels), {}, "target: expected float32 (5, 3, 4) like y, got int64 (5, 3); target.a"),
    (MSE, (y, y), {"weights": [-1, 0, 0, 0, 0]}, "weights: expected finite numbers >= 0, got -1.0"),
    (MSE, (y, y), {"weights": np.full(T, np.nan)}, "weights: expected finite numbers >= 0, got na"),
    (MSE, (y, y), {"weights": np.full(T, 1e60)}, "weights: expected finite numbers >= 0, got inf"),
    (MSE, (y, y), {"weights": [1, 2]}, "weights: expected numbers of the shape of the first axes"),
    (MSE, (y, y), {"weights": ["a"] * T}, "weights: expected numbers of the shape of the first ax"),
    (MSE, (y, y), {"weights": 2.0}, "weights: expected numbers of the shape of the first axes of"),
    (MSE, (y[0, 0], y[0, 0]), {"lengths": [1]}, "lengths: expected None, as y has no axes [T, B,"),
    (losses.huber, (y, y), {"delta": 0}, "delta: expected a number > 0 that float32 can hold, got"),
]  # fmt: skip


@pytest.mark.parametrize("row", WRONG, ids=lambda row: f"{row[0].__name__}: {row[3][:40]}")
def test_wrong_arguments_are_named(row):
    function, args, options, message = row
    with pytest.raises((TypeError, ValueError), match="^" + re.escape(message)):
        function(*args, **options)


def test_the_example_of_a_tutorial():
    """Linear regression, its parameters recovered with two kernels and a loss."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3))
    target = x @ [[1.0], [-2.0], [0.5]] + 3
    w, b = np.zeros((1, 3)), np.zeros(1)
    dw, db, out = np.empty_like(w), np.empty_like(b), np.empty_like(target)
    optimizer = pyoptk.Adam([w, b], lr=0.1)
    for _ in range(300):
        pyoptk.kernels.linear_forward(x, w, b, out)
        loss, dy = losses.mse(out, target)
        pyoptk.kernels.linear_backward(dy, x, w, dw=dw, db=db)
        optimizer.step([dw, db])
    assert loss < 1e-6
    np.testing.assert_allclose([*w[0], *b], [1, -2, 0.5, 3], atol=1e-3)


@pytest.mark.parametrize("name", ["cross_entropy", *PAIRS])
def test_the_gradient_goes_to_out_with_the_same_bits(name, dtype, rng):
    y, target, weights = case(rng, dtype, name)
    flat = y.reshape(-1, C), target.ravel() if target.ndim == 2 else target.reshape(-1, C)
    for given, options in (((y, target), {"weights": weights}), (flat, {})):
        loss, dy = getattr(losses, name)(*given, **options)
        out = np.full_like(given[0], np.nan)
        again, result = getattr(losses, name)(*given, **options, out=out)
        assert result is out
        assert loss == again
        np.testing.assert_array_equal(out, dy)
    within = np.zeros((len(flat[0]), 2 * C), dtype)  # of y strided, or of weights
    for taken in ({"y": within[:, ::2]}, {"weights": within.ravel()[: len(within)]}):
        y = taken.pop("y", flat[0])
        out = within.ravel()[: y.size].reshape(y.shape)
        with pytest.raises(
            ValueError, match=r"^out: expected memory of its own, got an array that"
        ):
            getattr(losses, name)(y, flat[1], **taken, out=out)
        assert not within.any()
    y, target = flat
    shapes = np.empty((2, C), dtype), np.empty((C, len(y)), dtype).T
    for wrong in (y, target, *shapes, 3, y.astype("f2")):
        with pytest.raises((TypeError, ValueError), match=r"^out: expected"):
            getattr(losses, name)(y, target, out=wrong)
