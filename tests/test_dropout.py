"""Dropout: the kernel against its twin, the twin against published numbers, odds of the mask."""

import numpy as np
import pytest

import pyoptk
from pyoptk import kernels, reference

SHAPES = [(0, 3, 4), (1, 1, 1), (3, 2, 7), (7, 5, 63), (8, 1, 64), (1, 3, 1025), (9, 64, 130)]
FAR = {"seed": 2**63 + 5, "stream": 2**40 + 9}


def dropped(shape, dtype, p, **where):
    """The mask: True where a one became zero."""
    y = np.ones(shape, dtype)
    kernels.dropout(y, y, p, **where)
    return y == 0


# Known answers of Random123, the authors' library (kat_vectors): counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_twins_generator_gives_the_known_answers(counter, key, words):
    c, k = ([int(word, 16) for word in text.split()] for text in (counter, key))
    first, stream, seed = (low | high << 32 for low, high in (c[:2], c[2:], k))
    got = reference.philox(np.array([first], np.uint64), stream, seed)
    assert [f"{word:08x}" for word in got[0]] == words.split()


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.999])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_equals_its_twin_bit_for_bit(shape, p, dtype, isa, threads, rng):
    x = rng.standard_normal(shape).astype(dtype)
    ours, exact = np.empty_like(x), np.empty_like(x)
    assert kernels.dropout(x, ours, p, **FAR) is None
    reference.dropout(x, exact, p, **FAR)
    np.testing.assert_array_equal(ours, exact)


def test_any_strides_and_the_array_itself_get_the_same_mask(dtype, rng):
    x = rng.standard_normal((6, 5, 70)).astype(dtype)
    expected = np.empty_like(x)
    kernels.dropout(x, expected, 0.3, seed=1)
    wide = np.full((5, 12, 77), 7, dtype)
    y = wide.swapaxes(0, 1)[::-2, :, 3:73]
    kernels.dropout(x[:, ::-1].copy()[:, ::-1], y, 0.3, seed=1)
    np.testing.assert_array_equal(y, expected)
    assert (wide == 7).sum() == wide.size - y.size  # and nothing else was written
    kernels.dropout(x, x, 0.3, seed=1)
    np.testing.assert_array_equal(x, expected)


def test_the_mask_depends_on_nothing_but_seed_stream_and_place():
    masks = []
    for isa in [name for name, usable in pyoptk.isas().items() if usable]:
        pyoptk.use_isa(isa)
        for threads in (1, 2, 7):
            pyoptk.set_num_threads(threads)
            masks += [dropped((40, 30, 101), dtype, 0.4, seed=3) for dtype in (np.float32, float)]
    pyoptk.use_isa()
    pyoptk.set_num_threads()
    masks.append(dropped((1, 40, 3030), float, 0.4, seed=3).reshape(40, 30, 101))
    assert all((mask == masks[0]).all() for mask in masks)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.2, 0.5, 0.9])
def test_the_share_of_zeros_is_p(p):
    """Within five standard deviations of the binomial; the seed is fixed, so the result is, too."""
    n, bound = 1_000_000, 5 * np.sqrt(1_000_000 * p * (1 - p))
    mask = dropped((10, 100, 1000), np.float32, p, seed=11)
    assert abs(mask.sum() - n * p) < bound
    per_unit = mask.sum((0, 1)) - 1000 * p  # no unit is luckier than others
    assert np.abs(per_unit).max() < 6 * np.sqrt(1000 * p * (1 - p)) + 1


@pytest.mark.parametrize(
    "other", [{"seed": 12}, {"seed": 11 + 2**32}, {"stream": 1}, {"stream": 2**32}], ids=str
)
def test_other_seeds_and_streams_give_masks_that_have_nothing_in_common(other):
    one = dropped((10, 100, 1000), np.float32, 0.2, seed=11)
    two = dropped((10, 100, 1000), np.float32, 0.2, **({"seed": 11} | other))
    both = 1_000_000 * 0.04
    assert abs((one & two).sum() - both) < 5 * np.sqrt(both * 0.96)


def test_what_is_dropped_is_zero_even_where_it_was_no_number(dtype):
    x = np.full((4, 5, 60), np.nan, dtype)
    x[::2] = np.inf
    y = np.empty_like(x)
    kernels.dropout(x, y, 0.5, seed=0)
    mask = dropped(x.shape, dtype, 0.5, seed=0)
    assert (y[mask] == 0).all()
    np.testing.assert_array_equal(y[~mask], x[~mask])


@pytest.mark.parametrize("p", [0.3, 0.9999, 0.99999, 1 - 2**-16])
def test_the_mean_stays_the_same(p, dtype):
    """What is kept is scaled by the p that is dropped with: rounded to 2**-16."""
    y = np.empty((1, 1, 4_000_000), dtype)
    kernels.dropout(np.ones_like(y), y, p, seed=1)
    kept = np.count_nonzero(y)
    assert abs(y.mean(dtype=float) - 1) < 6 / np.sqrt(kept)


X = np.ones((2, 3, 4), np.float32)
BAD = {
    "p of 1": (lambda: kernels.dropout(X, X, 1.0, seed=0), ValueError, r"^p: expected a number in \[0, 1\), got 1.0"),
    "p that rounds to 1": (lambda: kernels.dropout(X, X, 0.999995, seed=0), ValueError, r"^p: expected a number that does not round to 1 in steps of 2\*\*-16, got 0.999995$"),
    "p no number": (lambda: kernels.dropout(X, X, "x", seed=0), TypeError, r"^p: expected a number"),
    "seed negative": (lambda: kernels.dropout(X, X, 0.5, seed=-1), ValueError, r"^seed: expected an integer in 0..2\*\*64-1, got -1"),
    "seed too large": (lambda: kernels.dropout(X, X, 0.5, seed=2**64), ValueError, r"^seed: expected an integer in"),
    "stream no integer": (lambda: kernels.dropout(X, X, 0.5, seed=0, stream=1.5), TypeError, r"^stream: expected an integer in"),
    "x of two axes": (lambda: kernels.dropout(X[0], X[0], 0.5, seed=0), ValueError, r"^x: expected 3 axes, got shape \(3, 4\)"),
    "x transposed": (lambda: kernels.dropout(X.T, X, 0.5, seed=0), ValueError, r"^x: expected the last axis to be adjacent"),
    "y of another shape": (lambda: kernels.dropout(X, X[:1].copy(), 0.5, seed=0), ValueError, r"^y: expected float32 \(2, 3, 4\) like x"),
    "y of another dtype": (lambda: kernels.dropout(X, X.astype(float), 0.5, seed=0), TypeError, r"^y: expected float32"),
    "y overlapping": (lambda: kernels.dropout(X[:1], X[:1, :], 0.5, seed=0), ValueError, r"^y: expected memory of its own"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_dropout_refuses_bad_arguments_by_name(bad):
    call, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        call()
    assert (X == 1).all()
