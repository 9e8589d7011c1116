"""States of 8 and 16 bits: which optimizers may have them, and their conversion when loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import _checks, _optim
from .._held import NARROW, wide
from .._places import words_of
from ..checkpoint import check_value
from ..params import Params
from ..reference.halves import split_float32

STATE_DTYPES = ("float32", "bfloat16", "8bit")
MASTERS = ("float32", "remainder", "stochastic")
MOST_ELEMENTS = 2**62


def dtypes_of(dtype: Any) -> dict[str, int]:
    """The dtypes of 16 bits that parameters and gradients may have: from name to storage in C."""
    _checks.check_choice("dtype", dtype, (None, "bfloat16"))
    return NARROW if dtype is None else {**NARROW, "uint16": NARROW["bfloat16"]}


def check_storage(kernel: str, given: Mapping[str, Any], tree: Params) -> None:
    """Raise if the optimizer cannot have the states that `state_dtype` and `master` ask for.

    `given` are the arguments of the constructor at the first step, `tree` the parameters.
    """
    _check_master(given["master"], tree)
    check_state_dtype(kernel, given, tree.arrays[0].dtype)


def check_state_dtype(kernel: str, given: Mapping[str, Any], dtype: np.dtype[Any]) -> None:
    """The same of `state_dtype` alone, for parameters of this dtype."""
    state_dtype = given["state_dtype"]
    _checks.check_choice("state_dtype", state_dtype, STATE_DTYPES)
    expected = "an integer >= 0"
    _checks.check_integer("min_8bit_size", given["min_8bit_size"], 0, MOST_ELEMENTS, expected)
    if state_dtype == "float32":
        return
    row = _optim.ROWS[kernel]
    if not row.narrow_states:
        able = ", ".join(r.name for r in _optim.ROWS.values() if r.narrow_states)
        why = f"for {kernel}, because only {able} have narrow states"
    elif dtype == np.float64:
        why = "for parameters of float64"
    elif given.get("centered"):
        why = "with centered, because what v exceeds the squared mean by is lost in rounding"
    elif all(needed and _is_off(given[needed]) for _, needed, _ in row.states):
        why = "without momentum, because there is no state"
    else:
        return
    raise ValueError(f"state_dtype: expected 'float32' {why}, got {state_dtype!r}")


def _is_off(value: Any) -> bool:
    """Whether it is 0 or False; other types are refused later."""
    return isinstance(value, int | float) and value == 0


def _check_master(master: Any, tree: Params) -> None:
    if master is not None:
        _checks.check_choice("master", master, MASTERS)
    narrow = [i for i, kind in enumerate(tree.held.kinds) if kind]
    if not narrow and master is not None:
        raise ValueError(
            f"master: expected None, because no parameter is float16 or bfloat16, got {master!r}"
        )
    for i in narrow:
        check_master(master, _shown(tree, i), tree.held.kinds[i] == NARROW["float16"])


def check_master(master: Any, param: str, is_float16: bool) -> None:
    """Raise if a parameter of 16 bits, so described, cannot be stepped so."""
    if master is None:
        raise ValueError(
            f"master: expected 'float32', 'remainder' or 'stochastic' for {param}, because most "
            "updates are smaller than its roundings, got None"
        )
    if is_float16 and master != "float32":
        raise ValueError(
            f"master: expected 'float32' for {param}, because {master!r} is for bfloat16, whose "
            f"bits are the upper ones of a float32, got {master!r}"
        )


def _shown(tree: Params, i: int) -> str:
    key = "" if tree.keys is None else f"[{tree.keys[i]!r}]"
    return f"params{key} of {tree.arrays[i].dtype}"


class Stored:
    """The part of an optimizer that stores and converts narrow states."""

    _kernel: ClassVar[str]
    _plan: Any
    _params: Any

    def state_values(self, name: str) -> Any:
        """What a state stands for: a copy for each parameter, in the structure of `params`.

        "master" stands for the parameters in float32, whatever `master` is.

        Parameters
        ----------
        name : key of `state`, such as "m", or "master" where parameters are narrow

        Raises
        ------
        ValueError
            For an unknown name.
        """
        known = [name for name in self._plan.states if not name.endswith(("_scale", "remainder"))]
        if any(self._params.held.kinds) and "master" not in known:
            known.append("master")
        _checks.check_choice("name", name, known)
        count = len(self._params.arrays)
        return self._params.like([as_numbers(self, name, i) for i in range(count)])


def as_numbers(opt: Stored, name: str, i: int) -> NDArray[Any]:
    """What state `name` of parameter i stands for, a copy in the shape of the parameter."""
    plan, param, kind = opt._plan, opt._params.arrays[i], opt._params.held.kinds[i]
    if name == "master" and (not kind or name not in plan.states):
        low = plan.states.get("remainder")
        found: NDArray[Any] = wide(param, kind, low and low[i])
        return found
    words, scale = plan.states[name][i], (plan.states.get(f"{name}_scale") or {i: None})[i]
    if words.dtype != np.uint32:
        return np.array(words)
    values = np.empty(param.shape, np.float32)
    _optim.convert_state(opt._kernel, name, words, scale, values, 0, 0, False)
    return values


def as_stored(opt: Stored, state: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """A state dict with its states as this optimizer stores them: float32, bfloat16 or 8 bits.

    Anything else stays as it is, and the checks refuse it. The second result is what loading it
    writes to parameters, as from `convert_masters`.
    """
    plan, tree = opt._plan, opt._params
    if not isinstance(state, Mapping) or tree.arrays[0].dtype == np.float64:
        return state, []
    found = dict(state)
    names = [name for name, _, _ in _optim.ROWS[opt._kernel].states if name in plan.states]
    for name in names:
        keys = list(tree.named(name, tree.arrays))
        scale_keys = list(tree.named(f"{name}_scale", tree.arrays))
        scales = plan.states.get(f"{name}_scale") or [None] * len(keys)
        for i, (key, scale_key) in enumerate(zip(keys, scale_keys, strict=True)):
            words, shape = plan.states[name][i], tree.arrays[i].shape
            old, old_scale = state.get(key), state.get(scale_key)
            kind = kind_of_state(old, old_scale, shape)
            if kind is None or kind == kind_of_state(words, scales[i], shape):
                continue
            values = np.empty(shape, np.float32)
            step, (seed, first, _) = _step_of(state, i), plan.parts[i]
            if kind == "float32":
                values[...] = old
            else:
                old = np.ascontiguousarray(old)
                old_scale = None if old_scale is None else np.ascontiguousarray(old_scale)
                _optim.convert_state(opt._kernel, name, old, old_scale, values, 0, 0, False)
            found.pop(scale_key, None)
            found[key] = values
            if words.dtype == np.uint32:
                found[key] = np.zeros_like(words)
                if scales[i] is not None:
                    found[scale_key] = np.zeros_like(scales[i])
                to = found[key], found.get(scale_key)
                _optim.convert_state(opt._kernel, name, *to, values, seed, step, True, first)
    return found, convert_masters(plan, tree, found)


def convert_masters(plan: Any, tree: Params, found: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Change what the state dict `found` has of masters to what the optimizer keeps.

    Returns what loading it writes to parameters: arrays, and their new elements. The lower halves
    of parameters belong to those that the optimizer has now.
    """
    masters, lows = (list(tree.named(name, tree.arrays)) for name in ("master", "remainder"))
    keeps = next((name for name in ("master", "remainder") if name in plan.states), None)
    wanted = [keeps if kind else None for kind in tree.held.kinds]
    given = ["master" if m in found else "remainder" if low in found else None
             for m, low in zip(masters, lows, strict=True)]  # fmt: skip
    if given == wanted:
        return []
    writes: list[tuple[Any, Any]] = []
    with tree.held.locked("load_state_dict"):  # not within averaged()
        for i, (master, low) in enumerate(zip(masters, lows, strict=True)):
            if given[i] != wanted[i] and not (master in found and low in found):
                _convert_master(tree, i, master, low, wanted[i], found, writes)
    return writes


def _convert_master(
    tree: Params, i: int, master: str, low: str, wanted: str | None, found: dict[str, Any],
    writes: list[tuple[Any, Any]],
) -> None:  # fmt: skip
    """Let the state of parameter i have the entry `wanted` in the place of what it has."""
    param, kind = tree.arrays[i], tree.held.kinds[i]
    if master not in found and low not in found:
        raise ValueError(
            f"state: expected {master!r}, the parameter in float32, got neither that nor "
            f"{low!r}; add it, as in {{**state, {master!r}: weights}}"
        )
    if wanted is None and kind:
        name = master if master in found else low
        raise ValueError(
            f"state: expected no {name!r}, because 'stochastic' keeps nothing but the "
            "parameters; leave it out if they may be rounded"
        )
    if master in found:
        check_value(np.empty(param.shape, np.float32), found[master], f"state[{master!r}]")
        if not param.flags.writeable:
            what = _shown(tree, i)
            raise ValueError(f"{what}: expected a writable array to set to {master!r}")
        value = found.pop(master)
        if wanted:
            value, found[low] = split_float32(value)
            param = param.view(np.uint16)
        writes.append((param, np.array(value)))
    elif kind == NARROW["bfloat16"]:
        check_value(np.empty(param.shape, np.uint16), found[low], f"state[{low!r}]")
        found[master] = wide(param, kind, np.ascontiguousarray(found.pop(low)))
    else:
        raise ValueError(
            f"state: expected {master!r} for {_shown(tree, i)}, got {low!r}; of the bfloat16 "
            "parameter it belongs to, pyoptk.reference.join_float32 makes that"
        )


def kind_of_state(array: Any, scale: Any, shape: tuple[int, ...]) -> str | None:
    """How a state is stored, a member of STATE_DTYPES; None if it fits none."""
    size = int(np.prod(shape))
    if type(array) is not np.ndarray:
        return None
    if array.dtype == np.float32 and array.shape == shape and scale is None:
        return "float32"
    if array.dtype != np.uint32:
        return None
    if scale is None:
        return "bfloat16" if array.shape == (words_of(size, "bfloat16"),) else None
    fits = type(scale) is np.ndarray and scale.dtype == np.float32
    fits = fits and scale.shape == (-(-size // 256),)
    return "8bit" if fits and array.shape == (words_of(size, "8bit"),) else None


def _step_of(state: Mapping[str, Any], i: int) -> int:
    steps = state.get("steps")
    if type(steps) is np.ndarray and steps.dtype == np.int64 and steps.shape > (i,):
        return int(steps[i]) if steps.ndim == 1 else 0
    return 0
