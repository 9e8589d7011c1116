"""What the compiled step (_tensors.pyx) asks Python for: missing states, rare layouts, messages."""

from __future__ import annotations

from collections.abc import MutableMapping
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
Loaded = MutableMapping[int, Tensor]  # by id, what a checkpoint had that no step has looked at yet


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
    state: dict[str, Any], row: Any, keys: tuple[str, ...], hyper: dict[str, Any], whole: Tensor,
    group: dict[str, Any], kind: int, seed: int, loaded: Loaded, label: str,
) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
    """Make what is missing of the states, as it is before the first step; also a master.

    Their memory is NumPy's: where arrays begin changes the speed of a step, see _places.py. Returns
    pairs of a tensor and what is to be copied to it when the step begins.
    """
    pairs = zip(row.state_names(hyper), keys, strict=False)  # PyTorch may have fewer
    missing = {ours: key for ours, key in pairs if ours and state.get(key) is None}
    dtype, halves = np.dtype("f8" if whole.dtype == torch.float64 else "f4"), whole.dtype in HALVES
    at = 0 if halves else whole.data_ptr()
    beside, its_dtype = _BESIDE.get(hyper["master"] if halves else "", ("", None))
    is_new = beside and found(state, beside, whole, loaded, label) is None
    place: list[tuple[int, tuple[int, ...]]] = [(at, (whole.numel(),))]
    master = hyper["master"] if is_new else None
    arrays = states_for(place, list(missing), dtype, _KINDS[kind], 0, master, [int(halves)])
    for ours, key in missing.items():
        array, scale = arrays[ours][0], arrays.get(f"{ours}_scale", [None])[0]
        if key == "sum":
            value = float(group["initial_accumulator_value"])
            begin_at(row.name, ours, array, scale, value, whole.numel(), seed)
        if kind:
            state[key] = torch.from_numpy(array.view(np.uint8))
        else:
            state[key] = torch.from_numpy(array).as_strided(whole.shape, whole.stride())
        if scale is not None:
            state[f"{key}_scale"] = torch.from_numpy(scale)
    copies = []
    if is_new:
        value = torch.from_numpy(arrays[beside][0].view(f"i{its_dtype.itemsize}")).view(its_dtype)
        state[beside] = value.as_strided(whole.shape, whole.stride())
        copies = begin_master(state, beside, whole, loaded, label)
    for key in BESIDE:
        if key != beside:
            state.pop(key, None)
    return copies


def found(state: dict[str, Any], key: str, p: Tensor, loaded: Loaded, label: str) -> Tensor | None:
    """The master or the remainder among the states, if it is that of its parameter.

    `torch.optim` makes all states bfloat16, or float32 for a model of float32, and does not change
    this one when it takes a step: one of `loaded` has to be what the parameter was rounded from.
    """
    if state.get(key) is None:
        return None
    value: Any = state[key]
    name = f"the {key} of {label}"
    check_type(value, name)
    if value.layout is not torch.strided or value.device.type != "cpu":
        refuse(value, name)
    if value.dtype != dict(_BESIDE.values())[key]:
        return None
    if value.shape != p.shape:
        refuse_shape(value, p, name)
    if key == "master" and id(value) in loaded:
        rounded, here = value.detach().to(p.dtype).float(), p.detach().float()
        tiny = torch.finfo(torch.float32).tiny  # denormal numbers are zero to a kernel
        same = (rounded == here) | ((rounded - here).abs() < tiny) | (here.isnan() & value.isnan())
        if not same.all():
            return None
        del loaded[id(value)]
    result: Tensor = value
    return result


def begin_master(
    state: dict[str, Any], key: str, whole: Tensor, loaded: Loaded, label: str
) -> list[tuple[Tensor, Tensor]]:
    """Let what was made for a parameter begin at its number, which the other one may tell.

    Returns what `made` does: the upper halves of a master go to the parameter.
    """
    other = BESIDE[key == "master"]
    before = found(state, other, whole, loaded, label)
    if before is None:
        if key == "master":
            state[key].copy_(whole)
        return []
    before = reordered({"": before}, "", whole, f"the {other} of {label}")
    if key == "master":
        halves = (flat(x.view(torch.int16)).numpy().view(np.uint16) for x in (whole, before))
        flat(state[key]).copy_(torch.from_numpy(join_float32(*halves)))
        return []
    high, low = (torch.from_numpy(x.view(np.int16)) for x in split_float32(flat(before).numpy()))
    flat(state[key]).copy_(low)
    return [(flat(whole.detach().view(torch.int16)), high)]


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
    """The tensor that counts the steps, made of the number that is there, or of `start`.

    What does not count otherwise has taken a step if it has states.
    """
    double = torch.get_default_dtype() == torch.float64
    state["step"] = torch.tensor(
        float(state.get("step", start)), dtype=torch.float64 if double else torch.float32
    )
    value: Tensor = state["step"]
    return value


def targets(
    copies: list[tuple[Tensor, Tensor]], groups: list[dict[str, Any]]
) -> list[tuple[Tensor, Tensor]]:
    """What a step has to copy back: pairs of a tensor and what is copied to it.

    Raises if a parameter that is not dense shares an element with another one, or has one twice.
    """
    if not copies:
        return copies
    params = [
        (*extent(p), p, name_of(groups, i, k))
        for i, group in enumerate(groups)
        for k, p in enumerate(group["params"])
        if p.grad is not None and p.numel()
    ]
    for p, _ in copies:
        first, end = extent(p)
        near = [other for other in params if other[0] < end and first < other[1]]
        if not near:
            continue
        first = min(other[0] for other in near)
        mask = np.zeros(max(other[1] for other in near) - first, np.uint8)
        for at, _, q, name in near:
            size = q.element_size()
            shape, strides = (*q.shape, size), (*(size * step for step in q.stride()), 1)
            view: Any = np.ndarray(shape, np.uint8, mask, at - first, strides)
            before = np.count_nonzero(mask)
            view[...] = 1
            if np.count_nonzero(mask) != before + view.size:
                raise ValueError(
                    f"{name}: expected memory of its own, got a tensor that overlaps "
                    + ("itself" if len(near) == 1 else "another parameter or itself")
                )
    return [(p.detach(), whole) for p, whole in copies]


def extent(p: Tensor) -> tuple[int, int]:
    """The addresses where the elements of a tensor begin and end."""
    at, size = p.data_ptr(), p.element_size()
    last = sum((n - 1) * step for n, step in zip(p.shape, p.stride(), strict=True))
    return at, at + size * (last + 1)
