"""The optimizers: each holds the state of some parameters and updates them in place."""

from .adam import Adam, Adamax, AdamW, NAdam, RAdam
from .base import Optimizer
from .classic import SGD, Adadelta, AdaGrad, RMSprop
from .lamb import LAMB
from .lion import Lion

__all__ = [
    "LAMB",
    "SGD",
    "AdaGrad",
    "Adadelta",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
]
