"""The bare compiled kernels, for users who keep their own state.

Each changes the arrays that its docstring names, in place, and returns None. Every function has a
twin of the same name in `pyoptk.reference`, which is its specification.
"""

from ._optim import (
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
)
from ._products import dropout, exp, matmul, sigmoid, tanh

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
    "matmul",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
    "sigmoid",
    "tanh",
]
