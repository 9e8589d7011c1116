"""The states of an array and of its pieces: which words and scales are whose.

A narrow state (`state_dtype`) has words for groups of 64 elements and scales for blocks of 256;
pieces begin at multiples of both. What is rounded by chance needs to know where a piece begins in
its array, and `min_8bit_size` counts the elements of the array: that is `_parts` of an optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._places import words_of
from ..optim.base import Optimizer
from ..optim.narrow import convert_masters, kind_of_state
from ..params import Params
from .shards import Array, Piece

BLOCK, GROUP = 256, 64  # elements
Part = tuple[int, int, int]


def _refused(optimizer: Any, name: str, value: Any) -> None:
    if "_made" not in vars(optimizer):  # its class assigns in __init__
        if name != "groups":  # whose patterns are not those of pieces
            assign(optimizer, name, value)
        return
    if name == "groups" or name in optimizer.hyper:
        raise AttributeError(
            f"{name}: expected to be assigned to the Sharded, got the optimizer of its shard"
        )
    assign(optimizer, name, value)


def of_shard(optimizer_class: Any) -> Any:
    """The class of an optimizer of a shard: hyper-parameters are set by `assign` alone."""
    kept = ("__module__", "__qualname__", "__doc__")
    own = {name: getattr(optimizer_class, name) for name in kept}
    return type(optimizer_class.__name__, (optimizer_class,), {**own, "__setattr__": _refused})


def assign(optimizer: Any, name: str, value: Any) -> None:
    """Set what the class `of_shard` refuses."""
    super(type(optimizer), optimizer).__setattr__(name, value)


def made_of_parts(
    optimizer_class: Any, params: Any, parts: list[Part], settings: Any, then: Any = None
) -> Any:
    """An optimizer of parts of arrays: of each the array's number, first block and elements.

    `then`: the hyper-parameters that it shall have, whatever its class assigns in `__init__`.
    """
    made = optimizer_class.__new__(optimizer_class)
    vars(made)["_parts"] = parts
    made.__init__(params, **settings)
    vars(made)["_made"] = True
    for name, value in made.hyper.items():
        if then is not None and then[name] is not value:
            assign(made, name, then[name])
    return made


def whole_states(shadow: Optimizer, tree: Params) -> dict[str, Array]:
    """The names of all states, with arrays of their shapes, all elements of which are one."""
    found: dict[str, Array] = {}
    states = shadow._plan.states
    for name, arrays in states.items():
        scales = states.get(f"{name}_scale") or [None] * len(arrays)
        keys = tree.named(name, tree.arrays)
        for key, array, scale, param in zip(keys, arrays, scales, tree.arrays, strict=True):
            if array is None:
                continue
            shape = param.shape
            if name.endswith("_scale"):
                shape = (-(-param.size // BLOCK),)
            elif array.dtype == np.uint32:
                shape = (words_of(param.size, "bfloat16" if scale is None else "8bit"),)
            one, strides = np.zeros(1, array.dtype), (0,) * len(shape)
            found[key] = np.lib.stride_tricks.as_strided(one, shape, strides)
    return found


def with_our_masters(
    state: Mapping[str, Any], shadow: Optimizer, tree: Params
) -> tuple[dict[str, Any], list[tuple[Array, Array]]]:
    """A state whose masters and remainders are those that our `master` has, and what is written."""
    found = dict(state)
    is_wide = tree.arrays[0].dtype == np.float64
    return found, [] if is_wide else convert_masters(shadow._plan, tree, found)


def as_ours(state: Mapping[str, Any], shadow: Optimizer, tree: Params) -> dict[str, Any]:
    """A state in which states of another `state_dtype` stand as if they were of ours, unfilled."""
    (found, _), ours = with_our_masters(state, shadow, tree), whole_states(shadow, tree)
    for name in shadow._plan.states:
        keys = zip(tree.named(name, tree.arrays), tree.named(f"{name}_scale", tree.arrays),
                   strict=True)  # fmt: skip
        for (key, scale_key), param in zip(keys, tree.arrays, strict=True):
            kind = kind_of_state(state.get(key), state.get(scale_key), param.shape)
            own = kind_of_state(ours.get(key), ours.get(scale_key), param.shape)
            if kind is not None and own is not None and kind != own:
                found.pop(scale_key, None)
                found |= {k: ours[k] for k in (key, scale_key) if k in ours}
    return found


def of_pieces(
    state: Mapping[str, Any], tree: Params, pieces: list[Piece], optimizer: Optimizer
) -> dict[str, Any]:
    """The state of an optimizer of pieces, with their parts of a whole state in whatever form."""
    own = optimizer.state_dict()
    names = [name for name in optimizer._plan.states if not name.endswith("_scale")]
    for name in [*names, *(f"{name}_scale" for name in names)]:
        whole = list(tree.named(name, tree.arrays))
        keys = list(optimizer._params.named(name, [*pieces, None]))
        for key, piece in zip(keys, pieces, strict=False):
            own.pop(key, None)
            if (array := state.get(whole[piece.param])) is not None:
                size = tree.arrays[piece.param].size
                own[key] = _of_piece(array, piece, size, name.endswith("_scale"))
    return own


def _of_piece(array: Array, piece: Piece, size: int, is_scale: bool) -> Array:
    """What of a state, of an array of so many elements and in whatever form, is that of a piece."""
    flat, group, per = array.reshape(-1), 1, 1
    if is_scale:
        group = BLOCK
    elif array.dtype == np.uint32:
        group, per = GROUP, flat.size // -(-size // GROUP)
    return flat[piece.begin // group * per : -(-piece.end // group) * per]
