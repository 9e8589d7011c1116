"""A model with layers of every kind: what several test files run."""

import numpy as np

import pyoptk
from pyoptk.layers import Embedding, Last, LayerNorm, Linear, Sequential


def rng():
    return np.random.default_rng(7)


def classifier(dtype=np.float64, **options):
    """Embedding, two recurrent layers, a model in the model."""
    draw = {"rng": rng(), "dtype": dtype}
    return Sequential(
        Embedding(9, 3, padding_idx=0, **draw),
        pyoptk.GRU(3, 4, **draw, **options),
        pyoptk.LSTM(4, 6, 2, **draw, **options),
        Last(**options),
        Sequential(LayerNorm(6, dtype=dtype), Linear(6, 5, "tanh", **draw)),
        Linear(5, 2, **draw),
    )
