"""What `Sharded` is given: hyper-parameters that cannot be divided, hashes, gradients, names.

A gradient is checked before anything is added. Messages are those of optimizers.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .. import _checks
from ..optim.base import Optimizer
from ..params import Params, listed
from ..schedules import ReduceOnPlateau
from .shards import Array

if TYPE_CHECKING:
    from .exchange import Exchange

ADDRESS = r" at 0x\w+"  # in the representation of a function

_REFUSED = {
    "cautious": "its mean is over a whole array",
    "max_norm_per_array": "its norms are those of whole arrays",
}


class PieceName(str):
    """The key of a piece; messages show the key of its parameter."""

    shown: str

    def __repr__(self) -> str:
        return self.shown


def piece_name(place: str, groups: Iterable[int], decays: bool, shown: str) -> PieceName:
    """A name in which the patterns of `Sharded._settings` find what concerns the piece."""
    name = PieceName(place + "".join(f"<{k}>" for k in groups) + "<decay>" * decays)
    name.shown = shown
    return name


def check_class(optimizer_class: Any) -> None:
    """Raise unless this is a class of optimizers whose steps can be divided."""
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
        raise TypeError(f"optimizer_class: expected a class of optimizers, got {optimizer_class!r}")
    if getattr(optimizer_class, "_kernel", None) == "lamb":
        raise ValueError(
            "optimizer_class: expected one that works element by element, got LAMB, whose norms "
            "are those of whole arrays"
        )


def check_comm(comm: Any) -> None:
    """Raise unless this is None or a communicator of one group of ranks."""
    mpi = sys.modules.get("mpi4py.MPI")
    if comm is not None and not (mpi and isinstance(comm, mpi.Intracomm) and comm):
        raise TypeError(
            "comm: expected an mpi4py.MPI.Intracomm that was not freed, or None, got "
            f"{type(comm).__name__}"
        )


def refuse(name: str, value: Any) -> None:
    """Raise if this hyper-parameter, or one in `groups`, needs whole arrays."""
    if name == "groups" and isinstance(value, Mapping):
        for own in value.values():
            for each in own if isinstance(own, Mapping) else ():
                refuse(each, own[each])
    if name in _REFUSED and value:
        raise ValueError(f"{name}: expected False, because {_REFUSED[name]}, got {value!r}")


def digests(**arguments: Any) -> dict[str, str]:
    """A hash of each; see `fixed`."""
    texts = {name: fixed(value) for name, value in arguments.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def fixed(value: Any) -> str:
    """What of an argument has to be the same on all ranks, as text.

    Of a function its type, its name, and arguments that cannot change: the state of an object, as a
    rank alone may keep it, does not count. Nor does the order of a dict.
    """
    if type(value) in (float, str, bool, type(None)):  # most are, which is quick
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{fixed(k)}: {fixed(v)}' for k, v in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(fixed, value))})"
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return f"{type(value).__name__} {name}{fixed(_settings_of(value))}"
    return re.sub(ADDRESS, "", repr(value))


def _settings_of(function: Any) -> Any:
    """The arguments with which a function was made, as far as they cannot change."""
    if isinstance(function, partial):
        return function.func, function.args, function.keywords
    if not is_dataclass(function) or isinstance(function, type):
        return ()
    frozen = type(function).__dataclass_params__.frozen  # type: ignore[attr-defined]
    if frozen or isinstance(function, ReduceOnPlateau):
        return {f.name: getattr(function, f.name) for f in fields(function) if f.init}
    return ()


def label(tree: Params, i: int) -> str:
    """What messages call gradient i."""
    return "grads" if tree.keys is None else f"grads[{tree.keys[i]!r}]"


def refuse_nonfinite(tree: Params, norms: list[float]) -> NoReturn:
    """Raise for the first gradient whose norm is not finite."""
    wrong = "grads: expected a finite global norm, got infinity"
    for i, norm in enumerate(norms):
        if not norm < math.inf:
            wrong = f"{label(tree, i)}: expected finite elements, got ones whose norm is {norm}"
            break
    raise FloatingPointError(f"{wrong}; nothing has been changed")


def adding(
    exchange: Exchange, tree: Params, grads: Any, zeroes: list[bool], to_zero: list[Array] | None
) -> tuple[list[Callable[[], Any]], list[tuple[int, Any, Array]]]:
    """The calls that add gradients, all of functions in C.

    `zeroes`: for each gradient whether it is set to zero, or empty if none is.
    Also what they add, if it has to be looked at one by one: the number of the parameter, the
    gradient, and the same as it is added. What to set to zero after the step comes to `to_zero`.
    """
    every = None if to_zero is None else _every(tree, grads)
    if every and to_zero is not None and (calls := exchange.adding_all(every, bool(zeroes))):
        zeroed = [grad for grad, zero in zip(every, zeroes, strict=False) if zero]
        return [*calls, partial(to_zero.extend, zeroed)], []
    zeroes = zeroes or [False] * len(exchange.seen)
    most = len(exchange.mine)
    entries = _entries(tree, grads)
    given = [(i, one, as_array(tree, i, one, zeroes[i], exchange.dtype)) for i, one in entries]
    calls = []
    for i, grad, array in given:
        if exchange.seen[i] == most:
            raise ValueError(
                f"{label(tree, i)}: expected {most} micro-batches of this rank in a step, got more"
            )
        added, copied = exchange.adding(i, array)
        calls += added
        if grad is not None:
            calls.append(partial(exchange.given.__setitem__, i, True))
            if zeroes[i] and (copied or array.dtype != grad.dtype):
                calls.append(partial(grad.__setitem__, ..., 0))
            elif zeroes[i] and to_zero is not None:
                calls.append(partial(to_zero.append, grad))
    return calls, given


def _every(tree: Params, grads: Any) -> list[Any] | None:
    """All gradients in the order of the parameters; None if that is not what `grads` are."""
    both = isinstance(grads, Mapping) and isinstance(tree.given, Mapping)
    if both and len(grads) != len(tree.given):  # quickly, for gradients that come one by one
        return None
    try:
        found: list[Any] = tree.held.in_order(grads)
        return found
    except (TypeError, ValueError):
        return None


def _entries(tree: Params, grads: Any) -> list[tuple[int, Any]]:
    """The gradients that are given, each with the number of its parameter."""
    keys = tree.keys
    if isinstance(grads, Mapping) and keys is not None:
        places = {key: i for i, key in enumerate(keys)}
        given, found = listed(grads, "grads")
        if odd := [key for key in given or [] if key not in places]:
            raise ValueError(f"grads: expected keys of params, got {odd[0]!r}")
        return [(places[key], grad) for key, grad in zip(given or [], found, strict=True)]
    return list(enumerate(tree.held.in_order(grads)))


def as_array(tree: Params, i: int, grad: Any, zeroed: bool, dtype: np.dtype[Any]) -> Array:
    """Gradient i as `dtype`, C-contiguous, zeros for None; `zeroed`: it must be writable."""
    param = tree.arrays[i]
    fits = type(grad) is np.ndarray and grad.shape == param.shape
    wide: Array = tree.held.wide(grad) if fits and dtype == np.float32 else grad
    if fits and wide.dtype is dtype:
        if zeroed and not (grad.flags.writeable and grad.flags.c_contiguous):
            raise ValueError(
                f"{label(tree, i)}: expected a writable C-contiguous array, because zero_grad "
                "writes it, got a read-only or strided one"
            )
        return np.require(wide, requirements=["C", "A"])
    if grad is None:
        return np.zeros(param.shape, dtype)
    is_array = isinstance(grad, np.ndarray) and not isinstance(grad, np.ma.MaskedArray)
    if is_array and grad.dtype == dtype and grad.shape == param.shape:
        return as_array(tree, i, grad.view(np.ndarray).view(dtype), zeroed, dtype)
    kind = ValueError if is_array and grad.dtype in (dtype, param.dtype) else TypeError
    raise kind(
        f"{label(tree, i)}: expected {_checks.described(param)}, got {_checks.described(grad)}"
    )
