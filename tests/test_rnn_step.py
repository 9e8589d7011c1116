"""Single steps of an LSTM."""

import numpy as np
import pytest
from rnn_rows import case

import pyoptk
from pyoptk import reference

# B, I, H, L
SHAPES = [
    (1, 1, 1, 1),
    (1, 64, 64, 1),
    (3, 5, 7, 3),
    (6, 17, 33, 2),
    (9, 130, 100, 1),
    (5, 2, 300, 2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_equal_the_twin_and_forward(shape, dtype, isa, threads, rng):
    B, I, H, L = shape
    lstm, x, state, *_ = case(rng, (6, B, I, H, L), dtype)
    whole, last = lstm.forward(x, state)
    limit = 2e-6 if dtype == np.float32 else 1e-12
    exact = [tuple(s[layer].astype(np.float64) for s in state) for layer in range(L)]
    weights = [w.astype(np.float64) for w in lstm.params.values()]
    for t in range(6):
        y, state = lstm.step(x[t], state)
        below = x[t].astype(np.float64)
        for layer in range(L):
            exact[layer] = reference.lstm_step(
                below, *exact[layer], *weights[4 * layer : 4 * layer + 4]
            )
            below = exact[layer][0]
        assert y.dtype == dtype
        assert np.abs(y - below).max() <= limit
        assert np.abs(y - whole[t]).max() <= limit
    for ours, forward, twin in zip(state, last, zip(*exact, strict=True), strict=True):
        assert np.abs(ours - forward).max() <= limit
        assert np.abs(ours - np.stack(twin)).max() <= limit


def test_a_step_gives_the_same_bits_for_any_threads_and_neighbours(dtype, isa, rng):
    lstm, x, state, *_ = case(rng, (1, 9, 130, 300, 2), dtype)
    outcomes = []
    for threads in (1, 2, 3, 7):
        pyoptk.set_num_threads(threads)
        outcomes.append(lstm.step(x[0], state))
    pyoptk.set_num_threads()
    y, (h, c) = outcomes[0]
    for other_y, (other_h, other_c) in outcomes[1:]:
        for one, other in zip((y, h, c), (other_y, other_h, other_c), strict=True):
            np.testing.assert_array_equal(one, other)
    for rows in (slice(0, 1), slice(2, 9)):
        alone, _ = lstm.step(x[0, rows], tuple(s[:, rows] for s in state))
        np.testing.assert_array_equal(alone, y[rows])


def test_a_step_sees_weights_that_were_changed_in_place(dtype, rng):
    lstm, x, state, *_ = case(rng, (1, 2, 3, 9, 2), dtype)
    lstm.step(x[0], state)
    opt = pyoptk.SGD(lstm.params, lr=0.5)
    for name, weights in lstm.params.items():
        before, _ = lstm.step(x[0], state)
        weights += dtype.type(0.25)
        assert (lstm.step(x[0], state)[0] != before).any(), name
    before, _ = lstm.step(x[0], state)
    opt.step({name: np.ones_like(w) for name, w in lstm.params.items()})
    y, _ = lstm.step(x[0], state)
    assert (y != before).any()
    assert np.abs(y - lstm.forward(x, state)[0][0]).max() < 2e-6


def test_a_step_takes_what_forward_takes_and_changes_nothing(dtype, rng):
    lstm, x, state, *_ = case(rng, (1, 5, 3, 9, 2), dtype, bias=False)
    kept = [a.copy() for a in (x, *state)]
    y, (h, c) = lstm.step(x[0], state)
    wide = np.repeat(np.repeat(x[0], 2, axis=0), 3, axis=1)
    for view in (wide[::2, ::3], np.asfortranarray(x[0]), np.repeat(x[0], 2, axis=0)[::2]):
        np.testing.assert_array_equal(lstm.step(view, state)[0], y)
    turned = tuple(np.asfortranarray(s) for s in state)
    np.testing.assert_array_equal(lstm.step(x[0], turned)[1][1], c)
    zeros = tuple(np.zeros_like(s) for s in state)
    np.testing.assert_array_equal(lstm.step(x[0])[0], lstm.step(x[0], zeros)[0])
    for array, before in zip((x, *state), kept, strict=True):
        np.testing.assert_array_equal(array, before)
    assert not any(np.shares_memory(a, b) for a in (y, h, c) for b in (x, *state, lstm.flat_params))
    y[...] = 7
    assert (h[-1] != 7).all()
    none, (h, _) = lstm.step(np.zeros((0, 3), dtype))
    assert none.shape == (0, 9)
    assert h.shape == (2, 0, 9)


def test_a_nan_stays_in_its_own_row_of_a_step(dtype, isa, rng):
    lstm, x, state, *_ = case(rng, (1, 9, 3, 37, 1), dtype)
    clean, _ = lstm.step(x[0], state)
    x[0, 4, 1], x[0, 7, 0] = np.nan, np.inf
    y, _ = lstm.step(x[0], state)
    assert np.isnan(y[4]).all()
    assert np.isfinite(y[7]).all()
    np.testing.assert_array_equal(np.delete(y, [4, 7], 0), np.delete(clean, [4, 7], 0))
