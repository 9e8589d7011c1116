"""The inputs of the tasks that only the kernels have, after pyoptk/duel/contenders/inputs.py."""

import runpy
from pathlib import Path

import numpy as np

OURS = Path(__file__).parents[2] / "pyoptk" / "duel" / "contenders" / "inputs.py"
narrow = halves = runpy.run_path(str(OURS))["step"]
TABLE = 50_000, 64  # of embeddings


def normal(*shapes, dtype="float32"):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype) for shape in shapes]


def function(shapes, dtype):
    """The arrays that a function of arrays reads and writes."""
    return {"arrays": [2 * array for array in normal(*shapes, dtype=dtype)]}


def linear(M, I, O, dtype):
    x, w, b, dy = normal((M, I), (O, I), O, (M, O), dtype=dtype)
    return {"x": x, "w": w, "b": b, "dy": dy}


def layer_norm(M, N, dtype):
    x, gain, bias, dy = normal((M, N), N, N, (M, N), dtype=dtype)
    return {"x": x, "gain": gain, "bias": bias, "dy": dy}


def loss(M, N, dtype):
    """Scores, labels, and targets of single elements, 0 or 1."""
    (x,) = normal((M, N), dtype=dtype)
    return {"x": x, "labels": np.arange(M) % N, "targets": (x > 0.5).astype(dtype)}


def touched_rows(count, dtype):
    """A table of embeddings and a gradient for some of its rows, drawn with return."""
    table, values = normal(TABLE, (count, TABLE[1]), dtype=dtype)
    indices = np.random.default_rng(0).integers(0, TABLE[0], count)
    return {"table": table, "indices": indices, "values": values}


def decayed(n, age):
    param, grad = normal(n, n)
    return {"param": param, "grad": grad, "age": age}


def after_product(batch, side):
    """A weight, the gradient that the product writes, and the factors of the product."""
    weight, gradient = normal((side, side), (side, side))
    x, dy = normal((batch, side), (batch, side))
    return {"weight": weight, "gradient": gradient, "x": x, "dy": dy}
