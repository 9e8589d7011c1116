"""The roof of a step right after a product, after pyoptk/duel/contenders/roof.py."""

import runpy
from functools import partial

import numpy as np

from pyoptk.duel.referee import OURS


def after_product(weight, gradient, x, dy, *, threads, alone=False, **options):
    """The same streams with additions only, from the same gradient."""
    import pyoptk

    pyoptk.set_num_threads(threads)
    roof = runpy.run_path(str(OURS / "roof.py"))
    param, _, *states = roof["arrays"](weight.size)
    streams = partial(roof["roofs"]()[0], param, gradient.reshape(-1), *states)
    product = partial(np.matmul, dy.T, x, out=gradient)
    return streams, list, {} if alone else {"before": product}
