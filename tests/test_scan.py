"""Linear recurrences: against the twin and finite differences; advantages against their formula."""

import numpy as np
import pytest

import pyoptk
from pyoptk import kernels, reference

SHAPES = [
    (0, 2, 3),
    (3, 0, 4),
    (3, 2, 0),
    (1, 1, 1),
    (5, 3, 7),
    (7, 2, 64),
    (4, 3, 2051),
    (40, 9, 130),
]


def problem(shape, dtype, rng):
    """a, b, dh, h0 and resets."""
    T, B, D = shape
    a, b, dh = rng.uniform(-1, 1, (3, *shape)).astype(dtype)
    return a, b, dh, rng.uniform(-1, 1, (B, D)).astype(dtype), rng.random((T, B)) < 0.3


def both_ways(library, a, b, dh, h0, **how):
    h, da, db = (np.empty_like(a) for _ in range(3))
    dh0 = None if h0 is None else np.empty_like(h0)
    assert library.linear_scan_forward(a, b, h, h0, **how) is None
    assert library.linear_scan_backward(a, h, dh, da, db, h0, dh0, **how) is None
    return [array for array in (h, da, db, dh0) if array is not None]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_equal_their_twins(shape, with_resets, reverse, dtype, isa, threads, rng):
    a, b, dh, h0, resets = problem(shape, dtype, rng)
    for start in (None, h0):
        how = {"reverse": reverse, "resets": resets if with_resets else None}
        ours, theirs = (both_ways(lib, a, b, dh, start, **how) for lib in (kernels, reference))
        for mine, exact in zip(ours, theirs, strict=True):
            # Sums of a few products of numbers below 1, with one rounding less in each.
            np.testing.assert_allclose(mine, exact, rtol=0, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_agree_with_central_differences(reverse, with_h0, rng):
    a, b, dh, h0, resets = problem((5, 3, 4), np.float64, rng)
    start = h0 if with_h0 else None
    how = {"reverse": reverse, "resets": resets}

    def loss():
        return (pyoptk.linear_scan(a, b, start, **how) * dh).sum()

    h = pyoptk.linear_scan(a, b, start, **how)
    found = pyoptk.linear_scan_backward(dh, a, h, start, **how)
    assert (found[2] is None) == (start is None)
    for x, gradient in zip((a, b, start)[: 2 + with_h0], found, strict=False):
        for i in np.ndindex(x.shape):
            was, low_and_high = x[i], []
            for x[i] in (was - 1e-6, was + 1e-6):
                low_and_high.append(loss())
            x[i] = was
            # Differences lose half of the digits.
            assert abs(np.diff(low_and_high)[0] / 2e-6 - gradient[i]) < 1e-8


def test_threads_strides_and_the_rest_of_the_batch_change_no_bit(dtype, isa, rng):
    a, b, dh, h0, resets = problem((50, 9, 130), dtype, rng)
    whole = both_ways(kernels, a, b, dh, h0, resets=resets)
    for threads in (2, 7):
        pyoptk.set_num_threads(threads)
        for ours, first in zip(both_ways(kernels, a, b, dh, h0, resets=resets), whole, strict=True):
            np.testing.assert_array_equal(ours, first)
    pyoptk.set_num_threads()
    rows, part = slice(2, 7), slice(3, 100)
    few_a, few_b, few_dh, start = (array[..., rows, part] for array in (a, b, dh, h0))
    h = np.empty((5, 60, 140), dtype).swapaxes(0, 1)[5:55, :, 3:100]
    da, db = np.empty((2, *h.shape), dtype)
    start, few = start.copy(), {"resets": np.asfortranarray(resets[:, rows])}
    kernels.linear_scan_forward(few_a, few_b, h, start, **few)
    kernels.linear_scan_backward(few_a, h, few_dh, da, db, start, **few)
    for ours, first in zip((h, da, db), whole, strict=False):
        np.testing.assert_array_equal(ours, first[:, rows, part])


@pytest.mark.parametrize("reverse", [False, True])
def test_results_may_take_the_place_of_arguments(reverse, dtype, isa, rng):
    a, b, dh, h0, resets = problem((6, 3, 40), dtype, rng)
    how = {"reverse": reverse, "resets": resets}
    h, da, db, dh0 = both_ways(kernels, a, b, dh, h0, **how)
    h0 = h0.T.copy().T  # in another order of memory
    for instead in (0, 1):
        pair = a.copy(), b.copy()
        assert pyoptk.linear_scan(*pair, h0, **how, out=pair[instead]) is pair[instead]
        np.testing.assert_array_equal(pair[instead], h)
    same = a.copy()
    np.testing.assert_array_equal(
        pyoptk.linear_scan(same, same, h0), pyoptk.linear_scan(a, a.copy(), h0)
    )
    found = pyoptk.linear_scan_backward(dh, a, h, h0, **how, out=(a, dh))
    assert found[0] is a
    assert found[1] is dh
    for ours, apart in zip(found, (da, db, dh0), strict=True):
        np.testing.assert_array_equal(ours, apart)


def test_what_is_behind_a_reset_reaches_nothing(dtype, isa):
    a, b, dh = np.ones((3, 4, 2, 5), dtype)
    h0, resets = np.full((2, 5), np.nan, dtype), np.zeros((4, 2), bool)
    resets[2], a[2] = True, np.nan
    h, da, db, dh0 = both_ways(kernels, a, b, dh, h0, resets=resets)
    assert np.isnan(h[:2]).all()
    assert (h[2:, 0, 0] == [1, 2]).all()
    assert (db[:, 0, 0] == [2, 1, 2, 1]).all()
    assert (dh0 == 2).all()
    assert (da[2:, 0, 0] == [0, 1]).all()


def advantages(rewards, values, dones, gamma, lam):
    """Equation 16 of Schulman et al. (2016) as a sum over what is left of each episode."""
    found = np.zeros_like(rewards)
    for t in range(len(rewards)):
        weight = np.ones_like(rewards[0])
        for k in range(t, len(rewards)):
            delta = rewards[k] + gamma * np.where(dones[k], 0, values[k + 1]) - values[k]
            found[t] += weight * delta
            weight = weight * np.where(dones[k], 0, gamma * lam)
    return found


@pytest.mark.parametrize("shape", [(9,), (9, 4), (9, 2, 3), (0, 3)], ids=str)
def test_advantages_and_returns_are_the_sums_of_their_formulas(shape, dtype, rng):
    rewards, dones = rng.standard_normal(shape).astype(dtype), rng.random(shape) < 0.25
    values = rng.standard_normal((shape[0] + 1, *shape[1:])).astype(dtype)
    tolerance = {"rtol": 0, "atol": 50 * np.finfo(dtype).eps}
    before = rewards.copy()
    got = pyoptk.gae(rewards, values, dones, 0.95, 0.8)
    assert got.dtype == dtype
    exact = advantages(rewards, values, dones, 0.95, 0.8) if shape[0] else rewards
    np.testing.assert_allclose(got, exact, **tolerance)
    last = values[-1]
    got = pyoptk.discounted_returns(rewards, dones, 0.95, last)
    values = np.concatenate([np.zeros_like(rewards), last[None]])
    exact = advantages(rewards, values, dones, 0.95, 1.0) if shape[0] else rewards
    np.testing.assert_allclose(got, exact, **tolerance)
    np.testing.assert_array_equal(rewards, before)
    # of any strides, and without a word where numbers are not finite
    turned = (np.asfortranarray(a) for a in (rewards, np.zeros_like(values), dones))
    again = pyoptk.gae(*turned, 0.95, 0.8)
    exact = advantages(rewards, 0 * values, dones, 0.95, 0.8) if shape[0] else rewards
    np.testing.assert_allclose(again, exact, **tolerance)
    turned = (np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0) for a in (rewards, dones))
    np.testing.assert_array_equal(
        pyoptk.discounted_returns(*turned, 0.95), pyoptk.discounted_returns(rewards, dones, 0.95)
    )
    rewards[:] = np.inf
    with np.errstate(all="raise"):
        pyoptk.gae(rewards, -values, dones, 0.95, 0.8)


X, H0, R = np.ones((4, 2, 3), np.float32), np.ones((2, 3), np.float32), np.zeros((4, 2), bool)
OUT = np.zeros_like(X)
LINE, ENDS = np.ones(3, np.float32), np.zeros(3, bool)
BAD = {
    "a no array": (lambda: pyoptk.linear_scan([1.0], X), TypeError, "^a: expected a float32 or"),
    "a of two axes": (lambda: pyoptk.linear_scan(X[0], X), ValueError, r"^a: expected 3 axes, got"),
    "b no array": (lambda: pyoptk.linear_scan(X, [[1], 2]), TypeError, "^b: expected a float32 or"),
    "b of another shape": (lambda: pyoptk.linear_scan(X, X[1:]), ValueError, r"^b: expected float32 \(4, 2, 3\) like a, got float32 \(3"),
    "b of another dtype": (lambda: pyoptk.linear_scan(X, X.astype(float)), TypeError, "^b: expected float32"),
    "a transposed": (lambda: pyoptk.linear_scan(X.T, X.T), ValueError, "^a: expected the last axis to be adj"),
    "h0 of another shape": (lambda: pyoptk.linear_scan(X, X, H0[1:]), ValueError, r"^h0: expected shape \(2, 3\)"),
    "out overlapping": (lambda: pyoptk.linear_scan(X, X, out=X[:]), ValueError, "^h: expected memory of its own"),
    "out no array": (lambda: pyoptk.linear_scan(X, X, out=5), TypeError, "^out: expected a float32 or"),
    "out of another shape": (lambda: pyoptk.linear_scan(X, X, out=X[1:]), ValueError, "^out: expected shape"),
    "resets of integers": (lambda: pyoptk.linear_scan(X, X, resets=R.astype(int)), TypeError, r"^resets: expected bool \(4, 2\), got int64"),
    "resets of another shape": (lambda: pyoptk.linear_scan(X, X, resets=R.T), ValueError, r"^resets: expected bool \(4, 2\), got bool \(2, 4\)"),
    "resets masked": (lambda: pyoptk.linear_scan(X, X, resets=np.ma.array(R)), TypeError, "^resets: expected .* got a masked array"),
    "reverse no switch": (lambda: pyoptk.linear_scan(X, X, reverse=1), TypeError, "^reverse: expected True"),
    "dh of another shape": (lambda: pyoptk.linear_scan_backward(X[1:], X, X), ValueError, "^dh: expected float32"),
    "out no pair": (lambda: pyoptk.linear_scan_backward(X, X, X, out=OUT), TypeError, "^out: expected two arrays"),
    "da the same as db": (lambda: pyoptk.linear_scan_backward(X, X, X, out=(OUT, OUT)), ValueError, "^db: expected memory of its own"),
    "dh0 without h0": (lambda: kernels.linear_scan_backward(X, X, X, OUT, OUT.copy(), None, H0), ValueError, "^dh0: expected None without h0"),
    "rewards a list": (lambda: pyoptk.gae([1.0], LINE, ENDS, 1, 1), TypeError, "^rewards: expected a float32 or"),
    "rewards of no axes": (lambda: pyoptk.gae(LINE[0:1].reshape(()), LINE, ENDS, 1, 1), ValueError, "^rewards: expected at least 1 axis"),
    "values too short": (lambda: pyoptk.gae(LINE, LINE, ENDS, 1, 1), ValueError, r"^values: expected shape \(4\), got \(3,\)"),
    "values of another dtype": (lambda: pyoptk.gae(LINE, np.ones(4), ENDS, 1, 1), TypeError, "^values: expected float32, got float64"),
    "dones of integers": (lambda: pyoptk.gae(LINE, LINE, LINE, 1, 1), TypeError, "^dones: expected a bool array"),
    "dones of another shape": (lambda: pyoptk.gae(LINE, LINE, ENDS[1:], 1, 1), ValueError, r"^dones: expected shape \(3,\)"),
    "gamma of 2": (lambda: pyoptk.discounted_returns(LINE, ENDS, 2), ValueError, r"^gamma: expected a number in \[0, 1\]"),
    "lam no number": (lambda: pyoptk.gae(LINE, np.ones(4, "f4"), ENDS, 1, "x"), TypeError, "^lam: expected a number"),
    "last of another shape": (lambda: pyoptk.discounted_returns(LINE, ENDS, 1, LINE), ValueError, r"^last: expected shape \(\), got"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_wrong_arguments_are_refused_by_name(bad):
    call, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        call()
    assert (X == 1).all()
    assert (OUT == 0).all()


def test_no_steps_of_more_columns_than_memory_end_at_once():
    shape = (0, 2**30, 2**28)
    a, b, h, da, db = (np.empty(shape) for _ in range(5))
    kernels.linear_scan_forward(a, b, h)
    kernels.linear_scan_backward(a, h, b, da, db)
    assert pyoptk.discounted_returns(a, np.empty(shape, bool), 0.5).shape == shape
