"""The optimizers, each with the state of some parameters, which it updates in place; wrappers.

A new optimizer stands in the `__all__` of its file; that is enough for `pyoptk.NAME`, too.
"""

from . import adam, classic
from .adam import *
from .averages import SWA, Lookahead
from .base import Optimizer
from .classic import *
from .clip import clip_by_global_norm, clip_by_value, global_norm
from .wrappers import Accumulation, LossScaler

__all__ = [
    "SWA",
    "Accumulation",
    "Lookahead",
    "LossScaler",
    "Optimizer",
    "clip_by_global_norm",
    "clip_by_value",
    "global_norm",
]
__all__ += adam.__all__
__all__ += classic.__all__
