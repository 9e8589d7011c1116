"""The kernels' arithmetic in plain NumPy: the specification, and what every test compares with.

Each function has the name, the arguments and the in-place effect of its compiled twin in
`pyoptk.kernels`, and states the operations in the order in which the kernel does them. Constants
are computed in double and rounded once to the arrays' dtype (`real`); the rest happens in that
dtype. Hyper-parameters have no defaults here: their home is `pyoptk.optim`. Slow and short on
purpose.
"""

from .optim import (
    adadelta,
    adagrad,
    adam,
    adamax,
    global_norm,
    lamb,
    lion,
    nadam,
    radam,
    rmsprop,
    sgd,
    touched_rows,
)
from .rnn import (
    dropout,
    exp,
    lstm_backward,
    lstm_cell,
    lstm_forward,
    lstm_step,
    matmul,
    output,
    philox,
    sigmoid,
    tanh,
)

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "dropout",
    "exp",
    "global_norm",
    "lamb",
    "lion",
    "lstm_backward",
    "lstm_cell",
    "lstm_forward",
    "lstm_step",
    "matmul",
    "nadam",
    "output",
    "philox",
    "radam",
    "rmsprop",
    "sgd",
    "sigmoid",
    "tanh",
    "touched_rows",
]
