"""The rows of a duel: what a reader sees, the task with its sizes and settings, and the work in it.

`bytes` is what a step must read and write, `flop` what the products of a layer take: what the roof
is made of.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from .contenders.roof import lstm_flop, streams
from .duel import Row

# T, B, I, H
LSTM = [
    (10, 1, 64, 64), (10, 32, 64, 64), (50, 32, 64, 128), (100, 32, 128, 256),
    (30, 128, 256, 256), (50, 64, 512, 512), (50, 16, 256, 1024),
]  # fmt: skip
MLP = [784, 512, 512, 10]


def step(optimizer: str, n: int, count: int = 1, **settings: Any) -> Row:
    """One optimizer step over `count` tensors of n elements, with what `settings` adds to it."""
    what = {"SGD": "SGD with momentum"}.get(optimizer, optimizer)
    more = [text for key, text in EXTRAS.items() if key in settings]
    size = f"{n:,} elements" if count == 1 else f"{count:,} tensors of {n:,}"
    if optimizer == "SGD":
        settings = {"momentum": 0.9, **settings}
    return {
        "label": ", ".join([" + ".join([what, *more]), size]),
        "task": "step",
        "sizes": {"count": count, "n": n},
        "settings": {"optimizer": optimizer, **settings},
        "bytes": 4 * count * n * streams(optimizer, **settings),
    }


EXTRAS = {"max_norm": "clip", "ema_decay": "EMA", "zero_grad": "zero"}


def stack(T: int, B: int, I: int, H: int) -> Row:
    """Forward and backward of two layers in both directions."""
    sizes = {"layers": 2, "directions": 2}
    return {
        "label": f"LSTM, T {T}, B {B}, I {I}, H {H}, 2 layers, bidirectional",
        "task": "lstm",
        "sizes": {"T": T, "B": B, "I": I, "H": H, **sizes},
        "settings": sizes,
        "flop": 2 * (lstm_flop(T, B, I, H) + lstm_flop(T, B, 2 * H, H)),
    }


def lstm(T: int, B: int, I: int, H: int, *, dtype: str = "float32", packed: bool = False) -> Row:
    """Forward and backward of one layer, with the gradient of the input."""
    kind = ", sequences of T/2 to T" if packed else "" if dtype == "float32" else f", {dtype}"
    return {
        "label": f"LSTM, T {T}, B {B}, I {I}, H {H}{kind}",
        "task": "lstm",
        "sizes": {"T": T, "B": B, "I": I, "H": H, "dtype": dtype},
        "settings": {"packed": True} if packed else {},
        "flop": lstm_flop(T, B, I, H, packed),
    }


def forecaster(B: int, T: int = 10) -> Row:
    """A whole training step of LSTM(64) -> LSTM(32) -> Dense(1) on windows of T steps."""
    return {
        "label": f"forecaster, batch of {B}",
        "task": "forecaster",
        "sizes": {"B": B, "T": T},
        "settings": {},
        "flop": lstm_flop(T, B, 1, 64) + lstm_flop(T, B, 64, 32) + 6 * B * 32,
    }


def mlp(B: int = 128) -> Row:
    """A whole training step of a classifier whose layers are NumPy."""
    products = sum(a * b for a, b in pairwise(MLP))
    return {
        "label": f"MLP {'-'.join(map(str, MLP))}, batch of {B}",
        "task": "mlp",
        "sizes": {"layers": MLP, "B": B},
        "settings": {},
        "flop": 6 * B * products,
    }
