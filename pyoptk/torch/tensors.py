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

ScriptList: Any = getattr(torch._C, "ScriptList", None)

__all__ = ["Parameter", "Tensor", "increment_version"]
SUPPORTED = (torch.float32, torch.float64)
STATE_DTYPES = {"float32": 0, "bfloat16": 1, "8bit": 3}  # the numbers of pk_storage
_KINDS = {number: kind for kind, number in STATE_DTYPES.items()}


def name_of(groups: list[dict[str, Any]], group: int, place: int) -> str:
    """What messages call a parameter: the name that it was given, or where it is."""
    names = groups[group].get("param_names")
    return str(names[place]) if names else f"param_groups[{group}]['params'][{place}]"


def names_of_states(keys: tuple[str, ...], most: int) -> tuple[str, ...]:
    """Those of the states, filled up to as many as a kernel has, then those of their scales."""
    filled = (*keys, "", "")[:most]
    return (*filled, *(f"{key}_scale" for key in filled))


# ---- what is refused -----------------------------------------------------------------------------


def check_type(tensor: Any, name: str) -> None:
    """Raise if this is no tensor, or one that has its elements elsewhere."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(
            f"{name}: expected a plain tensor in the memory of the CPU, got {type(tensor).__name__}"
        )


def check_parameter(tensor: Any, name: str) -> None:
    """Raise if no step can change this tensor."""
    check_type(tensor, name)
    if (
        tensor.dtype not in SUPPORTED
        or tensor.device.type != "cpu"
        or tensor.layout is not torch.strided
    ):
        refuse(tensor, name)


def refuse(tensor: Any, name: str) -> NoReturn:
    """Say why a step cannot take a tensor."""
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{name}: expected a dense tensor, got layout {tensor.layout}; "
            "its to_dense() is one, torch.optim.SparseAdam takes sparse gradients"
        )
    if tensor.device.type != "cpu":
        raise TypeError(f"{name}: expected a tensor on the CPU, got one on {tensor.device}")
    narrow = tensor.dtype in (torch.bfloat16, torch.float16)
    advice = "; step a float32 copy of it, whose gradient may be narrow" if narrow else ""
    raise TypeError(f"{name}: expected torch.float32 or torch.float64, got {tensor.dtype}{advice}")


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
    narrow = ", torch.bfloat16 or torch.float16" if p.dtype == torch.float32 else ""
    raise TypeError(f"{name}: expected {p.dtype}{narrow}, got {grad.dtype}")


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
    state: dict[str, Any], row: Any, keys: tuple[str, ...], hyper: dict[str, Any], whole: Tensor,
    group: dict[str, Any], kind: int, seed: int,
) -> list[str]:  # fmt: skip
    """Make those of the states that are missing, as they are before the first step; their names.

    Their memory is NumPy's: where arrays begin changes the speed of a step, see _places.py.
    """
    pairs = zip(row.state_names(hyper), keys, strict=False)  # PyTorch may have fewer
    missing = {ours: key for ours, key in pairs if ours and state.get(key) is None}
    place: list[tuple[int, tuple[int, ...]]] = [(whole.data_ptr(), (whole.numel(),))]
    dtype = np.dtype("f4" if whole.dtype == torch.float32 else "f8")
    arrays = states_for(place, list(missing), dtype, _KINDS[kind], 0)
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
    return names


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
    if value.shape != whole.shape:
        refuse_shape(value, whole, name)
    value = torch.empty_like(whole.detach()).copy_(value)
    state.pop(f"{key}_scale", None)
    if kind:
        flat = value.as_strided((value.numel(),), (1,)).numpy()
        words = np.zeros(words_of(flat.size, _KINDS[kind]), np.uint32)
        scale = np.zeros(-(-flat.size // 256), np.float32) if _KINDS[kind] == "8bit" else None
        steps = int(state.get("step", 0))
        convert_state(kernel, ours, words, scale, flat, seed, steps, True)
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
def put_back(copies: list[tuple[Tensor, Tensor]]) -> None:
    """Write what `arranged` has copied."""
    for p, whole in copies:
        p.copy_(whole)
