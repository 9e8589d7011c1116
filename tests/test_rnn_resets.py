"""Resets of recurrent layers against the twin, differences, and separate calls for the pieces."""

import numpy as np
import pytest
from rnn_rows import (
    PER_ROW,
    assert_near,
    assert_near_differences,
    by_pyoptk,
    by_twin,
    case,
    each,
    layer_of,
    on_every_isa,
)

import pyoptk

LENGTHS, INITIAL = [3, 9, 0, 1, 9, 5, 2], {"reset_to": "initial"}
# T, B, I, H, L; keywords of the layer; keywords of forward
ROWS = {
    "plain": ((9, 7, 3, 37, 2), {}, {}),
    "many rows": ((5, 33, 65, 63, 1), {"bidirectional": True}, INITIAL),
    "large": ((3, 5, 20, 260, 1), {"save": "minimal"}, INITIAL),
    "lengths": ((9, 7, 3, 6, 2), {"bidirectional": True}, {"lengths": LENGTHS}),
    "minimal": ((30, 2, 3, 5, 2), {"save": "minimal", "bidirectional": True}, INITIAL),
    "all": (
        (9, 7, 3, 40, 3),
        {"dropout": 0.5, "bidirectional": True, "save": "minimal"},
        {"lengths": LENGTHS, "past_end": "repeat"} | INITIAL,
    ),
}


def mask(rng, x, p=0.3):
    return rng.random(x.shape[:2]) < p


@on_every_isa
@pytest.mark.parametrize("row", ROWS)
def test_resets_equal_the_twin(row, cell, dtype, isa, rng):
    shape, options, call = ROWS[row]
    arguments = case(rng, shape, dtype, cell, **options)
    call = call | {"resets": mask(rng, arguments[1])}
    for b, length in enumerate(call.get("lengths", [])):
        arguments[1][length:, b] = np.nan
    assert_near(by_pyoptk(*arguments, **call), by_twin(*arguments, **call), dtype)
    layer, x, state, *d = arguments
    layer.__dict__["dropout_calls"] = 0
    expected = by_pyoptk(layer, x, each(np.zeros_like, state), *d, **call)
    layer.__dict__["dropout_calls"] = 0
    for name, array in by_pyoptk(layer, x, None, *d, **call).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("row", ["lengths", "minimal"])
def test_their_gradients_equal_central_differences(row, cell, rng):
    shape, options, call = ROWS[row]
    layer, x, state, *d = case(rng, shape, np.dtype(np.float64), cell, **options)
    call = call | {"resets": mask(rng, x)}
    assert_near_differences(layer, x, state, d, call, rng)


@pytest.mark.parametrize("reset_to", ["zeros", "initial"])
def test_the_pieces_between_resets_are_sequences_of_their_own(reset_to, cell, dtype, isa, rng):
    options = {"bidirectional": True, "save": "minimal"}
    layer, x, state, dy, dstate = case(rng, (12, 3, 4, 19, 1), dtype, cell, **options)
    dstate = each(np.zeros_like, dstate)
    start = state if reset_to == "initial" else None
    resets = np.zeros((12, 3), bool)
    resets[[0, 4, 5, 11]] = True
    if reset_to == "zeros":  # the backward direction begins at the end with `state`
        state = each(np.zeros_like, state)
    whole = by_pyoptk(layer, x, state, dy, dstate, resets=resets, reset_to=reset_to)
    layer.flat_grads[:] = 0
    for piece in (slice(0, 4), slice(4, 5), slice(5, 11), slice(11, 12)):
        y, _ = layer.forward(x[piece], start)
        dx, _ = layer.backward(dy[piece], accumulate=True)
        np.testing.assert_array_equal(y, whole["y"][piece])
        np.testing.assert_allclose(dx, whole["dx"][piece], rtol=1e-4, atol=1e-5)
    for name, array in layer.grads.items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("save", ["full", "minimal"])
def test_a_nan_passes_no_reset(save, cell, dtype, isa, threads, rng):
    options = {"bidirectional": True, "save": save}
    layer, x, state, dy, dstate = case(rng, (9, 7, 3, 37, 1), dtype, cell, **options)
    resets = np.zeros((9, 7), bool)
    resets[3] = resets[6] = True
    x[3:6, 2] = 0  # in a piece of its own
    clean = by_pyoptk(layer, x, state, dy, dstate, resets=resets)
    x[4, 2, 1] = dy[5, 2, 0] = np.nan
    dirty = by_pyoptk(layer, x, state, dy, dstate, resets=resets)
    assert np.isnan(dirty["y"][4, 2]).all()
    for name in ("y", "dx"):
        for part in (slice(0, 3), slice(6, 9)):
            np.testing.assert_array_equal(dirty[name][part], clean[name][part], err_msg=name)
    for name in {*PER_ROW} & {*dirty} - {"y", "dx"}:
        np.testing.assert_array_equal(dirty[name], clean[name], err_msg=name)


def test_no_reset_changes_no_bits_and_neither_do_threads(cell, dtype, isa, rng):
    layer, x, state, dy, dstate = case(
        rng, (6, 40, 33, 65, 2), dtype, cell, bidirectional=True, save="minimal"
    )
    plain = by_pyoptk(layer, x, state, dy, dstate)
    none = by_pyoptk(layer, x, state, dy, dstate, resets=np.zeros((6, 40), bool))
    resets, outcomes = mask(rng, x), [(plain, none)]
    for threads in (1, 2, 7):
        pyoptk.set_num_threads(threads)
        got = by_pyoptk(layer, x, state, dy, dstate, resets=resets, reset_to="initial")
        outcomes.append((got, outcomes[1][0] if len(outcomes) > 1 else got))
    pyoptk.set_num_threads()
    for one, other in outcomes:
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_calls_with_and_without_resets_alternate(cell, dtype, rng):
    """A plan that has memory for resets serves calls without them; masks are copied."""
    layer, x, state, dy, dstate = case(rng, (6, 5, 3, 17, 2), dtype, cell)
    plain, resets = by_pyoptk(layer, x, state, dy, dstate), mask(rng, x)
    expected = by_pyoptk(layer, x, state, dy, dstate, resets=resets.tolist())
    for call, results in (({}, plain), ({"resets": resets}, expected)):
        for name, array in by_pyoptk(layer, x, state, dy, dstate, **call).items():
            np.testing.assert_array_equal(array, results[name], err_msg=name)
    y, _ = layer.forward(x, state, resets=resets, train=False)
    np.testing.assert_array_equal(y, layer.forward(x, state, resets=resets)[0])
    resets[:] = True
    np.testing.assert_array_equal(layer.backward(dy, dstate)[0], expected["dx"])


def test_batch_first_masks_are_batch_first(cell, dtype, rng):
    layer, x, state, *_ = case(rng, (6, 5, 3, 17, 2), dtype, cell)
    other = layer_of(cell, 3, 17, 2, batch_first=True, dtype=dtype)
    other.flat_params[:] = layer.flat_params
    resets = mask(rng, x)
    y, _ = other.forward(x.swapaxes(0, 1), state, resets=resets.T)
    np.testing.assert_array_equal(y.swapaxes(0, 1), layer.forward(x, state, resets=resets)[0])
