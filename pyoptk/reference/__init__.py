"""The kernels in plain NumPy: the specification, and what every test compares with.

Each function has the name, the arguments and the in-place effect of its compiled twin in
`pyoptk.kernels`, and does the same operations in the same order. Constants are computed in double
and rounded once to the dtype of the arrays (`real`); all else is computed in that dtype. The
functions are written by hand and are slow and short on purpose. Their hyper-parameters have no
defaults: those are in `pyoptk.optim`.
"""

from . import dense as _dense
from . import moments as _moments
from . import optim as _optim
from .dense import *
from .moments import *
from .optim import *
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
    rnn_backward,
    rnn_cell,
    rnn_forward,
    rnn_step,
    sigmoid,
    tanh,
)

__all__ = [
    "dropout",
    "exp",
    "lstm_backward",
    "lstm_cell",
    "lstm_forward",
    "lstm_step",
    "matmul",
    "output",
    "philox",
    "rnn_backward",
    "rnn_cell",
    "rnn_forward",
    "rnn_step",
    "sigmoid",
    "tanh",
]
__all__ += _dense.__all__ + _moments.__all__ + _optim.__all__
