"""The optimizers, each with the state of some parameters, which it updates in place; wrappers."""

from .adam import Adam, Adamax, AdamW, NAdam, RAdam
from .averages import SWA, Lookahead
from .base import Optimizer
from .classic import SGD, Adadelta, AdaGrad, RMSprop
from .clip import clip_by_global_norm, clip_by_value, global_norm
from .lamb import LAMB
from .lion import Lion
from .wrappers import Accumulation, LossScaler

__all__ = [
    "LAMB",
    "SGD",
    "SWA",
    "Accumulation",
    "AdaGrad",
    "Adadelta",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Lookahead",
    "LossScaler",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "clip_by_global_norm",
    "clip_by_value",
    "global_norm",
]
