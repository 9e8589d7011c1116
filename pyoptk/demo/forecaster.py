"""The model of `forecast.py`, LSTM(64) -> LSTM(32) -> Linear(1) or of another cell, and its step.

The same step in NumPy alone is `numpy_step.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyoptk import GRU, LSTM, RNN, Adam, losses, minGRU
from pyoptk.layers import Last, Linear, Sequential

from .parts import Array

LR = 3e-3
MAX_NORM = 1.0
CELLS: dict[str, Any] = {"lstm": LSTM, "gru": GRU, "rnn": RNN, "mingru": minGRU}


class Forecaster:
    """The model and its optimizer; `step` changes the weights in place.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the initial weights.
    cell : str
        Of both recurrent layers; a key of `CELLS`.

    Attributes
    ----------
    model : pyoptk.layers.Sequential
    optimizer : pyoptk.Adam
    """

    optimizer: Any  # that, or a Sharded

    def __init__(self, rng: np.random.Generator, cell: str = "lstm") -> None:
        layer = CELLS[cell]
        head = Linear(32, 1, init="keras", rng=rng)  # wider than PyTorch's: fewer steps
        self.model = Sequential(layer(1, 64, rng=rng), layer(64, 32, rng=rng), Last(), head)
        self.optimizer = Adam(self.model.params, lr=LR, max_norm=MAX_NORM)

    def gradients(self, windows: Array, targets: Array, share: float = 1.0) -> float:
        """Set the gradients to those of windows [T, B, 1] and targets [B]; returns the loss.

        Both are multiplied by `share`, the windows' part of the whole batch.
        """
        loss, dy = losses.mse(self.model.forward(windows), targets[:, None])
        self.model.backward(dy * np.float32(share), need_dx=False)
        return loss * share

    def step(self, windows: Array, targets: Array) -> float:
        """One training step on windows [T, B, 1] and targets [B]; the loss before it."""
        loss = self.gradients(windows, targets)
        self.optimizer.step(self.model.grads)
        return loss
