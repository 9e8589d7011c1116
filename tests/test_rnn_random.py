"""Random cells, options and calls of recurrent layers against the twin: the same every time."""

import time

import numpy as np
import pytest
from conftest import USABLE
from rnn_rows import FORMS, assert_near, by_pyoptk, by_twin, case, each

import pyoptk

CELLS = ["LSTM", "GRU", "RNN tanh", "RNN relu", *FORMS]
CASES = 1000  # of each dtype; where they take longer than SECONDS, fewer in the same order
SECONDS, FEWEST = 8.0, 20


def configuration(rng):
    """A cell, T, B, I, H, L, keywords of the layer, and keywords of forward."""
    sizes = rng.integers([1, 1, 1, 4], [9, 9, 20, 40])  # fewer units: gradients that cancel
    shape = *(int(n) for n in sizes), int(rng.integers(1, 4))
    T, B, *_ = shape
    layer = {"bidirectional": bool(rng.random() < 0.4), "bias": bool(rng.random() < 0.8)}
    layer["save"] = str(rng.choice(["full", "minimal"]))
    if shape[4] > 1 and rng.random() < 0.3:
        layer |= {"dropout": 0.4, "seed": 3}
    cell = str(rng.choice(CELLS))
    layer |= noise(rng, cell)
    call = {}
    if rng.random() < 0.4:
        call["lengths"] = rng.integers(0, T + 1, B)
        call["past_end"] = str(rng.choice(["zeros", "repeat"]))
    if rng.random() < 0.5:
        call["resets"] = rng.random((T, B)) < rng.choice([0.1, 0.5])
        call["reset_to"] = str(rng.choice(["zeros", "initial"]))
    return cell, shape, layer, call


def noise(rng, cell):
    """Keywords of recurrent dropout and zoneout, mostly none."""
    found = {}
    if cell.endswith("normed"):
        return found
    if rng.random() < 0.25:
        of = ["state"] if cell.startswith("RNN") else ["state", "candidate"]
        found |= {"recurrent_dropout": 0.3, "recurrent_dropout_of": str(rng.choice(of)), "seed": 3}
    if rng.random() < 0.25:
        rates = (0.0 if cell in ("LSTM all", "LSTM peepholes") else 0.4, 0.2)
        found |= {"zoneout": rates if cell.startswith("LSTM") else 0.2, "seed": 3}
    return found


def compare(number, dtype):
    """One configuration, with or without a state."""
    rng = np.random.default_rng(number)
    cell, shape, options, call = configuration(rng)
    layer, x, state, *d = case(rng, shape, dtype, cell, **options)
    for b, length in enumerate(call.get("lengths", [])):
        x[length:, b] = np.nan  # what stands there does not matter
    given = state if rng.random() < 0.7 else None
    pyoptk.set_num_threads(int(rng.integers(1, 4)))
    pyoptk.use_isa(str(rng.choice(USABLE)))
    ours = by_pyoptk(layer, x, given, *d, **call)
    began = each(np.zeros_like, state) if given is None else state
    assert_near(ours, by_twin(layer, x, began, *d, **call), dtype)


@pytest.fixture
def _as_before():
    yield
    pyoptk.set_num_threads()
    pyoptk.use_isa()


@pytest.mark.usefixtures("_as_before")
def test_random_configurations_equal_the_twin(dtype):
    end, done = time.monotonic() + SECONDS, 0
    while done < FEWEST or (time.monotonic() < end and done < CASES):
        try:
            compare(done, dtype)
        except AssertionError as error:
            cell, shape, options, call = configuration(np.random.default_rng(done))
            raise AssertionError(f"{done}: {cell} {shape} {options} {call}") from error
        done += 1
