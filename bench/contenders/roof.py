"""The roof of a step right after a product, after pyoptk/duel/contenders/roof.py."""

import runpy
from functools import partial

import numpy as np

from pyoptk._optim import memory_roof
from pyoptk.duel.referee import OURS

ARRAYS = runpy.run_path(str(OURS / "roof.py"))["arrays"]


def after_product(weight, gradient, x, dy, *, alone):
    """The same streams with additions only, from the same gradient."""
    param, _, *states = ARRAYS(weight.size)
    streams = partial(memory_roof, param, gradient.reshape(-1), *states)
    return streams, None, {"before": None if alone else partial(np.matmul, dy.T, x, out=gradient)}
