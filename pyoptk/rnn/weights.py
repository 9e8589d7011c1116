"""The arrays of a recurrent layer: their names, shapes and first values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
PEEPHOLES, PROJECTION = "weight_ch", "weight_hr"
NORMALIZATION = ("gain_ih", "gain_hh", "gain_c", "bias_c")  # the last two are those of c
INITIALIZERS = ("torch", "keras")


def names_of(layer: int, backward: bool = False) -> tuple[str, ...]:
    """PyTorch's names of the parameters of one layer and direction, in the order of `KINDS`; then
    those of the peepholes, of the projection and of `NORMALIZATION`."""
    suffix = "_reverse" if backward else ""
    kinds = *KINDS, PEEPHOLES, PROJECTION, *NORMALIZATION
    return tuple(f"{kind}_l{layer}{suffix}" for kind in kinds)


def check_depth(num_layers: int) -> None:
    """Raise for a depth whose names alone would exceed memory."""
    if num_layers >= 2**16:
        raise MemoryError(f"num_layers: expected less than 2**16, got {num_layers:,}")


def shapes_of(layer: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name, level by level, forwards before backwards."""
    check_depth(layer.num_layers)
    found: dict[str, tuple[int, ...]] = {}
    H, rows = layer.hidden_size, layer.gates * layer.hidden_size
    R = layer.proj_size or H
    for level in range(layer.num_layers):
        below = layer.directions * R if level else layer.input_size
        shapes: list[tuple[int, ...] | None] = [(rows, below), (rows, R)]
        shapes += [(rows,) if layer.bias else None] * 2
        shapes += [(rows - H,) if layer.peepholes else None]
        shapes += [(R, H) if layer.proj_size else None]
        shapes += [(rows,) if layer.layer_norm else None] * 2
        of_c = layer.layer_norm and layer.gates == 4
        shapes += [(H,) if of_c else None, (H,) if of_c and layer.bias else None]
        for backward in range(layer.directions):
            named = zip(names_of(level, bool(backward)), shapes, strict=True)
            found.update({name: shape for name, shape in named if shape is not None})
    return found


def initialize(
    flat: Array,
    params: Mapping[str, Array],
    init: str,
    H: int,
    open_gate: int | None,
    rng: np.random.Generator,
) -> None:
    """Change `flat`, whose views `params` are, to first values as that library draws them.

    torch: everything uniform in [-1/sqrt(H), 1/sqrt(H)].
    keras: the weights of inputs and of a projection uniform in +-sqrt(6 / (rows + columns))
    (Glorot & Bengio 2010), recurrent ones orthogonal (Saxe et al. 2014), biases and peepholes 0,
    but the bias 1 for `open_gate`, the forget gate of an LSTM (Gers et al. 2000).
    With layer normalization, gains are 1, and biases 0 also with torch.
    """
    if init == "torch":
        flat[:] = rng.uniform(-1 / math.sqrt(H), 1 / math.sqrt(H), flat.size)
        normed = any(name.startswith("gain") for name in params)
        for name, array in params.items():
            if normed and not name.startswith("weight"):
                array[...] = name.startswith("gain")
        return
    for name, array in params.items():
        if name.startswith(("weight_ih", PROJECTION)):
            limit = math.sqrt(6 / sum(array.shape))
            array[...] = rng.uniform(-limit, limit, array.shape)
        elif name.startswith("weight_hh"):
            q, r = np.linalg.qr(rng.standard_normal(array.shape))
            array[...] = q * np.sign(np.diag(r))  # without the signs some rotations are likelier
        else:
            array[...] = name.startswith("gain")
            if open_gate is not None and name.startswith("bias_ih"):
                array[open_gate * H : (open_gate + 1) * H] = 1
