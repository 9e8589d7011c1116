"""What the compiled step (_tensors.pyx) asks Python for: missing states, rare layouts, messages."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from .._places import states_beside

__all__ = ["Parameter", "Tensor", "increment_version"]
SUPPORTED = (torch.float32, torch.float64)


def name_of(groups: list[dict[str, Any]], group: int, place: int) -> str:
    """What messages call a parameter: the name that it was given, or where it is."""
    names = groups[group].get("param_names")
    return str(names[place]) if names else f"param_groups[{group}]['params'][{place}]"


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
    state: dict[str, Any], keys: tuple[str | None, ...], whole: Tensor, group: dict[str, Any]
) -> list[str]:
    """Make those of the states that are missing, as they are before the first step; their names.

    Their memory is NumPy's: where arrays begin changes the speed of a step, see _places.py.
    """
    missing = [key for key in keys if key is not None and state.get(key) is None]
    place: list[tuple[int, tuple[int, ...]]] = [(whole.data_ptr(), (whole.numel(),))]
    dtype = np.dtype("f4" if whole.dtype == torch.float32 else "f8")
    for key, array in zip(missing, states_beside(place, len(missing), dtype)[0], strict=True):
        flat = torch.from_numpy(array)
        if key == "sum":
            flat.fill_(float(group["initial_accumulator_value"]))
        state[key] = flat.as_strided(whole.shape, whole.stride())
    return missing


@torch.no_grad()
def refitted(state: dict[str, Any], key: str, whole: Tensor, name: str) -> Tensor:
    """A state in the dtype and the order of its parameter, which takes the place of what is there.

    Loading a checkpoint may leave it as another layout or as another program had it.
    """
    value = state[key]
    if value.shape != whole.shape:
        refuse_shape(value, whole, name)
    state[key] = torch.empty_like(whole.detach()).copy_(value)
    fitting: Tensor = state[key]
    return fitting


def counter(state: dict[str, Any]) -> Tensor:
    """The tensor that counts the steps, made of the number that is there, or of 0."""
    double = torch.get_default_dtype() == torch.float64
    state["step"] = torch.tensor(
        float(state.get("step", 0.0)), dtype=torch.float64 if double else torch.float32
    )
    value: Tensor = state["step"]
    return value


@torch.no_grad()
def put_back(copies: list[tuple[Tensor, Tensor]]) -> None:
    """Write what `arranged` has copied."""
    for p, whole in copies:
        p.copy_(whole)
