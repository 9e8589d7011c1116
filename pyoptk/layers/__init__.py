"""Layers of feed-forward models, and `Sequential`, which joins layers to a model.

A layer is an object with `params` and `grads`, dicts of arrays, and two methods: `forward` keeps
what `backward` needs; `backward` turns the gradient of the output into that of the input and fills
`grads`. There is no graph and no registry: an object with these four is a layer. To write
one, derive from `Layer` and write the two methods. A layer keeps one forward for one backward; to
run it twice before, see `Layer.shared`. The arithmetic is in csrc/kernels (linear.h, layer_norm.h,
dropout.h).
"""

from .base import Layer
from .dropout import Dropout
from .embedding import Embedding
from .linear import Activation, Linear
from .norm import LayerNorm
from .sequential import Sequential
from .shape import Flatten, Last

__all__ = [
    "Activation",
    "Dropout",
    "Embedding",
    "Flatten",
    "Last",
    "Layer",
    "LayerNorm",
    "Linear",
    "Sequential",
]
