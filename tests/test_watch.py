"""Watched steps: the same step, and numbers about it that NumPy finds, too."""

import numpy as np
import pytest
from optim_rows import COMMON, IDS, ROWS, SETTINGS, data

import pyoptk

SIZES = [1, 7, 300, 16_385, 70_001]


def found_by_numpy(before, grad, after, scale=1.0, clip=np.inf):
    before, grad, after = (np.asarray(a, float) for a in (before, grad, after))
    size = scale * np.abs(grad)
    return {
        "grad_norm": np.sqrt((size**2).sum()),
        "param_norm": np.sqrt((after**2).sum()),
        "update_norm": np.sqrt(((after - before) ** 2).sum()),
        "largest_grad": size.max(),
        "clipped": np.mean(size > clip),
        "zeros": np.mean(grad == 0),
        "nonfinite": np.mean(~np.isfinite(grad)),
    }


def assert_told(watched, expected, dtype):
    close = 1e-4 if dtype == np.float32 else 1e-9  # squares are summed in dtype, 16,384 at most
    for name, value in expected.items():
        assert watched[name] == pytest.approx(value, rel=close, abs=1e-12), name


@pytest.mark.parametrize("common", ["plain", "all"])
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
def test_a_watched_step_has_the_same_bits_and_tells_what_it_did(name, settings, common, dtype, rng):
    made = [data(rng, n, dtype, 2) for n in SIZES]
    given = {"lr": 0.01, **settings, **COMMON[common]}
    plain = ROWS[name][0]([p.copy() for p, _ in made], **given)
    opt = ROWS[name][0]([p.copy() for p, _ in made], **given)
    opt.watch = True
    for step in range(2):
        grads = [g[step] for _, g in made]
        grads[2][:30] = 0
        before = [p.copy() for p in opt.params]
        plain.step(grads)
        opt.step(grads)
        for i, watched in enumerate(opt.watched):
            np.testing.assert_array_equal(opt.params[i], plain.params[i])
            clip = given.get("clip_value", np.inf)
            numbers = (before[i], grads[i], opt.params[i], given.get("grad_scale", 1.0), clip)
            assert_told(watched, found_by_numpy(*numbers), dtype)
    for state, arrays in opt.state.items():
        for ours, theirs in zip(arrays, plain.state[state], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("given", [{}, {"cautious": True, "ema_decay": 0.9}], ids=repr)
def test_any_number_of_threads_tells_the_same(given, dtype, isa, rng):
    param, (grad,) = data(rng, 200_003, dtype, 1)
    told = []
    for threads in (1, 2, 3):
        memory = param.copy() if not told else memory  # noqa: F821 - the same address
        memory[:] = param
        pyoptk.set_num_threads(threads)
        opt = pyoptk.Adam(memory, **given)
        opt.watch = True
        opt.step(grad)
        told.append(opt.watched)
    pyoptk.set_num_threads()
    assert told[0] == told[1] == told[2]
    assert_told(told[0], found_by_numpy(param, grad, memory), dtype)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e22, 1e30])
def test_vanishing_and_exploding_gradients_are_measured(size, dtype, rng):
    grad = (size * rng.standard_normal(5000)).astype(dtype)
    opt = pyoptk.Adam(np.zeros(5000, dtype), lr=0.1, zero_grad=True)
    opt.watch = True
    expected = found_by_numpy(0, grad, 0)
    opt.step(grad)
    watched = opt.watched
    for name in ("grad_norm", "largest_grad", "nonfinite"):
        assert watched[name] == pytest.approx(expected[name], rel=1e-5), name
    assert not grad.any()


def test_shares_of_zeros_and_of_what_is_not_finite(dtype):
    grad = np.ones(1000, dtype)
    grad[:250], grad[[400, 500]], grad[600] = 0, np.nan, -np.inf
    opt = pyoptk.SGD({"w": np.zeros(1000, dtype)}, lr=0.5, clip_value=0.5)
    opt.watch = True
    opt.step({"w": grad})
    watched = opt.watched["w"]
    assert (watched["zeros"], watched["nonfinite"], watched["clipped"]) == (0.25, 0.003, 0.748)
    assert watched["largest_grad"] == np.inf
    assert watched["lr"] == 0.25  # half of the rate: gradients of 1 were clipped to 0.5


def test_the_effective_rate_is_the_median_over_the_elements(rng):
    param, (grad,) = data(rng, 20, np.dtype(float), 1)
    opt = pyoptk.Adam(param.copy(), lr=0.01)
    opt.watch = True
    opt.step(grad)
    assert opt.watched["lr"] == pytest.approx(np.median(np.abs((opt.params - param) / grad)))


def test_narrow_gradients_rows_and_parameters_left_alone(rng):
    params = {name: np.ones((40, 8), np.float32) for name in ("half", "rows", "none")}
    opt = pyoptk.SGD(params, lr=0.5)
    opt.watch = True
    values = rng.standard_normal((3, 8)).astype(np.float32)
    half = rng.standard_normal((40, 8)).astype(np.float16)
    rows = pyoptk.SparseRows([1, 5, 1], values, (40, 8))
    opt.step({"half": half, "rows": rows, "none": None})
    watched = opt.watched
    assert_told(watched["half"], found_by_numpy(1, half, params["half"]), np.float32)
    touched = rows.dense()[[1, 5]]
    assert_told(watched["rows"], found_by_numpy(1, touched, params["rows"][[1, 5]]), np.float32)
    assert watched["none"] is None


def test_what_is_told_ends_with_watching():
    opt = pyoptk.Adam(np.zeros(3))
    assert opt.watch is False
    for wrong in (0, "yes", None):
        with pytest.raises(TypeError, match=r"^watch: expected True or False"):
            opt.watch = wrong
    opt.watch = True
    assert opt.watched is None
    opt.step(np.ones(3))
    assert opt.watched["grad_norm"] == pytest.approx(3**0.5)
    opt.watch = False
    with pytest.raises(RuntimeError, match=r"^watched: expected an optimizer with watch = True"):
        _ = opt.watched
