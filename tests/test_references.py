"""A call, however often repeated, leaves no references to the arrays that it was given."""

import sys

import numpy as np
import pytest

import pyoptk
from pyoptk import kernels

W, G, M, V = (np.ones((2, 3), np.float32) for _ in range(4))
WIDE, NARROW = np.ones((2, 3)), np.ones((2, 3), np.float16)
X, STEPS, H = np.ones((4, 2, 3), np.float32), np.ones((2, 6), np.float32)[:, ::2], np.ones(5)
Y, STATE = np.empty((4, 2, 5), np.float32), np.zeros((1, 2, 5), np.float32)
SQUARE, LABELS = np.ones((2, 2), np.float32), np.zeros(2, np.int64)
H0, RESETS, ENDS = np.ones((2, 3), np.float32), np.ones((4, 2), bool), np.ones(3, bool)
ROWS = pyoptk.SparseRows([0], G[:1], (2, 3))
ARRAYS = (W, G, M, V, WIDE, NARROW, X, STEPS, H, Y, STATE, H0, RESETS, ENDS, ROWS.values)
ARRAYS += SQUARE, LABELS

MINIMAL = pyoptk.minLSTM(3, 5, rng=np.random.default_rng(0))
GRU, LSTM = (cls(3, 5, rng=np.random.default_rng(0)) for cls in (pyoptk.GRU, pyoptk.LSTM))
OPT, ZEROING = pyoptk.Adam(W), pyoptk.Adam(M.copy(), zero_grad=True)
LOOKAHEAD = pyoptk.Lookahead(pyoptk.SGD(V, lr=0.1))
SPARSE = pyoptk.SGD(np.ones((2, 3), np.float32), lr=0.1)


def both_ways():
    LSTM.forward(X, (STATE, STATE), out=Y)
    LSTM.backward(Y, (STATE, None), out=np.empty_like(X))


# What is called, and the error that it raises.
CALLS = {
    "step": (lambda: OPT.step(G), None),
    "step of another shape": (lambda: OPT.step(X), ValueError),
    "step of another dtype": (lambda: OPT.step(WIDE), TypeError),
    "step of 16 bits": (lambda: OPT.step(NARROW), None),
    "step with its own parameter": (lambda: OPT.step(W), ValueError),
    "step that zeroes": (lambda: ZEROING.step(G), None),
    "step of rows": (lambda: SPARSE.step(ROWS), None),
    "step of rows that does not fit": (lambda: OPT.step([ROWS]), TypeError),
    "Lookahead.step": (lambda: LOOKAHEAD.step(G), None),
    "bare kernel": (lambda: kernels.adam(W, G, M, V), None),
    "bare kernel, overlapping": (lambda: kernels.adam(W, W, M, V), ValueError),
    "bare kernel without a state": (lambda: kernels.adam(W, G, M, name=1), TypeError),
    "norm": (lambda: pyoptk.global_norm([G, M]), None),
    "norm of two dtypes": (lambda: pyoptk.global_norm([G, WIDE]), TypeError),
    "clip": (lambda: pyoptk.clip_by_global_norm([G, M], 1e9), None),
    "clip, overlapping": (lambda: pyoptk.clip_by_global_norm([G, G], 1.0), ValueError),
    "matmul": (lambda: kernels.matmul(W, np.ones((3, 3), np.float32), G), None),
    "linear": (lambda: kernels.linear_forward(W, M, None, SQUARE), None),
    "linear, overlapping": (lambda: kernels.linear_forward(W, SQUARE, None, W), ValueError),
    "linear of another dtype": (lambda: kernels.linear_forward(W, WIDE, None, SQUARE), TypeError),
    "loss": (lambda: kernels.softmax_cross_entropy(W, LABELS, V), None),
    "loss of wrong labels": (lambda: kernels.softmax_cross_entropy(W, LABELS + 3, V), ValueError),
    "loss in losses": (lambda: pyoptk.losses.mse(W, G, weights=W[:, 0].copy()), None),
    "dropout": (lambda: kernels.dropout(X, Y, 0.5, seed=1), ValueError),
    "scan": (lambda: kernels.linear_scan_forward(X, X, X, H0, resets=RESETS), None),
    "scan that does not fit": (lambda: pyoptk.linear_scan(X, X, H0, resets=ENDS), ValueError),
    "scan, both ways": (lambda: pyoptk.linear_scan_backward(X, X, X, H0, resets=RESETS), None),
    "scan, overlapping": (lambda: pyoptk.linear_scan_backward(X, X, X, out=(X, X)), ValueError),
    "advantages": (lambda: pyoptk.gae(X[0, 0], G[:, 0], ENDS, 1, 1), ValueError),
    "both ways": (both_ways, None),
    "forward of another dtype": (lambda: LSTM.forward(X.astype(float)), TypeError),
    "forward of another shape": (lambda: LSTM.forward(Y), ValueError),
    "forward into x": (lambda: LSTM.forward(X, out=X), ValueError),
    "minLSTM, both ways": (lambda: (MINIMAL.forward(X, STATE), MINIMAL.backward(Y)), None),
    "minLSTM of another shape": (lambda: MINIMAL.forward(Y, STATE), ValueError),
    "inference": (lambda: GRU.forward(X, STATE, train=False), None),
    "single step": (lambda: LSTM.step(G, (STATE, STATE)), None),
    "single step, strided": (lambda: GRU.step(STEPS), None),
    "single step of another dtype": (lambda: GRU.step(WIDE), TypeError),
    "single step of another width": (lambda: GRU.step(Y[0]), ValueError),
    "single step, half a state": (lambda: LSTM.step(G, (STATE, H)), TypeError),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_lets_go_of_its_arrays(name):
    call, error = CALLS[name]

    def run():
        if error is None:
            call()
            return
        with pytest.raises(error):
            call()

    run()  # what the last call keeps, it keeps once
    before = [sys.getrefcount(array) for array in ARRAYS]
    for _ in range(5):
        run()
    assert [sys.getrefcount(array) for array in ARRAYS] == before
