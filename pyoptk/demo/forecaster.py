"""The network of `forecast.py`: LSTM(64) -> LSTM(32) -> Dense(1), or of another cell.

It is trained by pyoptk. The recurrent layers and the optimizer are pyoptk's, the dense layer and
the loss are NumPy. The same step in NumPy alone is `numpy_step.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyoptk import GRU, LSTM, RNN, Adam, minGRU

from .parts import Array, Dense, Stopwatch, gather

LR = 3e-3
MAX_NORM = 1.0
CELLS: dict[str, Any] = {"lstm": LSTM, "gru": GRU, "rnn": RNN, "mingru": minGRU}


class Forecaster:
    """The network, its loss and its optimizer; `step` changes the weights in place.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the initial weights.
    cell : str
        Of both recurrent layers; a key of `CELLS`.

    Attributes
    ----------
    params, grads : dict of float32 arrays
    optimizer : pyoptk.Adam
    watch : Stopwatch
        The time spent inside pyoptk.
    """

    optimizer: Any  # that, or a Sharded

    def __init__(self, rng: np.random.Generator, cell: str = "lstm") -> None:
        self.lower = CELLS[cell](1, 64, rng=rng)
        self.upper = CELLS[cell](64, 32, rng=rng)
        self.head = Dense(32, 1, rng)
        lower, upper, head = self.lower, self.upper, self.head
        self.params = gather(lower=lower.params, upper=upper.params, head=head.params)
        self.grads = gather(lower=lower.grads, upper=upper.grads, head=head.grads)
        self.optimizer = Adam(self.params, lr=LR, max_norm=MAX_NORM)
        self.watch = Stopwatch()

    def forward(self, windows: Array) -> Array:
        """Predictions [B] for windows [T, B, 1]."""
        with self.watch:
            y, _ = self.lower.forward(windows)
            y, _ = self.upper.forward(y)
        return self.head.forward(y[-1])[:, 0]

    def gradients(self, windows: Array, targets: Array, rows: int) -> float:
        """Set `grads` to those of windows [T, B, 1], a part of `rows`; its part of the loss."""
        error = self.forward(windows) - targets
        dy = np.zeros((*windows.shape[:2], 32), np.float32)
        dy[-1] = self.head.backward(error[:, None] * np.float32(2 / rows))
        with self.watch:
            dx, _ = self.upper.backward(dy)
            self.lower.backward(dx, need_dx=False)
        return float(error @ error) / rows

    def step(self, windows: Array, targets: Array) -> float:
        """One training step on windows [T, B, 1] and targets [B]; the loss before it."""
        loss = self.gradients(windows, targets, targets.size)
        with self.watch:
            self.optimizer.step(self.grads)
        return loss
