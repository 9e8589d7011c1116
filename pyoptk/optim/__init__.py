"""The optimizers: each holds the state of some parameters and updates them in place."""

from .adam import Adam, AdamW
from .base import Optimizer
from .classic import SGD, AdaGrad, RMSprop

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Optimizer", "RMSprop"]
