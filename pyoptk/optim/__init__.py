"""The optimizers, each with the state of some parameters, which it updates in place; wrappers."""

from .adam import Adam, AdamW
from .averages import SWA, Lookahead
from .base import Optimizer
from .classic import SGD, AdaGrad, RMSprop
from .wrappers import Accumulation, LossScaler

__all__ = [
    "SGD",
    "SWA",
    "Accumulation",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Lookahead",
    "LossScaler",
    "Optimizer",
    "RMSprop",
]
