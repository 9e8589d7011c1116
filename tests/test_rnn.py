"""Forward and backward of each cell against the float64 twin, finite differences and PyTorch."""

import numpy as np
import pytest
from conftest import CELLS, NORMED, everywhere
from rnn_rows import (
    PER_ROW,
    arrays_of,
    assert_near,
    by_pyoptk,
    by_twin,
    case,
    each,
    inputs_of,
    layer_of,
    loss_of,
    torch_layer,
    torch_results,
    width_of,
)

import pyoptk
from pyoptk.rnn.weights import names_of

# T, B, I, H, layers: round shapes and shapes off the grid of vectors and tiles
SHAPES = [
    (1, 1, 1, 1, 1),
    (4, 1, 3, 8, 1),
    (3, 7, 65, 63, 1),
    (9, 33, 3, 37, 2),
    (5, 32, 64, 128, 1),
    (3, 3, 130, 100, 3),
    (50, 13, 12, 24, 1),
    (7, 5, 40, 260, 1),  # weights beyond a megabyte: their products are done for blocks of steps
]


@everywhere
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_equal_the_twin(shape, cell, dtype, isa, threads, rng):
    arguments = case(rng, shape, dtype, cell)
    assert_near(by_pyoptk(*arguments), by_twin(*arguments), dtype)


MIXED = [3, 9, 0, 1, 9, 5, 2]


@everywhere
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("lengths", "hidden"), [(MIXED, 37), ([0] * 7, 37), ([9] * 7, 37), (MIXED, 260)], ids=str
)
def test_behind_its_end_a_sequence_keeps_its_state_and_gives_zeros(
    lengths, hidden, cell, dtype, isa, threads, rng
):
    arguments = case(rng, (9, 7, 3, hidden, 2), dtype, cell)
    for b, length in enumerate(lengths):
        arguments[1][length:, b] = np.nan  # what stands there does not matter
    ours = by_pyoptk(*arguments, lengths=lengths)
    assert_near(ours, by_twin(*arguments, lengths=np.array(lengths)), dtype)
    for b, length in enumerate(lengths):
        assert (ours["y"][length:, b] == 0).all()
        assert (ours["dx"][length:, b] == 0).all()


def test_gradients_equal_central_differences(cell, rng):
    layer, x, state, *d = case(rng, (4, 3, 5, 6, 2), np.dtype(np.float64), cell)
    ours = by_pyoptk(layer, x, state, *d)
    for name, array in inputs_of(layer, x, state).items():
        numeric = np.empty_like(array)
        for index in np.ndindex(array.shape):
            at, step = array[index], 1e-6 if layer.layer_norm else 1e-5  # which is more curved
            array[index] = at + step
            up = loss_of(layer, x, state, *d)
            array[index] = at - step
            numeric[index] = (up - loss_of(layer, x, state, *d)) / (2 * step)
            array[index] = at
        assert np.abs(ours[name] - numeric).max() <= 1e-7 * np.abs(numeric).max(), name


# For the second, backward packs weights if all rows are given and reads them in place for few.
@pytest.mark.parametrize("shape", [(20, 40, 33, 65, 2), (6, 40, 32, 48, 2)], ids=str)
def test_the_same_bits_for_any_number_of_threads_and_any_neighbours(shape, cell, dtype, isa, rng):
    layer, x, state, dy, dstate = case(rng, shape, dtype, cell)
    outcomes = []
    for threads in (1, 2, 3, 7):
        pyoptk.set_num_threads(threads)
        outcomes.append(by_pyoptk(layer, x, state, dy, dstate))
    pyoptk.set_num_threads()
    for other in outcomes[1:]:
        for name, array in outcomes[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)
    for rows in (slice(0, 1), slice(3, 8), slice(17, 40)):
        alone = by_pyoptk(
            layer, x[:, rows], each(lambda s, rows=rows: s[:, rows].copy(), state), dy[:, rows],
            each(lambda s, rows=rows: s[:, rows].copy(), dstate),
        )  # fmt: skip
        for name in {*PER_ROW} & {*alone}:
            np.testing.assert_array_equal(alone[name], outcomes[0][name][:, rows], err_msg=name)


def test_a_nan_or_infinity_stays_in_its_own_row(cell, dtype, isa, rng):
    layer, x, state, dy, dstate = case(rng, (5, 14, 3, 37, 1), dtype, cell)
    clean = by_pyoptk(layer, x, state, dy, dstate)
    x[2, 4, 1], x[1, 9, 0] = np.nan, np.inf
    dirty = by_pyoptk(layer, x, state, dy, dstate)
    others = np.delete(np.arange(14), [4, 9])
    for name in {*PER_ROW} & {*dirty}:
        np.testing.assert_array_equal(dirty[name][:, others], clean[name][:, others], err_msg=name)
    assert np.isnan(dirty["y"][2:, 4]).all()
    assert np.isfinite(dirty["y"][:2, 4]).all()
    if cell not in ("RNN relu", *NORMED):  # the others saturate
        assert np.isfinite(dirty["y"][:, 9]).all()
    x[2, 4, 1] = 0
    with np.errstate(invalid="ignore"):
        exact = by_twin(layer, x, state, dy, dstate)
    for name, array in by_pyoptk(layer, x, state, dy, dstate).items():
        np.testing.assert_array_equal(np.isnan(array), np.isnan(exact[name]), err_msg=name)


def test_batch_first_is_the_same_with_two_axes_swapped(cell, dtype, rng):
    shape = (6, 5, 3, 9, 2)
    time_major, x, state, dy, dstate = case(rng, shape, dtype, cell)
    batch_first = layer_of(cell, 3, 9, 2, batch_first=True, dtype=dtype)
    batch_first.flat_params[:] = time_major.flat_params
    assert batch_first._shapes() == time_major._shapes()
    expected = by_pyoptk(time_major, x, state, dy, dstate)
    ours = by_pyoptk(batch_first, x.swapaxes(0, 1).copy(), state, dy.swapaxes(0, 1).copy(), dstate)
    for name, array in ours.items():
        sequence = array.swapaxes(0, 1) if name in ("y", "dx") else array
        np.testing.assert_array_equal(sequence, expected[name], err_msg=name)
    assert ours["y"].flags.c_contiguous
    assert ours["y"].shape == (5, 6, width_of(batch_first))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
        lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
        lambda x: np.asfortranarray(x),
    ],
    ids=["every second row", "reversed", "every second feature", "Fortran order"],
)
def test_sequences_may_have_any_strides(view, cell, dtype, rng):
    layer, x, state, dy, dstate = case(rng, (6, 5, 3, 9, 1), dtype, cell)
    expected = by_pyoptk(layer, x, state, dy, dstate)
    ours = by_pyoptk(layer, view(x), state, view(dy), dstate)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_without_bias_there_is_none(cell, dtype, rng):
    arguments = case(rng, (4, 3, 5, 6, 2), dtype, cell, bias=False)
    names = [n for n in arguments[0].params if not n.startswith(("gain", "weight_ch", "weight_hr"))]
    assert {*names} == {f"weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in range(2)}
    ours, exact = by_pyoptk(*arguments), by_twin(*arguments)
    assert_near(ours, exact, dtype)


def test_gradients_are_overwritten_or_added_to(cell, dtype, rng):
    layer, *arguments = case(rng, (4, 3, 5, 6, 2), dtype, cell)
    once = by_pyoptk(layer, *arguments)
    again = by_pyoptk(layer, *arguments)
    twice = by_pyoptk(layer, *arguments, accumulate=True)
    for name in layer.grads:
        np.testing.assert_array_equal(again[name], once[name])
        np.testing.assert_allclose(twice[name], 2 * once[name], rtol=1e-4, atol=1e-5)


def test_absent_gradients_and_states_are_zeros(cell, dtype, rng):
    layer, x, state, dy, dstate = case(rng, (4, 3, 5, 6, 2), dtype, cell)
    zeros = each(np.zeros_like, state)
    expected = by_pyoptk(layer, x, zeros, np.zeros_like(dy), dstate)
    stateless = by_pyoptk(layer, x, None, None, dstate)
    assert {*expected} - {*stateless} == {"dh0", "dc0"} & {*expected}
    for name, array in stateless.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    expected = by_pyoptk(layer, x, state, dy, zeros)
    for name, array in by_pyoptk(layer, x, state, dy, None).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("absent", [0, 1])
def test_one_gradient_of_a_pair_may_be_absent(absent, dtype, rng):
    lstm, x, state, dy, dstate = case(rng, (4, 3, 5, 6, 2), dtype)
    some = [None if k == absent else dstate[k] for k in range(2)]
    zeros = tuple(np.zeros_like(dstate[k]) if s is None else s for k, s in enumerate(some))
    expected = by_pyoptk(lstm, x, state, dy, zeros)
    for name, array in by_pyoptk(lstm, x, state, dy, tuple(some)).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4)], ids=["no steps", "no rows"])
def test_empty_sequences_give_empty_outputs_and_zero_gradients(shape, cell, dtype):
    layer = layer_of(cell, 4, 6, 2, dtype=dtype)
    layer.flat_grads[:] = 5
    R = width_of(layer)
    state = (np.full((2, shape[1], R), 2, dtype), np.full((2, shape[1], 6), 3, dtype))
    if not cell.startswith("LSTM"):
        state = state[0]
    y, last = layer.forward(np.zeros(shape, dtype), state)
    assert y.shape == (*shape[:2], R)
    dx, first = layer.backward(np.zeros_like(y), state)
    assert dx.shape == shape
    for given, *others in zip(arrays_of(state), arrays_of(last), arrays_of(first), strict=True):
        for other in others:
            np.testing.assert_array_equal(other, given)
    assert (layer.flat_grads == 0).all()


def test_weights_may_be_changed_in_place_at_any_time(cell, dtype, rng):
    layer, x, state, dy, dstate = case(rng, (4, 3, 5, 6, 1), dtype, cell)
    layer.forward(x, state)
    for change in (layer.params["weight_hh_l0"], layer.params["weight_ih_l0"], layer.flat_params):
        change *= dtype.type(0.5)
        ours = by_pyoptk(layer, x, state, dy, dstate)
        assert_near(ours, by_twin(layer, x, state, dy, dstate), dtype)


def test_all_parameters_are_views_of_one_buffer_and_all_gradients_of_another():
    lstm = pyoptk.LSTM(3, 8, 2)
    for flat, views in ((lstm.flat_params, lstm.params), (lstm.flat_grads, lstm.grads)):
        assert sum(view.size for view in views.values()) == flat.size
        assert all(np.shares_memory(view, flat) for view in views.values())
        flat[:] = np.arange(flat.size)
        np.testing.assert_array_equal(np.concatenate([v.ravel() for v in views.values()]), flat)
    assert list(lstm.params)[:4] == list(names_of(0)[:4])
    assert lstm.params["weight_ih_l0"].shape == (32, 3)
    assert lstm.params["weight_ih_l1"].shape == (32, 8)


def test_outputs_are_new_arrays(rng):
    lstm, x, *_ = case(rng, (4, 3, 5, 6, 1), np.dtype(np.float32))
    y, (h, _) = lstm.forward(x)
    kept = y.copy(), h.copy()
    lstm.forward(-x)
    np.testing.assert_array_equal(y, kept[0])
    np.testing.assert_array_equal(h, kept[1])
    lstm.forward(x)[0][:] = 7  # the caller's to change
    dx, _ = lstm.backward(np.ones_like(y))
    lstm.forward(x)
    np.testing.assert_array_equal(lstm.backward(np.ones_like(y))[0], dx)


@pytest.mark.parametrize("cell", [*CELLS, "LSTM projected"])
@pytest.mark.parametrize("layers", [1, 2])
def test_output_and_gradients_equal_pytorch(layers, cell, dtype, rng):
    torch = pytest.importorskip("torch")
    layer, x, state, dy, dstate = case(rng, (7, 5, 3, 20, layers), dtype, cell)
    theirs = torch_layer(torch, layer)
    inputs = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, *arrays_of(state))]
    y, last = theirs(inputs[0], tuple(inputs[1:]) if "LSTM" in cell else inputs[1])
    d = [torch.from_numpy(a) for a in (dy, *arrays_of(dstate))]
    torch.autograd.backward([y, *arrays_of(last)], d)
    exact = torch_results(theirs, y, last, inputs)
    assert_near(by_pyoptk(layer, x, state, dy, dstate), exact, dtype)
