"""Single steps of each cell."""

import numpy as np
import pytest
from conftest import NORMED, USABLE, everywhere
from rnn_rows import arrays_of, case, each, twins_of, width_of

import pyoptk

# B, I, H, L
SHAPES = [
    (1, 1, 1, 1),
    (1, 64, 64, 1),
    (3, 5, 7, 3),
    (6, 17, 33, 2),
    (9, 130, 100, 1),
    (5, 2, 300, 2),
]


@everywhere
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_equal_the_twin_and_forward(shape, cell, dtype, isa, threads, rng):
    B, I, H, L = shape
    layer, x, state, *_ = case(rng, (6, B, I, H, L), dtype, cell)
    whole, last = layer.forward(x, state)
    limit = (2e-6 if dtype == np.float32 else 1e-12) * max(1, np.abs(whole).max())
    limit *= 5 if layer.layer_norm else 1  # as in assert_near
    exact = [[s[i].astype(np.float64) for s in arrays_of(state)] for i in range(L)]
    weights = [w.astype(np.float64) for w in layer.params.values()]
    kinds = len(weights) // L
    step = twins_of(layer)[2]
    for t in range(6):
        y, state = layer.step(x[t], state)
        below = x[t].astype(np.float64)
        for i in range(L):
            exact[i] = step(below, exact[i], *weights[kinds * i : kinds * (i + 1)])
            below = exact[i][0]
        assert y.dtype == dtype
        assert np.abs(y - below).max() <= limit
        assert np.abs(y - whole[t]).max() <= limit
    all_three = arrays_of(state), arrays_of(last), zip(*exact, strict=True)
    for ours, forward, twin in zip(*all_three, strict=True):
        assert np.abs(ours - forward).max() <= limit
        assert np.abs(ours - np.stack(twin)).max() <= limit


def test_a_step_gives_the_same_bits_for_any_threads_and_neighbours(cell, dtype, isa, rng):
    layer, x, state, *_ = case(rng, (1, 9, 130, 300, 2), dtype, cell)
    outcomes = []
    for threads in (1, 2, 3, 7):
        pyoptk.set_num_threads(threads)
        y, after = layer.step(x[0], state)
        outcomes.append((y, *arrays_of(after)))
    pyoptk.set_num_threads()
    for others in outcomes[1:]:
        for one, other in zip(outcomes[0], others, strict=True):
            np.testing.assert_array_equal(one, other)
    for rows in (slice(0, 1), slice(2, 9)):
        alone, _ = layer.step(x[0, rows], each(lambda s, rows=rows: s[:, rows], state))
        np.testing.assert_array_equal(alone, outcomes[0][0][rows])


def test_a_step_goes_on_with_another_instruction_set(cell, dtype, rng):
    layer, x, state, *_ = case(rng, (1, 700, 3, 1, 1), dtype, cell)  # WIDTH differs most for H = 1
    outcomes = []
    for name in ("baseline", *USABLE, "baseline"):
        pyoptk.use_isa(name)
        outcomes.append(layer.step(x[0], state)[0])
        outcomes.append(layer.forward(x, state)[0][0])
    pyoptk.use_isa()
    for one in outcomes:
        np.testing.assert_allclose(one, outcomes[0], rtol=0, atol=30 * np.finfo(dtype).eps)


def test_a_step_sees_weights_that_were_changed_in_place(cell, dtype, rng):
    layer, x, state, *_ = case(rng, (1, 2, 3, 9, 2), dtype, cell)
    layer.step(x[0], state)
    opt = pyoptk.SGD(layer.params, lr=0.5)
    for name, weights in layer.params.items():
        before, _ = layer.step(x[0], state)
        weights += dtype.type(0.25)
        assert (layer.step(x[0], state)[0] != before).any(), name
    before, _ = layer.step(x[0], state)
    opt.step({name: np.ones_like(w) for name, w in layer.params.items()})
    y, _ = layer.step(x[0], state)
    assert (y != before).any()
    assert np.abs(y - layer.forward(x, state)[0][0]).max() < 2e-6


def test_a_step_takes_what_forward_takes_and_changes_nothing(cell, dtype, rng):
    layer, x, state, *_ = case(rng, (1, 5, 3, 9, 2), dtype, cell, bias=False)
    given = (x, *arrays_of(state))
    before = [a.copy() for a in given]
    y, after = layer.step(x[0], state)
    wide = np.repeat(np.repeat(x[0], 2, axis=0), 3, axis=1)
    for view in (wide[::2, ::3], np.asfortranarray(x[0]), np.repeat(x[0], 2, axis=0)[::2]):
        np.testing.assert_array_equal(layer.step(view, state)[0], y)
    turned = each(np.asfortranarray, state)
    for one, other in zip(arrays_of(layer.step(x[0], turned)[1]), arrays_of(after), strict=True):
        np.testing.assert_array_equal(one, other)
    zeros = each(np.zeros_like, state)
    np.testing.assert_array_equal(layer.step(x[0])[0], layer.step(x[0], zeros)[0])
    for array, same in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, same)
    new = (y, *arrays_of(after))
    assert not any(np.shares_memory(a, b) for a in new for b in (*given, layer.flat_params))
    y[...] = 7
    assert (new[1][-1] != 7).all()
    none, after = layer.step(np.zeros((0, 3), dtype))
    assert none.shape == (0, width_of(layer))
    assert arrays_of(after)[0].shape == (2, 0, width_of(layer))
    assert arrays_of(after)[-1].shape == (2, 0, 9)


def test_a_nan_stays_in_its_own_row_of_a_step(cell, dtype, isa, rng):
    layer, x, state, *_ = case(rng, (1, 9, 3, 37, 1), dtype, cell)
    clean, _ = layer.step(x[0], state)
    x[0, 4, 1], x[0, 7, 0] = np.nan, np.inf
    y, _ = layer.step(x[0], state)
    assert np.isnan(y[4]).all()
    if cell not in ("RNN relu", *NORMED):  # the others saturate
        assert np.isfinite(y[7]).all()
    np.testing.assert_array_equal(np.delete(y, [4, 7], 0), np.delete(clean, [4, 7], 0))
