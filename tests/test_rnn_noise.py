"""Recurrent dropout and zoneout against the twin, finite differences and the papers."""

import copy

import numpy as np
import pytest
from conftest import CELLS
from rnn_rows import (
    arrays_of,
    assert_near,
    assert_near_differences,
    by_pyoptk,
    by_twin,
    case,
    each,
    inputs_of,
    layer_of,
    on_every_isa,
    twins_of,
    width_of,
)

import pyoptk
from pyoptk import kernels, reference


@pytest.fixture(params=CELLS)
def cell(request):
    """One that has noise within the layers."""
    return request.param


LENGTHS = [3, 9, 0, 1, 9, 5, 2]
# Keywords of the layer, of which zoneout is that of h; keywords of forward.
ROWS = {
    "state": ({"recurrent_dropout": 0.3}, {}),
    "candidate": ({"recurrent_dropout": 0.3, "recurrent_dropout_of": "candidate"}, {}),
    "zoneout": ({"zoneout": 0.3}, {}),
    "all": (
        {"recurrent_dropout": 0.4, "zoneout": 0.2, "bidirectional": True, "dropout": 0.3},
        {"lengths": LENGTHS, "past_end": "repeat"},
    ),
    "minimal": (
        {"recurrent_dropout": 0.4, "zoneout": 0.2, "bidirectional": True, "save": "minimal"},
        {"lengths": LENGTHS, "reset_to": "initial"},
    ),
    "candidate, minimal": (
        {"recurrent_dropout": 0.4, "recurrent_dropout_of": "candidate", "save": "minimal"},
        {"reset_to": "zeros"},
    ),
}


def options_for(cell, row):
    """The keywords of a row as this cell takes them; skips what it does not have."""
    options, call = ROWS[row]
    options = dict(options)
    if "zoneout" in options and cell.startswith("LSTM"):
        of_c = 0 if cell == "LSTM all" else 0.5  # it has peepholes
        options["zoneout"] = (of_c, options["zoneout"])
    if cell.startswith("RNN") and "recurrent_dropout_of" in options:
        pytest.skip("it has no candidate")
    return options, dict(call)


def drawn(rng, shape, dtype, cell, row):
    options, call = options_for(cell, row)
    arguments = case(rng, shape, dtype, cell, seed=11, **options)
    if "reset_to" in call:
        call["resets"] = rng.random(arguments[1].shape[:2]) < 0.3
    for b, length in enumerate(call.get("lengths", [])):
        arguments[1][length:, b] = np.nan  # what stands there does not matter
    return arguments, call


@on_every_isa
@pytest.mark.parametrize("cell", [*CELLS, "LSTM coupled"])
@pytest.mark.parametrize("row", ROWS)
def test_both_passes_equal_the_twin(row, cell, dtype, isa, rng):
    arguments, call = drawn(rng, (9, 7, 3, 37, 2), dtype, cell, row)
    assert_near(by_pyoptk(*arguments, **call), by_twin(*arguments, **call), dtype)
    layer, x, state, *d = arguments
    expected = by_twin(layer, x, each(np.zeros_like, state), *d, call=1, **call)
    assert_near(by_pyoptk(layer, x, None, *d, **call), expected, dtype)


@pytest.mark.parametrize("cell", [*CELLS, "LSTM coupled"])
@pytest.mark.parametrize("row", ROWS)
def test_gradients_equal_central_differences(row, cell, rng):
    arguments, call = drawn(rng, (9, 7, 3, 6, 2), np.dtype(np.float64), cell, row)
    layer, x, state, *d = arguments
    assert_near_differences(layer, x, state, d, call, rng, step=1e-6, limit=1e-6)


# By rows, and by units.
@pytest.mark.parametrize("shape", [(6, 40, 33, 65, 1), (3, 4, 20, 300, 1)], ids=str)
def test_threads_change_no_bits_and_the_twin_agrees(shape, cell, rng):
    outcomes, dtype = [], np.dtype(np.float64)
    options = {"recurrent_dropout": 0.4, "bidirectional": True, "save": "minimal"}
    options |= options_for(cell, "zoneout")[0]
    for threads in (1, 2, 3):
        pyoptk.set_num_threads(threads)
        arguments = case(np.random.default_rng(3), shape, dtype, cell, seed=11, **options)
        outcomes.append(by_pyoptk(*arguments))
    pyoptk.set_num_threads()
    assert_near(outcomes[0], by_twin(*arguments), dtype)
    for other in outcomes[1:]:
        for name, array in outcomes[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_inference_takes_the_mean_and_drops_nothing(cell, dtype, threads, rng):
    options, _ = options_for(cell, "zoneout")
    layer, x, state, *_ = case(
        rng, (6, 5, 4, 19, 1), dtype, cell, recurrent_dropout=0.5, seed=1, **options
    )
    y, last = layer.forward(x, state, train=False)
    step, exact = twins_of(layer)[2], [s[0].astype(np.float64) for s in arrays_of(state)]
    weights, given = [w.astype(np.float64) for w in layer.params.values()], state
    for t in range(len(x)):
        # Probabilities are multiples of 2**-16.
        exact = step(x[t].astype(np.float64), exact, *weights, zoneout=rounded(layer))
        ours, given = layer.step(x[t], given)
        assert np.abs(y[t] - exact[0]).max() < 2e-6
        assert np.abs(ours - exact[0]).max() < 2e-6
    for ours, twin in zip(arrays_of(last), exact, strict=True):
        assert np.abs(ours[0] - twin).max() < 2e-6
    assert layer.dropout_calls == 0


def rounded(layer):
    rates = [round(p * 2**16) / 2**16 for p in layer.zoneout_rates]
    return tuple(rates) if isinstance(layer, pyoptk.LSTM) else rates[1]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def by_the_papers(cell, x, state, w, kept_h, kept_g, zoned_h, zoned_c):
    """y and the last state of one layer, step by step, of real or complex arrays.

    `kept_h` multiplies h in products (Gal & Ghahramani 2016, equation 7), kept_g[t] the candidate
    (Semeniuta et al. 2016). Of zoneout (Krueger et al. 2016, section 3.2), zoned_h[t] and
    zoned_c[t] are the masks, or in inference their means.
    """
    w_ih, w_hh, b_ih, b_hh = w
    h, *c = state
    y, H = [], h.shape[-1]
    for x_t, of_g, of_h, of_c in zip(x, kept_g, zoned_h, zoned_c, strict=True):
        a_x, a_h = x_t @ w_ih.T + b_ih, (h * kept_h) @ w_hh.T + b_hh
        if c:
            i, f, g, o = np.split(a_x + a_h, 4, axis=-1)
            new_c = sigmoid(f) * c[0] + sigmoid(i) * (np.tanh(g) * of_g)
            new = sigmoid(o) * np.tanh(new_c)
            c = [of_c * c[0] + (1 - of_c) * new_c]
        else:
            r, z = np.split(sigmoid(a_x + a_h)[..., : 2 * H], 2, axis=-1)
            n = r * a_h[..., 2 * H :]
            if cell == "GRU before":
                n = (r * h * kept_h) @ w_hh[2 * H :].T + b_hh[2 * H :]
            new = (1 - z) * (np.tanh(a_x[..., 2 * H :] + n) * of_g) + z * h
        h = of_h * h + (1 - of_h) * new
        y.append(h[0])
    return np.stack(y), h, *c


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "GRU before"])
@pytest.mark.parametrize("row", ["state", "candidate", "zoneout"])
def test_formulas_are_those_of_the_papers(row, cell, rng):
    """In training with the masks that the kernel of dropout draws, and in inference."""

    def left(steps, p, stream):
        ones = np.ones((steps, 5, 19))
        kernels.dropout(ones, ones, p, seed=11, stream=stream * 2**62)
        return ones

    options, _ = options_for(cell, row)
    layer, x, state, dy, d = case(rng, (6, 5, 4, 19, 1), np.dtype("f8"), cell, seed=11, **options)
    p, of_g, (p_c, p_h) = layer.recurrent_dropout, row == "candidate", layer.zoneout_rates
    masks = (
        left(1, p * (not of_g), 3),
        left(6, p * of_g, 3),
        left(6, p_h, 1) == 0,
        left(6, p_c, 2) == 0,
    )
    given = inputs_of(layer, x, state)

    def theirs(inputs, masks):
        x, *state = [*inputs.values()][:-4]
        return by_the_papers(cell, x, state, [*inputs.values()][-4:], *masks)

    ours = by_pyoptk(layer, x, state, dy, d)
    for name, exact in zip(("y", "h", "c"), theirs(given, masks), strict=False):
        np.testing.assert_allclose(ours[name], exact, rtol=0, atol=1e-14, err_msg=name)
    for name, array in given.items():  # the derivative along one direction, by a complex step
        along = rng.standard_normal(array.shape)
        moved = theirs(given | {name: array + 1e-30j * along}, masks)
        exact = sum(np.sum(a.imag * b) for a, b in zip(moved, (dy, *arrays_of(d)), strict=True))
        products = ours[name] * along
        assert abs(products.sum() - exact / 1e-30) <= 1e-13 * np.abs(products).sum(), name
    means = 1, np.ones(6), *(np.full(6, round(p * 2**16) / 2**16) for p in (p_h, p_c))
    y, _ = layer.forward(x, state, train=False)
    np.testing.assert_allclose(y, theirs(given, means)[0], rtol=0, atol=1e-14)


def test_masks_have_their_probabilities_and_each_call_has_its_own(cell, rng):
    """In a layer whose weights are 0, zoneout alone moves the state from its beginning."""
    p = 0.25
    options = {"zoneout": (0, p) if cell.startswith("LSTM") else p}
    layer = layer_of(cell, 3, 50, 1, seed=5, bidirectional=True, **options)
    layer.flat_params[:] = 0
    state = tuple(
        np.ones((2, 40, n), np.float32) for n in (width_of(layer), *[50] * ("LSTM" in cell))
    )
    x = np.zeros((1, 40, 3), np.float32)
    kept = []
    for _ in range(2):
        y, _ = layer.forward(x, state if len(state) == 2 else state[0])
        kept.append(y[0] == 1)
    assert abs(np.mean(kept) - p) < 5 * np.sqrt(p * (1 - p) / np.size(kept))  # of a binomial
    R = width_of(layer)
    assert (kept[0] != kept[1]).any()
    assert (kept[0][:, :R] != kept[0][:, R:]).any()
    assert layer.dropout_calls == 2


def test_a_resumed_training_goes_on_with_the_same_masks(rng):
    x = rng.standard_normal((6, 4, 3), dtype=np.float32)
    layer = pyoptk.GRU(3, 20, recurrent_dropout=0.4, zoneout=0.1, rng=rng)
    layer.forward(x)
    other = pyoptk.GRU(3, 20, recurrent_dropout=0.4, zoneout=0.1)
    other.load_state_dict(layer.state_dict())
    assert {"seed", "dropout_calls"} <= set(layer.state_dict())
    expected = layer.forward(x)[0]
    for again in (other, copy.deepcopy(other)):
        np.testing.assert_array_equal(again.forward(x)[0], expected)


def test_masks_of_the_reference_are_those_of_dropout():
    found = reference.masks(3, 4, 5, 6, seed=7, stream=2, recurrent_dropout=0.3, zoneout=(0, 0.5))
    y = np.empty((4, 5))
    reference.dropout(np.ones_like(y), y, 0.3, seed=7, stream=2 + 3 * 2**62)
    np.testing.assert_array_equal(found["h_mask"], y)
    assert found["zoned_h"].shape == (3, 4, 5)
    assert set(found) == {"h_mask", "zoned_h"}


ONE, PAIR = r"a number in \[0, 1\)", "a pair of probabilities, for c and h, got 0.5"
BAD = [
    ("LSTM", {"zoneout": 0.5}, TypeError, "zoneout", PAIR),
    ("LSTM", {"zoneout": (0.5, 1)}, ValueError, r"zoneout\[1\]", ONE),
    ("LSTM", {"zoneout": (0.5, 0), "peepholes": True}, ValueError, "zoneout", "0 for c with peep"),
    ("GRU", {"zoneout": (0.5, 0)}, TypeError, "zoneout", ONE),
    ("GRU", {"recurrent_dropout": 1}, ValueError, "recurrent_dropout", ONE),
    ("RNN", {"recurrent_dropout_of": "candidate"}, ValueError, "recurrent_dropout_of", ".*state"),
    ("LSTM", {"recurrent_dropout_of": "h"}, ValueError, "recurrent_dropout_of", "one of state, "),
]


@pytest.mark.parametrize(("cell", "options", "error", "name", "expected"), BAD)
def test_what_makes_no_sense_is_refused_by_name(cell, options, error, name, expected):
    with pytest.raises(error, match=rf"^{name}: expected {expected}"):
        getattr(pyoptk, cell)(3, 4, **options)
