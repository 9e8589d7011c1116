"""Input that layers refuse, by name; copies, interrupts and shared layers."""

import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from rnn_rows import layer_of

import pyoptk

F32, F64 = np.float32, np.float64


def ones(*shape, dtype=F32):
    return np.ones(shape, dtype)


X, STATE = ones(4, 3, 5), (ones(1, 3, 6), ones(1, 3, 6))
BAD_LSTM = {
    "x of another size": (lambda m: m.forward(ones(4, 3, 6)), ValueError, r"^x: expected shape \(any, any, 5\), got \(4, 3, 6\)$"),
    "x without batch": (lambda m: m.forward(ones(4, 5)), ValueError, r"^x: expected shape \(any, any, 5\), got \(4, 5\)$"),
    "x of float64": (lambda m: m.forward(ones(4, 3, 5, dtype=F64)), TypeError, r"^x: .*float32 like the weights, got float64; x\.astype\(numpy\.float32\) has"),
    "x of ints": (lambda m: m.forward(np.ones((4, 3, 5), int)), TypeError, r"^x: expected float32 or float64"),
    "x no array": (lambda m: m.forward([[[1.0]]]), TypeError, r"^x: expected a float32 or float64 array, got list$"),
    "state no pair": (lambda m: m.forward(X, STATE[0]), TypeError, r"^state: expected a pair of arrays of shape \(1, 3, 6\)"),
    "state of another size": (lambda m: m.forward(X, (STATE[0], ones(1, 2, 6))), ValueError, r"^state\[1\]: expected shape \(1, 3, 6\), got \(1, 2, 6\)$"),
    "state of float64": (lambda m: m.forward(X, (ones(1, 3, 6, dtype=F64), STATE[1])), TypeError, r"^state\[0\]: expected float32"),
    "lengths too many": (lambda m: m.forward(X, lengths=[1, 2, 3, 4]), ValueError, r"^lengths: expected 3 integers"),
    "lengths too long": (lambda m: m.forward(X, lengths=[1, 2, 5]), ValueError, r"^lengths: expected numbers in 0..4, got 1..5$"),
    "lengths negative": (lambda m: m.forward(X, lengths=[1, -2, 3]), ValueError, r"^lengths: expected numbers in 0..4, got -2..3$"),
    "lengths no integers": (lambda m: m.forward(X, lengths=[1.0, 2.0, 3.0]), TypeError, r"^lengths: expected 3 integers, got float64 \(3,\)$"),
    "lengths as a mask": (lambda m: m.forward(X, lengths=[True, False, True]), TypeError, r"^lengths: expected 3 integers, got bool \(3,\)$"),
    "lengths masked": (lambda m: m.forward(X, lengths=np.ma.masked_array([1, 2, 3], [0, 1, 0])), TypeError, r"^lengths: expected 3 integers, got a masked array"),
    "lengths beyond int64": (lambda m: m.forward(X, lengths=np.array([2**63, 1, 1], np.uint64)), ValueError, r"^lengths: expected numbers in 0..4, got 1..9223372036854775808$"),
    "lengths of two axes": (lambda m: m.forward(X, lengths=[[1, 2, 3]]), ValueError, r"^lengths: expected 3 integers, got int64 \(1, 3\)$"),
    "a field of records": (lambda m: m.forward(np.zeros((4, 3), [("x", F32, 5), ("flag", "u1")])["x"]), TypeError, r"^x: expected float32 or float64 in native byte order, aligned"),
    "backward first": (lambda m: m.backward(ones(4, 3, 6)), RuntimeError, r"^backward: expected a forward with train=True before it"),
    "dy of another size": (lambda m: (m.forward(X), m.backward(ones(4, 3, 5))), ValueError, r"^dy: expected shape \(4, 3, 6\), got \(4, 3, 5\)$"),
    "dstate of another size": (lambda m: (m.forward(X), m.backward(None, (STATE[0], ones(2, 3, 6)))), ValueError, r"^dstate\[1\]: expected shape"),
    "rng no generator": (lambda m: pyoptk.LSTM(2, 3, rng=5), TypeError, r"^rng: expected a numpy.random.Generator or None, got int$"),
    "bias no switch": (lambda m: pyoptk.LSTM(2, 3, bias="no"), TypeError, r"^bias: expected True or False, got 'no'$"),
    "accumulate no switch": (lambda m: (m.forward(X), m.backward(None, accumulate=1)), TypeError, r"^accumulate: expected True or False"),
    "train no switch": (lambda m: m.forward(X, train=1), TypeError, r"^train: expected True or False"),
    "past_end unknown": (lambda m: m.forward(X, past_end="last"), ValueError, r"^past_end: expected one of zeros, repeat, got 'last'$"),
    "out of another size": (lambda m: m.forward(X, out=ones(4, 3, 5)), ValueError, r"^out: expected shape \(4, 3, 6\), got \(4, 3, 5\)$"),
    "out of float64": (lambda m: m.forward(X, out=ones(4, 3, 6, dtype=F64)), TypeError, r"^out: expected float32 like the weights"),
    "out read-only": (lambda m: m.forward(X, out=np.broadcast_to(ones(6), (4, 3, 6))), ValueError, r"^out: expected a writable array"),
    "out over itself": (lambda m: m.forward(X, out=as_strided(ones(6), (4, 3, 6), (0, 0, 4))), ValueError, r"^out: expected memory of its own for every element"),
    "dx over itself": (lambda m: (m.forward(X), m.backward(None, out=as_strided(ones(5), (4, 3, 5), (0, 0, 4)))), ValueError, r"^out: expected memory of its own for every element"),
    "more than memory": (lambda m: m.forward(as_strided(ones(5), (2**38, 2**18, 5), (0, 0, 4))), MemoryError, r"^no \d+ bytes for T 274877906944, B 262144, I 5 and H 6$"),
    "no state but a pair": (lambda m: pyoptk.RNN(5, 6).forward(X, STATE), TypeError, r"^state: expected a float32 or float64 array, got tuple"),
    "a step with a pair": (lambda m: pyoptk.RNN(5, 6).step(X[0], STATE), TypeError, r"^state: expected a float32 or float64 array, got tuple"),
    "a state of half": (lambda m: m.forward(X, (STATE[0], None)), TypeError, r"^state\[1\]: expected a float32 or float64 array"),
    "nonlinearity unknown": (lambda m: pyoptk.RNN(5, 6, nonlinearity="sigmoid"), ValueError, r"^nonlinearity: expected one of tanh, relu, got 'sigmoid'$"),
    "out turned": (lambda m: m.forward(X, out=ones(4, 6, 3).swapaxes(1, 2)), ValueError, r"^out: expected the last axis to be adjacent"),
    "out is x": (lambda m: (a := ones(4, 3, 11), m.forward(a[..., :5], out=a[..., 4:10])), ValueError, r"^out: expected memory of its own, got an array that overlaps x$"),
    "need_dx no switch": (lambda m: (m.forward(X), m.backward(None, need_dx=0)), TypeError, r"^need_dx: expected True or False"),
    "out over dy": (lambda m: (m.forward(X), a := ones(4, 3, 11), m.backward(a[..., :6], out=a[..., 5:10])), ValueError, r"^out: expected memory of its own, got an array that overlaps dy$"),
    "out is a weight": (lambda m: m.forward(X[:1, :1], out=m.flat_params[:6].reshape(1, 1, 6)), ValueError, r"^out: expected memory of its own, got an array that overlaps the weights$"),
    "out without dx": (lambda m: (m.forward(X), m.backward(None, need_dx=False, out=ones(4, 3, 5))), ValueError, r"^out: expected None without need_dx"),
    "out for dx of another size": (lambda m: (m.forward(X), m.backward(None, out=ones(4, 3, 6))), ValueError, r"^out: expected shape \(4, 3, 5\), got \(4, 3, 6\)$"),
    "backward after inference": (lambda m: (m.forward(X, train=False), m.backward(None)), RuntimeError, r"^backward: expected a forward with train=True before it"),
    "dropout of one layer": (lambda m: pyoptk.LSTM(2, 3, dropout=0.5), ValueError, r"^dropout: expected 0 for one layer, as it acts between layers, got 0.5$"),
    "dropout that rounds to 1": (lambda m: pyoptk.LSTM(2, 3, 2, dropout=0.999999), ValueError, r"^dropout: expected a number that does not round to 1 in steps of"),
    "dropout of 1": (lambda m: pyoptk.LSTM(2, 3, 2, dropout=1), ValueError, r"^dropout: expected a number in \[0, 1\), got 1$"),
    "seed negative": (lambda m: pyoptk.LSTM(2, 3, 2, dropout=0.1, seed=-1), ValueError, r"^seed: expected an integer in 0..2\*\*64-1, got -1$"),
    "save unknown": (lambda m: pyoptk.LSTM(2, 3, save="all"), ValueError, r"^save: expected one of full, minimal, got 'all'$"),
    "bidirectional no switch": (lambda m: pyoptk.LSTM(2, 3, bidirectional=2), TypeError, r"^bidirectional: expected True or False, got 2$"),
    "state of one direction": (lambda m: pyoptk.LSTM(5, 6, bidirectional=True).forward(X, STATE), ValueError, r"^state\[0\]: expected shape \(2, 3, 6\), got \(1, 3, 6\)$"),
    "step of two directions": (lambda m: pyoptk.LSTM(5, 6, bidirectional=True).step(X[0]), RuntimeError, r"^step: expected a layer of one direction"),
    "step of a sequence": (lambda m: m.step(X), ValueError, r"^x: expected shape \(any, 5\), got \(4, 3, 5\)$"),
    "step of float64": (lambda m: m.step(ones(3, 5, dtype=F64)), TypeError, r"^x: .*float32 like the weights, got float64; x\.astype\(numpy\.float32\) has"),
    "step no array": (lambda m: m.step([[1.0] * 5]), TypeError, r"^x: expected a float32 or float64 array, got list$"),
    "step without c": (lambda m: m.step(X[0], STATE[0]), TypeError, r"^state: expected a pair of arrays of shape \(1, 3, 6\), got float32 \(1, 3, 6\)$"),
    "step with another c": (lambda m: m.step(X[0], (STATE[0], ones(1, 2, 6))), ValueError, r"^state\[1\]: expected shape \(1, 3, 6\), got \(1, 2, 6\)$"),
    "step with c of float64": (lambda m: m.step(X[0], (STATE[0], ones(1, 3, 6, dtype=F64))), TypeError, r"^state\[1\]: expected float32 like the weights"),
    "masked": (lambda m: m.forward(np.ma.masked_array(X, X > 2)), TypeError, r"^x: expected a plain array, got a masked one"),
    "resets as numbers": (lambda m: m.forward(X, resets=np.zeros((4, 3), int)), TypeError, r"^resets: expected bool \(4, 3\), got int64 \(4, 3\)$"),
    "resets turned": (lambda m: m.forward(X, resets=np.zeros((3, 4), bool)), ValueError, r"^resets: expected bool \(4, 3\), got bool \(3, 4\)$"),
    "resets masked": (lambda m: m.forward(X, resets=np.ma.masked_array(np.zeros((4, 3), bool))), TypeError, r"^resets: expected bool \(4, 3\), got a masked array"),
    "resets ragged": (lambda m: m.forward(X, resets=[[True], [True, False]]), ValueError, r"^resets: expected bool \(4, 3\), got a ragged"),
    "reset_to unknown": (lambda m: m.forward(X, reset_to="ones"), ValueError, r"^reset_to: expected one of zeros, initial, got 'ones'$"),
    "ragged lengths": (lambda m: m.forward(X, lengths=[[1], [2, 3]]), ValueError, r"^lengths: expected 3 integers, got a ragged"),
    "assigned weight": (lambda m: m.params.__setitem__("weight_hh_l0", ones(24, 6)), TypeError, r"item assignment; write into"),
    "assigned size": (lambda m: setattr(m, "num_layers", 2), AttributeError, r"^num_layers: cannot be assigned; weights are changed in place"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LSTM)
def test_lstm_refuses_bad_arguments_by_name(bad):
    call, error, message = BAD_LSTM[bad]
    lstm = pyoptk.LSTM(5, 6)
    grads = lstm.flat_grads.copy()
    with pytest.raises(error, match=message):
        call(lstm)
    np.testing.assert_array_equal(lstm.flat_grads, grads)


def test_each_forward_allows_one_backward():
    lstm = pyoptk.LSTM(5, 6)
    lstm.forward(X)
    lstm.backward(ones(4, 3, 6))
    with pytest.raises(RuntimeError, match="none since the last backward"):
        lstm.backward(ones(4, 3, 6))
    lstm.forward(X)
    with pytest.raises(ValueError, match="dy"):
        lstm.backward(ones(4, 3, 7))
    with pytest.raises(ValueError, match="out"):
        lstm.backward(ones(4, 3, 6), out=np.broadcast_to(ones(5), (4, 3, 5)))
    with pytest.raises(ValueError, match="out"):
        lstm.forward(X, out=np.broadcast_to(ones(6), (4, 3, 6)))
    with pytest.raises(ValueError, match="out"):
        lstm.forward(X[:, :2], out=np.broadcast_to(ones(6), (4, 2, 6)))
    lstm.backward(ones(4, 3, 6))  # a refused call has used nothing up


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None, True])
def test_lstm_refuses_bad_sizes(name, value):
    sizes = {"input_size": 2, "hidden_size": 3, "num_layers": 1, name: value}
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected an integer >= 1, got"):
        pyoptk.LSTM(**sizes)


@pytest.mark.parametrize("dtype", [np.float16, int, "nonsense", np.dtype("f4").newbyteorder()])
def test_lstm_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match=r"^dtype: expected float32 or float64, got"):
        pyoptk.LSTM(2, 3, dtype=dtype)


def test_a_change_of_instruction_set_waits_for_the_next_forward():
    lstm = pyoptk.LSTM(16, 32)
    x = np.random.default_rng(1).standard_normal((3, 2, 16), dtype=F32)
    for name in (name for name, usable in pyoptk.isas().items() if usable):
        pyoptk.use_isa()
        y, _ = lstm.forward(x)
        expected = lstm.backward(y)[0]
        lstm.forward(x)
        pyoptk.use_isa(name)
        assert (lstm.backward(y)[0] == expected).all()
    pyoptk.use_isa()


WEIGHTS = {
    "another dtype": lambda flat: setattr(flat, "dtype", "f8"),
    "another shape": lambda flat: setattr(flat, "shape", (2, flat.size // 2)),
    "read-only": lambda flat: flat.setflags(write=False),
}


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize("flat", ["flat_params", "flat_grads"])
@pytest.mark.parametrize("change", WEIGHTS)
def test_flat_weights_that_were_changed_in_place_are_refused(change, flat, cell):
    layer = layer_of(cell, 5, 6)
    if change == "read-only" and flat == "flat_params":
        WEIGHTS[change](layer.flat_params)
        layer.forward(X)  # which only reads them
        layer.backward(None)
        return
    size, message = layer.flat_params.size, rf"^{flat}: expected float32 \({{}},\) as it was made"
    layer.forward(X)
    layer.step(X[0])
    WEIGHTS[change](getattr(layer, flat))
    with pytest.raises(ValueError, match=message.format(size)):
        layer.backward(None)
    if flat == "flat_params":
        for call in (lambda: layer.forward(X), lambda: layer.step(X[0])):
            with pytest.raises(ValueError, match=message.format(size)):
                call()
    with pytest.raises(ValueError, match=message.format(size)):
        layer.forward(X[:2])  # with a new plan


class Interrupt(BaseException):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers")
def test_an_interrupt_leaves_a_layer_before_a_call_or_after_it(cell):
    layer = layer_of(cell, 1, 4, 2, dropout=0.5, seed=1)
    other = layer_of(cell, 1, 4, 2, dropout=0.5, seed=1)
    other.flat_params[:] = layer.flat_params
    x, armed, calls = ones(2, 1, 1), False, 0

    def interrupt(*_):
        nonlocal armed
        if armed:
            armed = False
            raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    rng, end = np.random.default_rng(0), time.monotonic() + 2
    try:
        while time.monotonic() < end and calls < 500:
            armed, calls = True, calls + 1
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-5, 3e-4))
                while True:
                    layer.forward(x)
                    layer.backward(None)
            except Interrupt:
                pass
            y, _ = layer.forward(x, lengths=[2])
            other.__dict__["dropout_calls"] = layer.dropout_calls - 1
            np.testing.assert_array_equal(y, other.forward(x)[0])
            layer.backward(y)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_one_layer_serves_one_thread_at_a_time():
    lstm = pyoptk.LSTM(8, 16, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((20, 5, 8), dtype=F32)
    expected, outcomes = lstm.forward(x)[0], []

    def work():
        for _ in range(300):
            try:
                outcomes.append(bool((lstm.forward(x)[0] == expected).all()))
            except RuntimeError as error:
                outcomes.append(str(error))

    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert True in outcomes
    assert set(outcomes) <= {True, "this layer is in use in another thread already"}


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_layer_is_whole(how, cell):
    layer = layer_of(cell, 5, 6, 2, bidirectional=True, dropout=0.1)
    layer.forward(X)
    other = how(layer)
    assert repr(other) == repr(layer)
    assert other.dropout_calls == 1
    np.testing.assert_array_equal(other.flat_params, layer.flat_params)
    assert np.shares_memory(other.params["weight_hh_l1"], other.flat_params)
    assert not np.shares_memory(other.flat_params, layer.flat_params)
    pyoptk.SGD(other.flat_params, lr=1.0).step(ones(other.flat_params.size))
    assert (layer.forward(X)[0] != other.forward(X)[0]).any()


def test_results_beyond_the_address_space_are_a_memory_error():
    x = as_strided(np.zeros(1, np.float32), (2**58, 2, 1), (0, 0, 4))
    layer = pyoptk.GRU(1, 64)
    for call in (lambda: layer.forward(x, train=False), lambda: layer.step(x[:, 0])):
        with pytest.raises(MemoryError, match=r"^no array of float32 \(288230376151711744, "):
            call()
