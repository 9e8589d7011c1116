"""`Place`, a layer of a `Sequential` and how it is called; checks of what is a layer.

And which axis of a model's outputs counts the rows, for `predict`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._bound import Array
from ..params import Fixed
from ..rnn.layer import Layer
from ..rnn.minimal_layer import Minimal

NEEDED = ("params", "grads", "forward", "backward")
KEYWORDS = {"forward": ("train",), "backward": ("need_dx", "accumulate")}


class Place(NamedTuple):
    """A layer in a model, and how it is called."""

    layer: Any
    recurrent: bool
    nested: bool
    takes_lengths: bool
    key: str | None  # of its gradients if backward replaces them, else None


def is_model(layer: Any) -> bool:
    """Whether it is a `Sequential`."""
    return getattr(layer, "_places", None) is not None


def inside(model: Any) -> list[Any]:
    """The model or layer, its layers, and those of models in it."""
    layers = model.layers if is_model(model) else ()
    return [model, *(found for layer in layers for found in inside(layer))]


def padded(flat: Array) -> int:
    """The elements that a layer's parameters or gradients take in a buffer: whole cache lines."""
    return -(-flat.size // 16) * 16


def check_layers(layers: tuple[Any, ...]) -> None:
    seen: dict[int, int] = {}
    order: bool | None = None
    for i, layer in enumerate(layers):
        for name in NEEDED:
            if isinstance(layer, type) or not hasattr(layer, name):
                kind = layer if isinstance(layer, type) else type(layer).__name__
                raise TypeError(f"layers[{i}]: expected an object with {name}, got {kind}")
        for method, names in KEYWORDS.items():
            known = inspect.signature(getattr(layer, method)).parameters
            left = [name for name in names if name not in known]
            if left and all(p.kind is not p.VAR_KEYWORD for p in known.values()):
                raise TypeError(
                    f"layers[{i}]: expected {method} with {left[0]}=, got "
                    f"{type(layer).__name__}.{method}({', '.join(known)})"
                )
        owner = getattr(layer, "_owner", None)
        if owner is not None and owner() is not None:
            raise ValueError(
                f"layers[{i}]: expected a layer that is in no other model, got a "
                f"{type(layer).__name__} that is; make a model of what two share, and call it "
                "before the model of the rest"
            )
        for inner in inside(layer):
            first = seen.setdefault(id(inner.params if inner.params else inner), i)
            if first != i:
                raise ValueError(
                    f"layers[{i}]: expected a layer and parameters of its own, got those of "
                    f"layers[{first}]"
                )
            mine = getattr(inner, "batch_first", None)
            order = mine if order is None else order
            if mine is not None and mine != order:
                raise ValueError(
                    f"layers[{i}]: expected batch_first={order}, as before it, got {mine}"
                )


def place(layer: Any, key: str) -> Place:
    recurrent, nested = isinstance(layer, Layer | Minimal), is_model(layer)
    takes_lengths = "lengths" in inspect.signature(layer.forward).parameters
    if nested:
        takes_lengths = layer.takes_lengths
        replaced = any(place.key for place in layer._places)
    else:
        replaced = bool(layer.grads) and not (
            isinstance(layer.grads, Fixed) and layer.flat_grads.size == layer.flat_params.size
        )
    return Place(layer, recurrent, nested, takes_lengths, key if replaced else None)


# ---- outputs of batches --------------------------------------------------------------------------


def told(out: Any, rows: int, batch_axis: int) -> bool:
    """Whether only the usual axis of an output can count these rows."""
    shape = np.shape(out)
    could = [k for k, size in enumerate(shape) if size == rows or (rows > 1 and not size % rows)]
    return could == [_usual(shape, batch_axis)]


def uneven(bounds: list[int], batch_size: int) -> None:
    """Make the last of full batches another one in size; the first has run."""
    if len(bounds) > 2 and batch_size > 1:
        bounds.insert(-1, bounds[-1] - batch_size // 2)
    elif len(bounds) > 3:  # batches of one row
        bounds.pop(-2)


def joined(outs: Sequence[Any], rows: Sequence[int], batch_axis: int) -> NDArray[Any]:
    """The outputs of batches of so many rows, joined along the axis that counts them."""
    if len(outs) == 1:
        return np.array(outs[0])
    shapes = [np.shape(out) for out in outs]
    found = [axis for axis in range(len(shapes[0])) if _counts(shapes, rows, axis)]
    usual = _usual(shapes[0], batch_axis)
    if not found and not batch_axis and shapes[0]:  # a layer may make several rows of one
        several = shapes[0][0] // rows[0]
        found = [0] * _counts(shapes, [several * n for n in rows], 0)
    if not found:
        k = next((k for k, n in enumerate(rows) if n != rows[0]), 1)
        raise ValueError(
            f"output of the last layer: expected an axis that counts the rows of a batch, got "
            f"{shapes[0]} from {rows[0]} and {shapes[k]} from {rows[k]}"
        )
    return np.concatenate(outs, usual if usual in found else found[0])


def _usual(shape: Sequence[int], batch_axis: int) -> int:
    return batch_axis if len(shape) > 2 else 0


def _counts(shapes: Sequence[Any], rows: Sequence[int], axis: int) -> bool:
    """Whether the sizes along the axis are these, and those along the others the same."""
    first = shapes[0]
    return all(
        shape == (*first[:axis], n, *first[axis + 1 :])
        for shape, n in zip(shapes, rows, strict=True)
    )
