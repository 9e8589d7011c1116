"""The rows of a duel: a label for the reader, the task with its sizes and settings, and the work.

`bytes` is what a step must read and write, `flop` what the products of a layer take; the roof is as
many bytes streamed, or as many multiply-adds. An optimizer needs no line here: its class says how
many arrays of state it has.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import pyoptk

from .referee import Row

# T, B, I, H
LSTM = [
    (10, 1, 64, 64), (10, 32, 64, 64), (50, 32, 64, 128), (100, 32, 128, 256),
    (30, 128, 256, 256), (50, 64, 512, 512), (50, 16, 256, 1024),
]  # fmt: skip
MLP = [784, 512, 512, 10]
DEFAULTS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}}
EXTRAS = {"max_norm": "clip", "ema_decay": "EMA", "zero_grad": "zero"}
FORMS = "state_dtype", "master"
MASTERS = {"remainder": 10, "float32": 12, "stochastic": 6}  # bytes of a parameter and gradient
NARROW = {"bfloat16": 2.0, "8bit": 1 + 4 / 256}  # bytes an element of a state takes


def streams(optimizer: str, **settings: Any) -> int:
    """Arrays of a parameter's size that a step reads or writes: each counts once or twice."""
    rule = {k: value for k, value in settings.items() if k not in (*EXTRAS, *FORMS)}
    states = len(getattr(pyoptk, optimizer)(np.ones(1), **rule).state)
    norm, ema, zero = ("max_norm" in settings), ("ema_decay" in settings), ("zero_grad" in settings)
    again = 3 if optimizer == "LAMB" else 0  # the second sweep, once the ratio is known
    return 2 * (1 + states) + 1 + again + norm + 2 * ema + zero


def step(optimizer: str, n: int, count: int = 1, dtype: str = "float32", **settings: Any) -> Row:
    """One optimizer step over `count` tensors of n elements, with what `settings` adds to it."""
    settings = DEFAULTS.get(optimizer, {}) | settings
    what = optimizer + " with momentum" * ("momentum" in settings)
    size = f"{n:,} elements" if count == 1 else f"{count:,} tensors of {n:,}"
    what = " + ".join([what, *(text for key, text in EXTRAS.items() if key in settings)])
    sizes = {"count": count, "n": n, "dtype": dtype}
    work = np.dtype(dtype).itemsize * count * n * streams(optimizer, **settings)
    if (narrow := settings.get("state_dtype")) in NARROW:
        size += f", {narrow} states"
        states = streams(optimizer, **DEFAULTS.get(optimizer, {})) // 2 - 1
        work -= int(2 * states * count * n * (4 - NARROW[narrow]))  # each is read and written
    if (master := settings.get("master")) in MASTERS:
        size += f", bfloat16 with master={master}"
        work -= count * n * (12 - MASTERS[master])
    settings["optimizer"] = optimizer
    return other(f"{what}, {size}{of(dtype)}", "step", sizes, settings, bytes=work)


def of(dtype: str) -> str:
    """The end of a label: nothing for float32."""
    return "" if dtype == "float32" else f", {dtype}"


def layer_flop(
    T: int, B: int, I: int, H: int, gates: int = 4, packed: bool = False, R: int = 0
) -> int:
    """The products of forward and backward: three for each weight. R: features of a projection.

    Those with the state only from the second step on: before the first it is 0.
    """
    steps = int(np.linspace(T, T // 2, B).astype(int).sum()) if packed else T * B
    return 3 * 2 * H * (gates * (steps * I + (steps - B) * (R or H)) + steps * R)


def layer(
    T: int, B: int, I: int, H: int, *, cell: str = "LSTM", dtype: str = "float32",
    packed: bool = False, part: str = "", **form: Any,
) -> Row:  # fmt: skip
    """One recurrent layer: forward and backward with the gradient of the input, or a part of it.

    `part` is "forward", "backward", or "step" for one step of a stream; `form` are keywords of the
    cell.
    """
    projected = form.get("proj_size", 0)
    kind = f", {part}" * bool(part) + ", sequences of T/2 to T" * packed + of(dtype)
    gates = getattr(pyoptk, cell)(1, 1, **form | ({"proj_size": 0} if projected else {})).gates
    sizes = {"T": T, "B": B, "I": I, "H": H, "dtype": dtype, "gates": gates}
    sizes |= {"packed": True} if packed else {}
    sizes |= {"R": projected} if projected else {}
    sizes |= {"normed": True} if form.get("layer_norm") else {}
    flop = layer_flop(T, B, I, H, gates, packed, projected)
    if part:  # one product for each weight, two in backward
        passes = {"forward": T, "backward": 2 * T, "step": 1}[part]
        flop = passes * 2 * gates * B * H * (I + H)
    task, part = ("stream", "") if part == "step" else ("layer", part)
    label = "".join([cell, *(f", {name}={value}" for name, value in form.items())])
    label += f", T {T}, B {B}, I {I}, H {H}{kind}"
    row = other(label, task, sizes, {"cell": cell} | form, part=part, flop=flop)
    return row | ({"tolerance": 0.3} if "compute" in form else {})


def scan(T: int, B: int, D: int, *, dtype: str = "float32", part: str = "") -> Row:
    """A linear recurrence over time: forward and backward, or one of them."""
    arrays = {"forward": 3, "backward": 5, "": 8}[part]  # read or written
    label = f"linear scan, T {T}, B {B}, D {D}{f', {part}' * bool(part)}{of(dtype)}"
    sizes = {"T": T, "B": B, "D": D, "dtype": dtype}
    work = np.dtype(dtype).itemsize * arrays * T * B * D
    return other(label, "scan", sizes, part=part, bytes=work)


def forecaster(B: int, T: int = 10) -> Row:
    """A whole training step of LSTM(64) -> LSTM(32) -> Dense(1) on windows of T steps."""
    flop = layer_flop(T, B, 1, 64) + layer_flop(T, B, 64, 32) + 6 * B * 32
    return other(f"forecaster, batch of {B}", "forecaster", {"B": B, "T": T}, flop=flop)


def mlp(B: int = 128) -> Row:
    """A whole training step of a classifier whose layers are NumPy."""
    flop = 6 * B * sum(a * b for a, b in pairwise(MLP))
    label = f"MLP {'-'.join(map(str, MLP))}, batch of {B}"
    return other(label, "mlp", {"layers": MLP, "B": B}, flop=flop)


def other(label: str, task: str, sizes: Row, settings: Row | None = None, **more: Any) -> Row:
    """Any other row; `more` is the work in it."""
    return {"label": label, "task": task, "sizes": sizes, "settings": settings or {}, **more}
