"""What the compiled step (_tensors.pyx) asks Python for: missing states, rare layouts, messages."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from .._optim import ROWS, convert_state
from .._places import begin_at, states_for, words_of
from ..optim.narrow import check_master
from ..reference.halves import join_float32, split_float32

ScriptList: Any = getattr(torch._C, "ScriptList", None)

__all__ = ["Parameter", "Tensor", "increment_version"]
HALVES = (torch.bfloat16, torch.float16)
SUPPORTED = (torch.float32, torch.float64, *HALVES)
STATE_DTYPES = {"float32": 0, "bfloat16": 1, "8bit": 3}  # the numbers of pk_storage
_KINDS = {number: kind for kind, number in STATE_DTYPES.items()}
MASTERS = {None: 0, "float32": 1, "remainder": 2, "stochastic": 3}
# By `master`, what belongs to a narrow parameter besides its states, and its dtype.
_BESIDE = {"float32": ("master", torch.float32), "remainder": ("remainder", torch.int16)}
BESIDE = tuple(name for name, _ in _BESIDE.values())


def name_of(groups: list[dict[str, Any]], group: int, place: int) -> str:
    """What messages call a parameter: the name that it was given, or where it is."""
    names = groups[group].get("param_names")
    return str(names[place]) if names else f"param_groups[{group}]['params'][{place}]"


def names_of_states(keys: tuple[str, ...], most: int) -> tuple[str, ...]:
    """Those of what a step writes in the order of _listed.pxd; as many states as a kernel has."""
    filled = (*keys, "", "")[:most]
    return (*filled, *(f"{key}_scale" for key in filled), "remainder", "master")


def keeps_dtype(name: str, value: Any, narrow: bool) -> bool:
    """Whether a state of a checkpoint stays as it is, where PyTorch gives it its parameter's."""
    return isinstance(value, Tensor) and (
        not value.is_floating_point() or (narrow and name != "step")
    )


# ---- what is refused -----------------------------------------------------------------------------


def check_type(tensor: Any, name: str) -> None:
    """Raise if this is no tensor, or one that has its elements elsewhere."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(
            f"{name}: expected a plain tensor in the memory of the CPU, got {type(tensor).__name__}"
        )


def check_parameter(tensor: Any, name: str, master: str | None) -> None:
    """Raise if no step can change this tensor."""
    check_type(tensor, name)
    if (
        tensor.dtype not in SUPPORTED
        or tensor.device.type != "cpu"
        or tensor.layout is not torch.strided
    ):
        refuse(tensor, name)
    if tensor.dtype in HALVES:
        check_master(master, f"{name} of {tensor.dtype}", tensor.dtype == torch.float16)


def refuse(tensor: Any, name: str) -> NoReturn:
    """Say why a step cannot take a tensor."""
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{name}: expected a dense tensor, got layout {tensor.layout}; "
            "its to_dense() is one, torch.optim.SparseAdam takes sparse gradients"
        )
    if tensor.device.type != "cpu":
        raise TypeError(f"{name}: expected a tensor on the CPU, got one on {tensor.device}")
    raise TypeError(
        f"{name}: expected torch.float32, torch.float64, torch.bfloat16 or torch.float16, got "
        f"{tensor.dtype}"
    )


def refuse_shape(grad: Tensor, p: Tensor, name: str) -> NoReturn:
    raise ValueError(
        f"{name}: expected shape {tuple(p.shape)} like its parameter, got {tuple(grad.shape)}"
    )


def refuse_scale(scale: Tensor, name: str, blocks: int) -> NoReturn:
    raise ValueError(
        f"{name}: expected {blocks} numbers of float32 in order, got {scale.dtype} "
        f"{tuple(scale.shape)}"
    )


def refuse_gradient(grad: Tensor, p: Tensor, name: str) -> NoReturn:
    fits = "float64" if p.dtype == torch.float64 else "float32, torch.bfloat16 or torch.float16"
    raise TypeError(f"{name}: expected torch.{fits}, got {grad.dtype}")


# ---- what is made --------------------------------------------------------------------------------


@torch.no_grad()
def arranged(p: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """A parameter and its gradient, dense and in the same order; copies where they are not."""
    whole = p
    like = torch.empty_like(p)
    if like.stride() != p.stride() or p.is_neg():
        whole = like.copy_(p)
    if grad.stride() != whole.stride() or grad.is_neg():
        grad = torch.empty_like(whole, dtype=grad.dtype).copy_(grad)
    return whole, grad


@torch.no_grad()
def made(
    state: dict[str, Any], row: Any, keys: tuple[str, ...], hyper: dict[str, Any], p: Tensor,
    whole: Tensor, group: dict[str, Any], kind: int, seed: int,
) -> tuple[list[str], Tensor]:  # fmt: skip
    """Make what is missing of the states, as it is before the first step; also a master.

    Their memory is NumPy's: where arrays begin changes the speed of a step, see _places.py. Returns
    their names and `whole`, or in its place the copy that is to be stepped.
    """
    pairs = zip(row.state_names(hyper), keys, strict=False)  # PyTorch may have fewer
    missing = {ours: key for ours, key in pairs if ours and state.get(key) is None}
    dtype, halves = np.dtype("f8" if whole.dtype == torch.float64 else "f4"), whole.dtype in HALVES
    at = 0 if halves else whole.data_ptr()
    beside, its_dtype = _BESIDE.get(hyper["master"] if halves else "", ("", None))
    master = hyper["master"] if beside and found(state, beside) is None else None
    place: list[tuple[int, tuple[int, ...]]] = [(at, (whole.numel(),))]
    arrays = states_for(place, list(missing), dtype, _KINDS[kind], 0, master, [int(halves)])
    names = []
    for ours, key in missing.items():
        array, scale = arrays[ours][0], arrays.get(f"{ours}_scale", [None])[0]
        if key == "sum":
            value = float(group["initial_accumulator_value"])
            begin_at(row.name, ours, array, scale, value, whole.numel(), seed)
        if kind:
            state[key] = torch.from_numpy(array.view(np.uint8))
        else:
            state[key] = torch.from_numpy(array).as_strided(whole.shape, whole.stride())
        names.append(key)
        if scale is not None:
            state[f"{key}_scale"] = torch.from_numpy(scale)
            names.append(f"{key}_scale")
    if master is not None:
        value = torch.from_numpy(arrays[beside][0].view(f"i{its_dtype.itemsize}")).view(its_dtype)
        state[beside] = value.as_strided(whole.shape, whole.stride())
        names.append(beside)
        whole = begin_master(state, beside, p, whole)
    return names, whole


def found(state: dict[str, Any], name: str) -> Tensor | None:
    """The master or the remainder among the states, if a step has left it as it is.

    `torch.optim` makes all states bfloat16, and does not change this one when it takes a step.
    """
    value: Tensor | None = state.get(name)
    return value if value is not None and value.dtype == dict(_BESIDE.values())[name] else None


def begin_master(state: dict[str, Any], name: str, p: Tensor, whole: Tensor) -> Tensor:
    """Let what was made for a parameter begin at its number, which the other one may tell.

    Returns `whole`, or the copy with the upper halves of a master, which is to be stepped.
    """
    before = found(state, BESIDE[name == "master"])
    if before is None:
        if name == "master":
            state[name].copy_(whole)
        return whole
    before = reordered({"": before}, "", whole, name)
    if name == "master":
        halves = (flat(x.view(torch.int16)).numpy().view(np.uint16) for x in (whole, before))
        flat(state[name]).copy_(torch.from_numpy(join_float32(*halves)))
        return whole
    high, low = (torch.from_numpy(x.view(np.int16)) for x in split_float32(flat(before).numpy()))
    whole = whole.clone() if whole is p else whole
    flat(whole.view(torch.int16)).copy_(high)
    flat(state[name]).copy_(low)
    return whole


def flat(tensor: Tensor) -> Tensor:
    """Its elements in the order of their memory, which is dense."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


@torch.no_grad()
def reordered(state: dict[str, Any], key: str, whole: Tensor, name: str) -> Tensor:
    """A state in the order of its parameter, in the place of what is there."""
    value: Tensor = state[key]
    if value.shape != whole.shape:
        refuse_shape(value, whole, name)
    state[key] = torch.empty_like(whole.detach(), dtype=value.dtype).copy_(value)
    ordered: Tensor = state[key]
    return ordered


@torch.no_grad()
def refitted(
    state: dict[str, Any], kernel: str, slot: int, key: str, whole: Tensor, name: str, kind: int,
    seed: int,
) -> Tensor:  # fmt: skip
    """A state as this step stores it, in the place of what is there.

    Loading a checkpoint may leave it in another format or layout, or as another program had it.
    """
    ours, value = ROWS[kernel].states[slot][0], state[key]
    if value.dtype == torch.uint8:
        value = decoded(kernel, ours, value, state.get(f"{key}_scale"), whole, name)
    wide = torch.float32 if whole.dtype in HALVES else whole.dtype
    value = reordered({"": value.to(wide)}, "", whole, name)
    state.pop(f"{key}_scale", None)
    if kind:
        numbers = flat(value).numpy()
        words = np.zeros(words_of(numbers.size, _KINDS[kind]), np.uint32)
        scale = np.zeros(-(-numbers.size // 256), np.float32) if _KINDS[kind] == "8bit" else None
        steps = int(state.get("step", 0))
        convert_state(kernel, ours, words, scale, numbers, seed, steps, True)
        value = torch.from_numpy(words.view(np.uint8))
        if scale is not None:
            state[f"{key}_scale"] = torch.from_numpy(scale)
    state[key] = value
    return value


def decoded(
    kernel: str, ours: str, narrow: Tensor, scale: Tensor | None, like: Tensor, name: str
) -> Tensor:
    """What a narrow state stands for, in the shape and the order of its parameter."""
    size, kind = like.numel(), "bfloat16" if scale is None else "8bit"
    expected = 4 * words_of(size, kind), -(-size // 256)
    got = narrow.numel(), expected[1] if scale is None else scale.numel()
    if got != expected:
        raise ValueError(
            f"{name}: expected {expected[0]} bytes and {expected[1]} scales in 8 bits, or "
            f"{4 * words_of(size, 'bfloat16')} bytes of bfloat16, for {tuple(like.shape)}, got "
            f"{got[0]} bytes and {'no scales' if scale is None else f'{got[1]} scales'}"
        )
    words = narrow.clone().reshape(-1).numpy().view(np.uint32)
    scales = None if scale is None else scale.clone().reshape(-1).float().numpy()
    values = np.empty(size, np.float32)
    convert_state(kernel, ours, words, scales, values, 0, 0, False)
    return torch.from_numpy(values).as_strided(like.shape, torch.empty_like(like).stride())


def held(tensors: list[Tensor]) -> Any:
    """Lets the states among these have an owner in C++, too, or is False.

    PyTorch takes a lock whenever it looks at a tensor that only Python owns: with a list of
    TorchScript that has it as well, its address and its version take a third of the time. Not for
    parameters: through their hooks they may own their optimizer, which nobody could collect then.
    """
    states = [t for t in tensors if not t.requires_grad]
    return ScriptList(states) if ScriptList is not None and states else False


def counter(state: dict[str, Any], start: int) -> Tensor:
    """The tensor that counts the steps, made of the number that is there, or of `start`."""
    double = torch.get_default_dtype() == torch.float64
    state["step"] = torch.tensor(
        float(state.get("step", start)), dtype=torch.float64 if double else torch.float32
    )
    value: Tensor = state["step"]
    return value


@torch.no_grad()
def settle(copies: list[tuple[Tensor, Tensor]], made: list[tuple[dict[str, Any], Any]]) -> None:
    """After a step, write back what it has copied, and drop what belongs to another `master`."""
    for p, whole in copies:
        p.copy_(whole)
    for state, names in made:
        for beside, other in (BESIDE, BESIDE[::-1]):
            if beside in names or not names:
                state.pop(other, None)


def undo(made: list[tuple[dict[str, Any], Any]]) -> None:
    """Remove the states that a refused step has made."""
    for state, names in made:
        for name in names:
            del state[name]
