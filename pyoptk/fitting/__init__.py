"""Training loops for models of arrays: `fit`, `training`, `lr_range_test` and their `History`.

Imported by `pyoptk` when one of them is first used. A model is an object with `params` and `grads`
(mappings of names to arrays; a gradient may be `SparseRows`), ``forward(x)`` and ``backward(dy)``;
a loss is a function ``loss(y, target)`` that returns the loss and its gradient dy.
"""

from .history import History
from .loop import Training, fit, training
from .range_test import LRRange, lr_range_test
from .trouble import Diverged

__all__ = ["Diverged", "History", "LRRange", "Training", "fit", "lr_range_test", "training"]
