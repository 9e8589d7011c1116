"""`Step`: one training step, for the loop and for the range test."""

from __future__ import annotations

import inspect
from typing import Any

from ..optim import LossScaler
from .metrics import Scored


class Step:
    """A training step in its two halves; between them the caller looks at the loss.

    Parameters
    ----------
    model : object
    loss : Scored
    optimizer : optimizer or wrapper
    chain : list
        The optimizer and its wrappers.
    """

    def __init__(self, model: Any, loss: Scored, optimizer: Any, chain: list[Any]) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        takes = inspect.signature(model.backward).parameters
        # Of the inputs nobody asks for a gradient, which costs as much as that of the weights.
        self.options = {"need_dx": False} if "need_dx" in takes else {}
        self.scalers = [part for part in chain if isinstance(part, LossScaler)]

    def forward(self, x: Any, target: Any, lengths: Any) -> tuple[Any, float, Any]:
        """The output, the loss, and the gradient of the loss with respect to the output."""
        model = self.model
        y = model.forward(x) if lengths is None else model.forward(x, lengths=lengths)
        value, dy = self.loss(y, target, lengths)
        return y, float(value), dy

    def backward(self, dy: Any) -> None:
        """Change the parameters in place."""
        for scaler in self.scalers:
            dy = dy * dy.dtype.type(scaler.scale)
        self.model.backward(dy, **self.options)
        self.optimizer.step(self.model.grads)
