"""Names of a model's parameters: its state dict, PyTorch's, and its summary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .._bound import Array
from ..checkpoint import check_arrays, check_keys, fill_arrays
from ..rnn.convert import ConvertedLayer, array_of
from .places import is_model

Layers = Sequence[Any]


def state_of(layer: Any) -> dict[str, Any]:
    """The state dict of a layer, also of one that has only `params`."""
    return layer.state_dict() if hasattr(layer, "state_dict") else dict(layer.params)


def parts(layers: Layers, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The state dict of a model, split into those of its layers."""
    return [
        {name: state[f"{i}.{name}"] for name in state_of(layer)} for i, layer in enumerate(layers)
    ]


def in_torch(layers: Layers, prefix: str = "") -> Iterator[tuple[str, Array]]:
    """Each parameter and its name in ``torch.nn.Sequential``."""
    i = 0
    for layer in layers:
        if is_model(layer):
            yield from in_torch(layer.layers, f"{prefix}{i}.")
        else:
            if isinstance(layer, ConvertedLayer):
                layer.check_default("PyTorch", layer.not_in_torch)
            for name, array in layer.params.items():
                yield f"{prefix}{i}.{name}", array
        i += 2 if getattr(layer, "inputs", 0) and layer.activation != "none" else 1


def _modules(named: Mapping[str, Any]) -> list[dict[str, str]]:
    """The full names of each module's arrays, by their names within it."""
    found: dict[str, dict[str, str]] = {}
    for name in named:
        module, _, own = name.rpartition(".")
        found.setdefault(module, {})[own] = name
    numbers = {module: [*map(int, re.findall("[0-9]+", module))] for module in found}
    stems = {re.sub("[0-9]+", "", module).rstrip(".") for module in found}
    if len(stems) == 1 and list(found) == sorted(found):  # a file has sorted them as str: 1, 10, 2
        return [found[module] for module in sorted(found, key=numbers.__getitem__)]
    return list(found.values())


def fill_from_torch(layers: Layers, state: Mapping[str, Any]) -> None:
    """Copy the arrays of the k-th module, or of that of the same name, into the k-th layer."""
    check_keys(state, "state")
    own = dict(in_torch(layers))
    ours = _modules(own)
    theirs = ours if own.keys() == state.keys() else _modules(state)
    if len(ours) != len(theirs):
        shown = ", ".join(map(str, state)) or "nothing"
        raise ValueError(f"state: expected {len(ours)} modules, got {len(theirs)}: {shown}")
    pairs: dict[str, str] = {}
    for mine, other in zip(ours, theirs, strict=True):
        if mine.keys() != other.keys():
            raise ValueError(f"state: expected {', '.join(mine)}, got {', '.join(other.values())}")
        pairs |= {other[name]: mine[name] for name in mine}
    arrays = {name: array_of(state[name], f"state[{name!r}]") for name in pairs}
    check_arrays({name: own[mine] for name, mine in pairs.items()}, arrays, "state")
    fill_arrays({name: own[mine] for name, mine in pairs.items()}, arrays)


def _shown(shape: tuple[Any, ...]) -> str:
    sizes = ["..." if size is ... else str(size) for size in shape]
    return f"({', '.join(sizes)})" if sizes else ""


def _rows(layers: Layers, indent: str, shape: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Text, shape of the output and count of each layer."""
    for i, layer in enumerate(layers):
        if is_model(layer):
            yield f"{indent}{i}  {type(layer).__name__}", (), 0
            inner = list(_rows(layer.layers, indent + "   ", shape))
            yield from inner
            shape = inner[-1][1]
            continue
        shape = layer._after(shape) if hasattr(layer, "_after") else ()
        short = getattr(layer, "_short", layer.__repr__)().split("\n")[0]
        yield f"{indent}{i}  {short}", shape, sum(np.size(p) for p in layer.params.values())


def summary(layers: Layers) -> str:
    """A line for each layer: what it is, the shape of its output, how many parameters it has."""
    rows = list(_rows(layers, "  ", ()))
    texts = ["Sequential(", *(text for text, *_ in rows), ""]
    shapes = ["output", *(_shown(shape) for _, shape, _ in rows), ""]
    counts = ["parameters", *(f"{count:,}" for *_, count in rows)]
    counts.append(f"{sum(count for *_, count in rows):,}")
    widths = [max(map(len, column)) for column in (texts, shapes, counts)]
    lines = [
        f"{text:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}"
        for text, shape, count in zip(texts, shapes, counts, strict=True)
    ]
    return "\n".join([*lines, ")"])
