"""Checks of arguments that need no C, for the compiled modules and for the Python ones.

Every function raises an error that starts with the argument's name, then says what was expected
and what came; otherwise it returns the value in the form that its caller uses, or None. Private.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from operator import index
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._elsewhere import question

# What is expected, in words; what converts the value or raises TypeError; whether it is allowed.
Rule = tuple[str, Callable[[Any], Any], Callable[[Any], Any]]
NO_FORWARD = (
    "backward: expected a forward with train=True before it, got none since the last backward; "
    "for two forwards before a backward, run the second on .shared()"
)


def real(value: Any) -> float:
    """The value as float; TypeError for a str, which float() alone would accept."""
    return float(value / 1)


def checked(rules: Mapping[str, Rule], name: str, value: Any, shown: str | None = None) -> Any:
    """The value as the rule of `name` converts it; an error calls it `shown`, else `name`."""
    expected, convert, accepts = rules[name]
    try:
        converted = convert(value)
        fits = accepts(converted)
    except TypeError:
        raise TypeError(f"{shown or name}: expected {expected}, got {value!r}") from None
    except OverflowError:
        fits = False
    if not fits:
        raise ValueError(f"{shown or name}: expected {expected}, got {value!r}")
    return converted


def described(array: object) -> str:
    """What was passed, for error messages: "float32 (3, 4)", or the type if it is not an array."""
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {array.shape}"
    return type(array).__name__


def advice(array: Any) -> str:
    """For error messages: the call that makes an array of the value, or an empty string."""
    named = isinstance(array, tuple) and array and isinstance(array[0], str)
    if hasattr(array, "named_parameters") or named:
        call = "{n: p.detach().numpy() for n, p in module.named_parameters()} shares its memory"
    elif hasattr(array, "detach"):
        call = "its .detach().numpy() shares its memory"
    elif hasattr(array, "forward") and hasattr(array, "params"):
        call = "its .params are some"
    elif hasattr(array, "to_numpy"):
        call = "its .to_numpy(copy=True) is one"
    elif hasattr(array, "numpy"):
        call = "its .numpy() is one"
    elif isinstance(array, Mapping) and "params" in array:
        call = "groups= sets what differs, as in groups={'*bias': {'lr': 0.1}}"
    elif hasattr(array, "__array__") and not isinstance(array, np.ndarray):
        call = "numpy.array(...) makes one"
    else:
        return ""
    return f"; {call}"


def got(array: NDArray[Any], given: Any) -> str:
    """For error messages: the array that was made of an argument, and advice if needed."""
    return f"{described(array)}{advice(given)}"


def as_rows(name: str, x: Any, dtype: np.dtype[Any], columns: int) -> NDArray[Any]:
    """x [..., columns] as a contiguous matrix, of this dtype."""
    from ._sequences import plain  # which imports this file

    given = plain(name, x, f"{dtype} (..., {columns})")
    if given.dtype != dtype:
        cast = f"; {name}.astype(numpy.{dtype}) has that dtype" if given.dtype.kind in "fiu" else ""
        raise TypeError(f"{name}: expected {dtype} (..., {columns}), got {got(given, x)}{cast}")
    if given.ndim == 0 or given.shape[-1] != columns:
        raise ValueError(f"{name}: expected {dtype} (..., {columns}), got {got(given, x)}")
    return np.ascontiguousarray(given).reshape(-1, columns)


# ---- numbers, switches and names -----------------------------------------------------------------


def number(name: str, value: Any, low: float, high: float, expected: str) -> float:
    """The value as a float with low <= value < high."""
    if type(value) is float and low <= value < high:
        return value
    if value is True or value is False:  # a limit mistaken for a switch
        raise TypeError(f"{name}: expected {expected}, got {value}")
    try:
        converted = value.__float__() if hasattr(value, "__float__") else float(index(value))
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}") from None
    except OverflowError:
        converted = float("inf")
    if not low <= converted < high:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return float(converted)


def float32_number(name: str, value: Any) -> float:
    """The value as a float >= 0 of which kernels make a float32."""
    most = float(np.finfo(np.float32).max)
    return number(name, value, 0, most, "a number >= 0 that float32 can hold")


def check_switch(name: str, value: Any) -> bool:
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def check_switches(**switches: Any) -> None:
    for name, value in switches.items():
        check_switch(name, value)


def check_integer(name: str, value: Any, low: int, high: int, expected: str) -> int:
    """The value as an int with low <= value < high."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    if not low <= value < high:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return int(value)


def check_uint64(name: str, value: Any) -> int:
    return check_integer(name, value, 0, 2**64, "an integer in 0..2**64-1")


def check_sizes(**sizes: Any) -> None:
    for name, size in sizes.items():
        check_integer(name, size, 1, 2**63, "an integer >= 1")


def check_arguments(given: Iterable[str], described: Iterable[str]) -> None:
    """Raise unless a constructor's arguments are those that the optimizer's description lists."""
    if set(given) != set(described):
        wrong = ", ".join(sorted(set(given) ^ set(described)))
        raise TypeError(f"{wrong}: expected the hyper-parameters of csrc/optimizers.c alone")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise unless the value is one of the choices."""
    try:
        known = value in choices
    except (TypeError, ValueError):  # such as a dict or an array
        known = False
    if not known:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")


# ---- what an optimizer takes ---------------------------------------------------------------------

# These belong to the step as a whole.
_NOT_IN_GROUPS = (
    "grad_scale",
    "max_norm",
    "max_norm_eps",
    "max_norm_per_array",
    "ema_from_first_step",
    "on_nonfinite",
)


def in_order(keys: list[Any], mapping: bool, grads: Any, name: str = "grads") -> list[Any]:
    """The gradients as a list in the order of the parameters; for what `Held.in_order` does not."""
    if mapping:
        if not isinstance(grads, Mapping):
            help_ = "; its .grads is one" if hasattr(grads, "grads") else ""
            raise TypeError(f"{name}: expected a dict like params, got {described(grads)}{help_}")
        missing = [key for key in keys if key not in grads]
        if missing:
            help_ = " (None leaves a parameter alone)" if name.startswith("grads") else ""
            raise ValueError(
                f"{name}: expected {len(keys)} keys, got none for "
                f"{', '.join(map(repr, missing))}{help_}"
            )
        if len(grads) != len(keys):
            extra = ", ".join(repr(key) for key in grads if key not in keys)
            raise ValueError(f"{name}: expected the keys of params, got {extra} too")
        return [grads[key] for key in keys]
    if not isinstance(grads, list | tuple):
        raise TypeError(f"{name}: expected a list or tuple like params, got {described(grads)}")
    listed = list(grads)
    if len(listed) != len(keys):
        raise ValueError(f"{name}: expected {len(keys)} arrays, got {len(listed)}")
    return listed


def gathered(tree: Any, grads: Any, name: str) -> list[Any]:
    """The arrays of nested dicts and lists in the order of `tree`, which is their structure.

    None in the place of an inner dict or list stands for None for each of its arrays.
    """
    mapping = isinstance(tree, dict)
    below = list(tree.values()) if mapping else tree
    keys = list(tree) if mapping else list(range(len(tree)))
    found = []
    for key, sub, grad in zip(keys, below, in_order(keys, mapping, grads, name), strict=True):
        if isinstance(sub, int):
            found.append(grad)
        elif grad is None:
            found += [None] * len(_numbers(sub))
        else:
            found += gathered(sub, grad, f"{name}[{key!r}]")
    return found


def _numbers(tree: Any) -> list[int]:
    """The numbers in nested dicts and lists."""
    if isinstance(tree, int):
        return [tree]
    below = tree.values() if isinstance(tree, dict) else tree
    return [number for sub in below for number in _numbers(sub)]


def check_narrow(
    array: NDArray[Any], name: str, shape: tuple[int, ...], like: str, writer: str | None
) -> None:
    """Raise if an array of 16-bit numbers cannot be taken; `writer` is what writes it."""
    if type(array) is not np.ndarray or not array.dtype.isnative:
        raise TypeError(
            f"{name}: expected a plain array in native byte order, got {described(array)}"
        )
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape} like {like}, got {array.shape}")
    if writer and not array.flags.carray:
        raise ValueError(
            f"{name}: expected a writable C-contiguous array, because {writer} writes it, got a "
            "read-only or strided one"
        )


def check_matches(what: str, pattern: str, names: list[str]) -> None:
    """Raise if the pattern matches no name, because it would silently have no effect."""
    if not any(fnmatchcase(name, pattern) for name in names):
        raise ValueError(
            f"{what}: expected a pattern of {', '.join(names)}, got one that matches none"
        )


def check_patterns(name: str, value: Any, names: list[str]) -> tuple[str, ...]:
    """The patterns as a tuple; raises if they are not a list or tuple of str."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{name}: expected a list or tuple of str, got {value!r}")
    for i, pattern in enumerate(value):
        check_matches(f"{name}[{i}] = {pattern!r}", pattern, names)
    return tuple(value)


def check_entries(given: Any, keys: list[Any], arrays: list[Any]) -> list[Any]:
    """The entries of the dict or list `given`; raises unless each is the memory of its array."""
    given = dict(given) if isinstance(given, dict) else list(given)  # another thread may change it
    if len(given) != len(keys):
        raise ValueError(
            f"params: expected the {len(keys)} arrays that it had at first, got {len(given)}; make "
            "a new optimizer for others"
        )
    for key, array in zip(keys, arrays, strict=True):
        entry = given.get(key) if isinstance(given, dict) else given[key]
        if entry is not array and (_layout(entry) is None or _layout(entry) != _layout(array)):
            raise ValueError(
                f"params[{key!r}]: expected the array that it was at first, got another: write "
                f"into that one, params[{key!r}][...] = new, or make a new optimizer"
            )
    return [given[key] for key in keys]


def _layout(array: Any) -> Any:
    """Address, shape, strides and dtype: equal for views of the same elements."""
    if isinstance(array, np.ndarray):
        return array.ctypes.data, array.shape, array.strides, array.dtype
    return None


def check_groups(
    groups: Any, hyper: Mapping[str, Any], names: list[str], patterns: list[str] | None = None
) -> None:
    """Raise unless every pattern of `groups` matches a name and sets only what may differ.

    `patterns`: the required ones, in their order.
    """
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups: expected None or a dict of dicts, got {groups!r}")
    if patterns is not None and list(groups) != patterns:
        raise ValueError(f"groups: expected the patterns {patterns}, got {list(groups)}")
    for pattern, own in groups.items():
        if not isinstance(pattern, str) or not isinstance(own, Mapping):
            raise TypeError(
                f"groups[{pattern!r}]: expected a dict for a pattern of type str, got {own!r}"
            )
        check_matches(f"groups[{pattern!r}]", pattern, names)
        for name in own:
            if name not in hyper or name in _NOT_IN_GROUPS:
                raise ValueError(
                    f"groups[{pattern!r}]: expected hyper-parameters that may differ, got {name!r}"
                    f"{question(name, hyper)}"
                )


def refuse_states(
    had: Sequence[str | None],
    needed: Sequence[str | None],
    needed_by: Mapping[str, str],
    hyper: Mapping[str, Any],
) -> NoReturn:
    """Raise an error that says which hyper-parameter needs a missing state, or the reverse."""
    before, now = next(pair for pair in zip(had, needed, strict=True) if pair[0] != pair[1])
    state = before or now or ""
    name = needed_by.get(state, "ema_decay")
    raise ValueError(
        f"{name}: expected to be {'on' if before else 'off'} in every group and from the start, "
        f"because of its state {state}, got {hyper[name]!r}"
    )


def check_state(which: str, state: Mapping[str, Any]) -> None:
    """Raise unless the numbers of an optimizer's state_dict are valid."""
    if state["kernel"] != which:
        raise ValueError(f"state['kernel']: expected {which!r}, got {state['kernel']!r}")
    for name in ("calls", "skipped"):
        try:
            count = index(state[name])
        except TypeError:
            raise TypeError(f"state[{name!r}]: expected an integer, got {state[name]!r}") from None
        if not 0 <= count < 2**63:
            raise ValueError(f"state[{name!r}]: expected an integer in 0..2**63 - 1, got {count}")
    if (state["steps"] < 0).any():
        raise ValueError(f"state['steps']: expected numbers >= 0, got {state['steps'].min()}")


# ---- what a recurrent layer takes ----------------------------------------------------------------


def check_takes_rows(name: str, grad: Any, rows: Any, row: Any, on: str | None) -> None:
    """Raise if the optimizer `row`, one of `rows`, or the option `on` needs a dense gradient."""
    why = f" where {on} is on" if on else ""
    if not row.sparse_rows:
        able = ", ".join(other.name for other in rows if other.sparse_rows)
        why = f", because of all kernels only {able} step single rows"
    if why:
        raise TypeError(f"{name}: expected an array{why}, got {grad}; its dense() is one")


def check_float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        given = np.dtype(dtype) if dtype is not None else None
    except TypeError:
        given = None
    if given is None or given not in (np.float32, np.float64) or not given.isnative:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}")
    return given


def check_compute(compute: Any, dtype: np.dtype[Any]) -> str | None:
    """The dtype of products, or None if it is `dtype`."""
    narrow = ("bfloat16",) if dtype == np.float32 else ()
    check_choice("compute", compute, (None, dtype.name, *narrow))
    return "bfloat16" if compute == "bfloat16" else None


def check_fraction(name: str, p: Any) -> float:
    """`p` as a float in [0, 1) that does not become 1 where dropout rounds it."""
    fraction = number(name, p, 0, 1, "a number in [0, 1)")
    if fraction * 2**16 + 0.5 >= 2**16:
        raise ValueError(
            f"{name}: expected a number that does not round to 1 in steps of 2**-16, got {p!r}"
        )
    return fraction


def check_dropout(p: Any, seed: Any, num_layers: int) -> float:
    """`p` as a float; `seed` is None or a number that dropout takes."""
    fraction = check_fraction("dropout", p)
    if fraction > 0 and num_layers == 1:
        raise ValueError(
            f"dropout: expected 0 for one layer, as it acts between layers, got {fraction}"
        )
    if seed is not None:
        check_uint64("seed", seed)
    return fraction


def check_rng(rng: Any) -> None:
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator or None, got {type(rng).__name__}")
