"""Arrays that are written share no element: within themselves, or with one another."""

import numpy as np
import pytest

import pyoptk

ROW, TABLE = np.arange(12.0), np.ones((4, 6))
OVERLAPPING = {
    "the same": [ROW, ROW],
    "part": [ROW, ROW[3:5]],
    "reversed": [ROW, ROW[::-1]],
    "interleaved": [ROW[::2], ROW[::3]],
    "row and column": [TABLE[1], TABLE[:, 2]],
    "transposed": [TABLE[:, :4], TABLE[:, :4].T],
    "zero stride": [np.broadcast_to(ROW[:1], (5,))],
    "windows": [np.lib.stride_tricks.as_strided(ROW, (5, 3), (16, 8))],
    "negative windows": [np.lib.stride_tricks.as_strided(ROW[8:], (5, 2), (-8, 8))],
}
APART = {
    "halves": [ROW[:6], ROW[6:]],
    "even and odd": [ROW[::2], ROW[1::2]],
    "columns": [TABLE[:, :2], TABLE[:, 2:5], TABLE[:, 5]],
    "transposed parts": [TABLE[:, :2].T, TABLE[::-1, 2:]],
    "empty": [ROW[:0], ROW],
}


def writable(arrays):
    for array in arrays:
        if not array.flags.writeable:
            array.flags.writeable = True
    return arrays


@pytest.mark.filterwarnings("ignore:Numpy has detected:DeprecationWarning")
@pytest.mark.parametrize("case", [*OVERLAPPING, *APART])
@pytest.mark.parametrize("clip", [pyoptk.clip_by_global_norm, pyoptk.clip_by_value])
def test_gradients_that_are_clipped_share_no_element(clip, case):
    arrays = writable(OVERLAPPING.get(case) or APART[case])
    before = [ROW.copy(), TABLE.copy()]
    if case in APART:
        clip(arrays, 1e9)
    else:
        with pytest.raises(ValueError, match=r"^grads\[\d\]: expected memory of its own"):
            clip(arrays, 1e-3)
    np.testing.assert_array_equal(ROW, before[0])
    np.testing.assert_array_equal(TABLE, before[1])


@pytest.mark.parametrize("wrap", [lambda opt: opt, lambda opt: pyoptk.Accumulation(opt, 2)])
def test_gradients_that_are_zeroed_share_no_element(wrap):
    params, memory = [np.ones(3), np.ones(3)], np.ones(5)
    top = wrap(pyoptk.SGD(params, zero_grad=True))
    with pytest.raises(ValueError, match=r"^grads\[1\]: .* zero_grad writes it, .* grads\[0\]$"):
        top.step([memory[:3], memory[2:]])
    assert (memory == 1).all()
    top.step([memory[:3], memory[2:].copy()])


@pytest.mark.filterwarnings("ignore:Numpy has detected:DeprecationWarning")
@pytest.mark.parametrize("bad", ["zero stride", "windows"])
def test_outputs_that_overlap_themselves_are_refused(bad):
    def out(*shape):
        memory = np.zeros(100, np.float32)
        strides = (0, 4 * shape[-1], 4) if bad == "zero stride" else (8, 8 * shape[-1], 4)
        return np.lib.stride_tricks.as_strided(memory, shape, strides)

    lstm, x = pyoptk.LSTM(3, 4), np.ones((5, 2, 3), np.float32)
    for call in (
        lambda: lstm.forward(x, out=out(5, 2, 4)),
        lambda: pyoptk.kernels.dropout(x, out(5, 2, 3), 0.5, seed=1),
    ):
        with pytest.raises(ValueError, match=r"^\w+: .*overlaps itself, \(5, 2, \d\) with strides"):
            call()
    lstm.forward(x)
    with pytest.raises(ValueError, match=r"^out: .* overlaps itself"):
        lstm.backward(np.ones((5, 2, 4), np.float32), out=out(5, 2, 3))
