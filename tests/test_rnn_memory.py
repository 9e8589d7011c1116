"""Memory that training takes; later steps take no more than the first."""

import tracemalloc

import numpy as np
import pytest
from rnn_rows import layer_of

T, B, I, H = 40, 64, 16, 48  # H: a whole number of vectors on every instruction set
ROW = T * B * H * 4  # bytes of an array [T, B, H]
# keywords of the layer; how many arrays [T, B, H] a step keeps according to the docstring
MEMORY = {
    "plain": ({}, 6),
    "two layers": ({"num_layers": 2}, 12 + 1),
    "four layers": ({"num_layers": 4}, 24 + 2),
    "bidirectional": ({"bidirectional": True}, 12),
    "two bidirectional": ({"num_layers": 2, "bidirectional": True}, 24 + 2 + 2),
    "dropout": ({"num_layers": 2, "dropout": 0.1}, 12 + 1 + 1),
    "batch first": ({"batch_first": True}, 6),
    "minimal": ({"save": "minimal"}, 1 + 6 / np.sqrt(T)),
    # its rows of 4H: an odd number of cache lines, and six numbers
    "normed": ({"cell": "LSTM normed"}, 14 + (3 * 16 + 6) / H),
    "normed, minimal": (
        {"cell": "LSTM normed", "save": "minimal"},
        2 + (12 + (3 * 16 + 6) / H) / np.sqrt(T),
    ),
    "GRU": ({"cell": "GRU"}, 5),
    "GRU before, minimal": ({"cell": "GRU before", "save": "minimal"}, 1 + 5 / np.sqrt(T)),
    "GRU normed": ({"cell": "GRU normed"}, 11 + (16 + 6) / H),
    "RNN": ({"cell": "RNN tanh"}, 1 + 1 / np.sqrt(T)),
    "RNN, three layers": ({"cell": "RNN tanh", "num_layers": 3}, 3 + 1 / np.sqrt(T) + 2),
    "two minimal": ({"num_layers": 2, "save": "minimal"}, 2 + 7 / np.sqrt(T) + 1),
}
PADDED = {"normed": 1, "GRU normed": 1}  # arrays of 2 MiB or more, which begin at a huge page


def without_cell(options):
    return {name: value for name, value in options.items() if name != "cell"}


@pytest.mark.parametrize("row", MEMORY)
def test_a_training_step_needs_the_memory_that_is_documented(row, isa):
    options, arrays = MEMORY[row]
    lstm = layer_of(options.get("cell", "LSTM"), I, H, **without_cell(options))
    D = 2 if lstm.bidirectional else 1
    x = np.zeros((B, T, I) if lstm.batch_first else (T, B, I), np.float32)
    tracemalloc.start()
    y, _ = lstm.forward(x)
    lstm.backward(y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    documented = arrays * ROW + D * ROW + x.nbytes  # y and dx
    # Small beside a long sequence: weights packed for forward (minimal: and) backward, in panels of
    # 64 columns at most; 512 rows of x or h for the gradients of weights; a dozen states; what
    # Python needs.
    below = max(w.shape[1] for name, w in lstm.params.items() if name.startswith("weight_ih"))
    packed = D * 4 * H * (1 + below + H + 2 * 64 + below + H) * 4 + 512 * 64 * 4
    states = 12 * lstm.num_layers * D * B * H * 4
    unused = PADDED.get(row, 0) * 5 * 2**19
    assert documented <= peak <= documented + packed + states + unused + 20_000


@pytest.mark.parametrize("row", MEMORY)
def test_later_steps_allocate_nothing_that_grows_with_the_sequence(row):
    options = MEMORY[row][0]
    lstm = layer_of(options.get("cell", "LSTM"), I, H, **without_cell(options))
    x = np.zeros((B, T, I) if lstm.batch_first else (T, B, I), np.float32)
    y, _ = lstm.forward(x)
    dx, _ = lstm.backward(y)
    dy = y.copy()
    largest = 0
    tracemalloc.start()
    for _ in range(3):
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        lstm.forward(x, out=y)
        lstm.backward(dy, out=dx, accumulate=True)
        largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    states = 4 * 2 * lstm.num_layers * (2 if lstm.bidirectional else 1) * B * H * 4
    assert largest <= states + 20_000
