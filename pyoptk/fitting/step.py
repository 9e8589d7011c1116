"""`Step`: one training step, for the loop and for the range test."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from .. import _checks
from ..optim import LossScaler
from .metrics import Scored, number


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
    metrics : list of Scored
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        batch_first: bool,
        optimizer: Any,
        chain: list[Any],
        metrics: Iterable[Scored] = (),
    ) -> None:
        if not callable(loss):
            raise TypeError(f"loss: expected a function (y, target), got {type(loss).__name__}")
        self.model, self.loss, self.optimizer = model, Scored(loss, batch_first), optimizer
        takes = inspect.signature(model.backward).parameters
        # The gradient of the inputs is not needed, and would cost as much as that of the weights.
        self.options = {"need_dx": False} if "need_dx" in takes else {}
        self.takes_lengths = takes_lengths(model)
        self.scored = [self.loss, *metrics]
        self.scalers = [part for part in chain if isinstance(part, LossScaler)]

    def output(self, x: Any, lengths: Any, **options: bool) -> Any:
        """The output of the model, which gets the lengths if it takes them."""
        if lengths is None:
            return self.model.forward(x, **options)
        if self.takes_lengths:
            return self.model.forward(x, lengths=lengths, **options)
        y = self.model.forward(x, **options)
        if not any(scored.uses_lengths(y) for scored in self.scored):
            raise ValueError(
                "lengths: expected None, as the model does not take them, and neither the loss nor "
                f"a metric does for an output {y.shape}"
            )
        return y

    def forward(self, x: Any, target: Any, lengths: Any) -> tuple[Any, float, Any]:
        """The output, the loss, and the gradient of the loss with respect to the output."""
        y = self.output(x, lengths)
        found = self.loss(y, target, lengths)
        try:
            value, dy = found
        except (TypeError, ValueError):
            got = _checks.described(found)
            raise TypeError(f"loss: expected (value, gradient), got {got}") from None
        return y, number("loss: expected (value, gradient), the value a number", value), dy

    def backward(self, dy: Any) -> None:
        """Change the parameters in place."""
        for scaler in self.scalers:
            dy = dy * dy.dtype.type(scaler.scale)
        self.model.backward(dy, **self.options)
        self.optimizer.step(self.model.grads)


def takes_lengths(model: Any) -> bool:
    """Whether the forward of a model takes lengths."""
    if hasattr(model, "takes_lengths"):
        return bool(model.takes_lengths)
    known = inspect.signature(model.forward).parameters
    return "lengths" in known or any(p.kind is p.VAR_KEYWORD for p in known.values())
