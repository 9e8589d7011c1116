"""Options of each cell against the float64 twin, finite differences and PyTorch.

Directions, dropout, lengths, save, out."""

import copy

import numpy as np
import pytest
from conftest import CELLS, everywhere
from rnn_rows import (
    PER_ROW,
    ROWS,
    arrays_of,
    assert_near,
    assert_near_differences,
    by_pyoptk,
    by_twin,
    case,
    each,
    torch_layer,
    torch_results,
    width_of,
)

import pyoptk
from pyoptk.rnn.layer import OWN_ARGUMENTS


def like(layer, **options):
    """A layer with the same weights, and with other options."""
    names = ["num_layers", "bias", "bidirectional", "dtype", *OWN_ARGUMENTS]
    options |= {name: getattr(layer, name) for name in names if name in layer._arguments}
    other = type(layer)(layer.input_size, layer.hidden_size, **options)
    other.flat_params[:] = layer.flat_params
    return other


@everywhere
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("row", ROWS)
def test_every_option_equals_the_twin(row, cell, dtype, isa, threads, rng):
    shape, options, call = ROWS[row]
    arguments = case(rng, shape, dtype, cell, **options)
    for b, length in enumerate(call.get("lengths", [])):
        arguments[1][length:, b] = np.nan  # what stands there does not matter
    assert_near(by_pyoptk(*arguments, **call), by_twin(*arguments, **call), dtype)


@pytest.mark.parametrize("row", ROWS)
def test_without_a_state_every_option_begins_with_zeros(row, cell, dtype, threads, rng):
    shape, options, call = ROWS[row]
    layer, x, state, *d = case(rng, shape, dtype, cell, **options)
    expected = by_pyoptk(layer, x, each(np.zeros_like, state), *d, **call)
    layer.__dict__["dropout_calls"] = 0
    ours = by_pyoptk(layer, x, None, *d, **call)
    assert {*expected} - {*ours} == {"dh0", "dc0"} & {*expected}
    for name, array in ours.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("row", [row for row in ROWS if np.prod(ROWS[row][0]) < 1300])
def test_their_gradients_equal_central_differences(row, cell, rng):
    shape, options, call = ROWS[row]
    layer, x, state, *d = case(rng, shape, np.dtype(np.float64), cell, **options)
    assert_near_differences(layer, x, state, d, call, rng)


@pytest.mark.parametrize("cell", [*CELLS, "LSTM projected"])
@pytest.mark.parametrize(
    "row",
    ["bidirectional", "three bidirectional", "no bias", "lengths", "minimal", "minimal, long"],
)
def test_they_equal_pytorch(row, cell, dtype, rng):
    torch = pytest.importorskip("torch")
    shape, options, call = ROWS[row]
    layer, x, state, dy, dstate = case(rng, shape, dtype, cell, **options)
    theirs = torch_layer(torch, layer)
    lengths = np.array(call.get("lengths", [len(x)] * shape[1]))
    lengths[lengths == 0] = 1  # which PyTorch refuses
    inputs = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, *arrays_of(state))]
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs[0], lengths, enforce_sorted=False)
    packed, last = theirs(packed, tuple(inputs[1:]) if "LSTM" in cell else inputs[1])
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, total_length=len(x))
    d = [torch.from_numpy(a) for a in (dy, *arrays_of(dstate))]
    torch.autograd.backward([y, *arrays_of(last)], d)
    exact = torch_results(theirs, y, last, inputs)
    assert_near(by_pyoptk(layer, x, state, dy, dstate, lengths), exact, dtype)


def test_threads_and_neighbours_change_no_bits(cell, dtype, isa, rng):
    options = {"bidirectional": True, "save": "minimal"}
    layer, x, state, dy, dstate = case(rng, (12, 40, 33, 65, 2), dtype, cell, **options)
    lengths = rng.integers(0, 13, 40)
    outcomes = []
    for threads in (1, 2, 3, 7):
        pyoptk.set_num_threads(threads)
        outcomes.append(by_pyoptk(layer, x, state, dy, dstate, lengths))
    pyoptk.set_num_threads()
    for other in outcomes[1:]:
        for name, array in outcomes[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)
    some = slice(3, 8)
    alone = by_pyoptk(
        layer, x[:, some], each(lambda s: s[:, some], state), dy[:, some],
        each(lambda s: s[:, some], dstate), lengths[some],
    )  # fmt: skip
    for name in {*PER_ROW} & {*alone}:
        np.testing.assert_array_equal(alone[name], outcomes[0][name][:, some], err_msg=name)


@pytest.mark.parametrize("row", ["three bidirectional", "lengths", "both repeat", "dropout", "all"])
def test_a_nan_stays_in_its_own_row_and_goes_where_the_twins_does(row, cell, dtype, rng):
    shape, options, call = ROWS[row]
    layer, x, state, dy, dstate = case(rng, shape, dtype, cell, **options)
    clean = by_pyoptk(layer, x, state, dy, dstate, **call)
    for array in (x, *arrays_of(state), dy, *arrays_of(dstate)):
        for b in (0, 2):  # which of LENGTHS has no steps
            before, array[0, b, 0] = array[0, b, 0], np.nan
            layer.__dict__["dropout_calls"] = 0
            dirty = by_pyoptk(layer, x, state, dy, dstate, **call)
            exact = by_twin(layer, x, state, dy, dstate, **call)
            array[0, b, 0] = before
            for name, got in dirty.items():
                np.testing.assert_array_equal(np.isnan(got), np.isnan(exact[name]), err_msg=name)
            for name in {*PER_ROW} & {*dirty}:
                of_others = (np.delete(a[name], b, axis=1) for a in (dirty, clean))
                np.testing.assert_array_equal(*of_others, err_msg=name)


@everywhere
@pytest.mark.parametrize("row", ["three bidirectional", "lengths", "both repeat", "dropout, three"])
def test_what_is_kept_changes_no_bits_but_of_sums_over_rows(row, cell, dtype, isa, threads, rng):
    shape, options, call = ROWS[row]
    full, *arguments = case(rng, shape, dtype, cell, **options)
    minimal = like(full, save="minimal", dropout=full.dropout, seed=full.seed)
    expected = by_pyoptk(full, *arguments, **call)
    ours = by_pyoptk(minimal, *arguments, **call)
    for name in {*PER_ROW} & {*ours}:
        np.testing.assert_array_equal(ours[name], expected[name], err_msg=name)


@everywhere
@pytest.mark.parametrize("row", ["three bidirectional", "both repeat", "minimal", "dropout, three"])
def test_inference_keeps_nothing_drops_nothing_and_disturbs_nothing(
    row, cell, dtype, isa, threads, rng
):
    shape, options, call = ROWS[row]
    layer, x, state, dy, _ = case(rng, shape, dtype, cell, **options)
    y, last = like(layer).forward(x, state, **call)
    layer.forward(x, state, **call)
    calls = layer.dropout_calls
    got, got_last = layer.forward(x, state, train=False, **call)
    for ours, expected in zip((got, *arrays_of(got_last)), (y, *arrays_of(last)), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert layer.dropout_calls == calls
    layer.forward(-x[:2], train=False)
    dx, _ = layer.backward(dy)  # of the forward that trained
    again = copy.copy(layer)
    again.__dict__["dropout_calls"] = 0
    again.forward(x, state, **call)
    np.testing.assert_array_equal(again.backward(dy)[0], dx)


def test_without_dx_the_other_gradients_are_the_same(cell, dtype, threads, rng):
    layer, x, state, dy, dstate = case(rng, (6, 5, 3, 17, 2), dtype, cell, bidirectional=True)
    expected = by_pyoptk(layer, x, state, dy, dstate)
    layer.flat_grads[:] = 0
    layer.forward(x, state)
    dx, first = layer.backward(dy, dstate, need_dx=False)
    assert dx is None
    initial = dict(zip(("dh0", "dc0"), arrays_of(first), strict=False))
    for name, array in {**initial, **layer.grads}.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("batch_first", [False, True])
def test_outputs_may_be_the_callers_arrays(batch_first, cell, dtype, rng):
    layer, x, state, dy, dstate = case(rng, (6, 5, 3, 9, 2), dtype, cell, batch_first=batch_first)
    if batch_first:
        x, dy = x.swapaxes(0, 1).copy(), dy.swapaxes(0, 1).copy()
    expected = by_pyoptk(layer, x, state, dy, dstate)
    room = np.full((12, 10, 20), 7, dtype)  # of which every second row and some features
    T, B, _ = x.shape
    y = room[: 2 * T : 2, :B, 4 : 4 + width_of(layer)]
    dx = room[1 : 2 * T : 2, :B, 1:4]
    assert layer.forward(x, state, out=y)[0] is y
    assert layer.backward(dy, dstate, out=dx)[0] is dx
    np.testing.assert_array_equal(y, expected["y"])
    np.testing.assert_array_equal(dx, expected["dx"])
    y[...] = dx[...] = 7
    assert (room == 7).all()  # nothing else was written


def test_a_sequence_in_pieces_is_the_whole_one(cell, dtype, rng):
    """Truncated backpropagation: the state passes to the next call, its gradient does not."""
    layer, x, state, _, _ = case(rng, (12, 5, 3, 17, 2), dtype, cell)
    whole, last = layer.forward(x, state)
    pieces, carried = [], state
    for piece in np.split(x, 4):
        y, carried = layer.forward(piece, carried)
        layer.backward(y, accumulate=True)
        pieces.append(y)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    for ours, expected in zip(arrays_of(carried), arrays_of(last), strict=True):
        np.testing.assert_array_equal(ours, expected)


# ---- dropout ------------------------------------------------------------------------------------


def run(lstm, x, times):
    """Outputs and gradients of several calls in a row."""
    out = []
    for _ in range(times):
        y, _ = lstm.forward(x)
        dx, _ = lstm.backward(y)
        out += [y, dx, lstm.flat_grads.copy()]
    return out


def test_each_call_has_its_mask_and_the_same_seed_the_same_masks(isa, rng):
    x = rng.standard_normal((6, 40, 3), dtype=np.float32)
    layers = [
        pyoptk.LSTM(3, 40, 3, dropout=0.4, seed=5, rng=np.random.default_rng(0)) for _ in range(2)
    ]
    pyoptk.set_num_threads(1)
    one = run(layers[0], x, 3)
    pyoptk.set_num_threads(3)
    two = run(layers[1], x, 3)
    pyoptk.set_num_threads()
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (one[0] != one[3]).any()
    other = pyoptk.LSTM(3, 40, 3, dropout=0.4, seed=6, rng=np.random.default_rng(0))
    assert (run(other, x, 1)[0] != one[0]).any()
    assert layers[0].dropout_calls == 3


def test_a_resumed_training_goes_on_with_the_same_masks(tmp_path, rng):
    x = rng.standard_normal((6, 4, 3), dtype=np.float32)
    lstm = pyoptk.LSTM(3, 20, 2, dropout=0.4, rng=rng)
    run(lstm, x, 2)
    pyoptk.save(tmp_path / "half.npz", model=lstm)
    copies = [copy.deepcopy(lstm), pyoptk.LSTM(3, 20, 2, dropout=0.4)]
    pyoptk.load(tmp_path / "half.npz", model=copies[1])
    expected = run(lstm, x, 2)
    for other in copies:
        for ours, theirs in zip(run(other, x, 2), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_seed_comes_from_the_generator_and_weights_do_not_depend_on_it():
    plain, *dropping = (
        pyoptk.LSTM(3, 8, 2, dropout=p, rng=np.random.default_rng(1)) for p in (0.0, 0.1, 0.1)
    )
    assert dropping[0].seed == dropping[1].seed > 0
    np.testing.assert_array_equal(plain.flat_params, dropping[0].flat_params)
    assert set(dropping[0].state_dict()) - set(plain.state_dict()) == {"seed", "dropout_calls"}


def test_a_counter_near_its_end_goes_on_from_the_beginning(rng):
    lstm = pyoptk.LSTM(3, 8, 3, dropout=0.5, seed=1, rng=rng)
    x = rng.standard_normal((2, 3, 3), dtype=np.float32)
    lstm.load_state_dict(lstm.state_dict() | {"dropout_calls": (2**64 + 2) // 3})
    y, _ = lstm.forward(x)  # streams of 2**64 + 2 and more
    first = lstm.dropout_calls
    lstm.load_state_dict(lstm.state_dict() | {"dropout_calls": 0})
    assert (lstm.forward(x)[0] != y).any()
    assert first == (2**64 + 2) // 3 + 1


def test_a_wrong_counter_is_refused_and_nothing_loaded():
    lstm = pyoptk.LSTM(3, 8, 2, dropout=0.1)
    state = {name: np.zeros_like(a) for name, a in lstm.params.items()} | {"seed": 3}
    for wrong in (-1, 0.5, 2**64):
        with pytest.raises(
            (TypeError, ValueError), match=r"^state\['dropout_calls'\]: expected an"
        ):
            lstm.load_state_dict(state | {"dropout_calls": wrong})
    assert lstm.flat_params.any()
    assert lstm.dropout_calls == 0


# Of 1,024 rows of 64 units backward takes a part of the steps at a time.
RUNS = {
    "plain": ({}, {}),
    "both ways": ({"bidirectional": True}, {"lengths": [36, 0, 9, *[30] * 26]}),
    "dropout": ({"recurrent_dropout": 0.3, "seed": 1}, {}),
}


@pytest.mark.parametrize("cell", ["LSTM", "LSTM all", "GRU before"])
@pytest.mark.parametrize("row", RUNS)
def test_many_rows_equal_the_twin(row, cell, dtype, threads, rng):
    options, call = RUNS[row]
    arguments = case(rng, (36, 29, 16, 64, 1), dtype, cell, **options)
    assert_near(by_pyoptk(*arguments, **call), by_twin(*arguments, **call), dtype)


@pytest.mark.parametrize("fall", [1, 5, 60])
def test_parameters_that_change_before_backward_blow_up_no_gradient(fall, isa):
    layer = pyoptk.LSTM(8, 16, save="minimal", rng=np.random.default_rng(0))
    y, _ = layer.forward(np.random.default_rng(1).normal(size=(6, 5, 8)).astype(np.float32))
    layer.params["bias_ih_l0"][48:] -= fall  # o is computed again, and h / o is no tanh
    layer.backward(np.ones_like(y))
    assert np.abs(layer.flat_grads).max() < 15
