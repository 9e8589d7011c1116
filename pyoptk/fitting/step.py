"""`Step`: one training step, for the loop and for the range test."""

from __future__ import annotations

import inspect
from typing import Any

from .. import _checks
from ..optim import LossScaler
from .metrics import Scored


class Step:
    """A training step in its two halves; between them the caller looks at the loss.

    Parameters
    ----------
    model : object
    loss : function
    batch_first : bool
    optimizer : optimizer or wrapper
    chain : list
        The optimizer and its wrappers.
    """

    def __init__(
        self, model: Any, loss: Any, batch_first: bool, optimizer: Any, chain: list[Any]
    ) -> None:
        if not callable(loss):
            raise TypeError(f"loss: expected a function (y, target), got {type(loss).__name__}")
        self.model, self.loss, self.optimizer = model, Scored(loss, batch_first), optimizer
        takes = inspect.signature(model.backward).parameters
        # Of the inputs nobody asks for a gradient, which costs as much as that of the weights.
        self.options = {"need_dx": False} if "need_dx" in takes else {}
        self.scalers = [part for part in chain if isinstance(part, LossScaler)]

    def forward(self, x: Any, target: Any, lengths: Any) -> tuple[Any, float, Any]:
        """The output, the loss, and the gradient of the loss with respect to the output."""
        model = self.model
        y = model.forward(x) if lengths is None else model.forward(x, lengths=lengths)
        found = self.loss(y, target, lengths)
        try:
            value, dy = found
        except (TypeError, ValueError):
            got = _checks.described(found)
            raise TypeError(f"loss: expected (value, gradient), got {got}") from None
        return y, float(value), dy

    def backward(self, dy: Any) -> None:
        """Change the parameters in place."""
        for scaler in self.scalers:
            dy = dy * dy.dtype.type(scaler.scale)
        self.model.backward(dy, **self.options)
        self.optimizer.step(self.model.grads)
