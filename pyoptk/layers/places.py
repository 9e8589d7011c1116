"""`Place`, a layer of a `Sequential` and how it is called; checks of what is a layer."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

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
