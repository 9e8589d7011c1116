"""Losses and metrics as the loop calls them, and their means over an epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _checks


def accuracy(
    y: NDArray[Any], target: NDArray[Any], *, lengths: Any = None, batch_first: bool = False
) -> float:
    """The share of right classes.

    Parameters
    ----------
    y : array [..., C]
        Scores of C classes; or, with C = 1 or like an integer `target`, of two: > 0 is class 1.
    target : integers [...] or array [..., C]
        Labels, of which those below 0 do not count; or a distribution over the classes.
    lengths : integers [B], optional
        Of sequences, y [T, B, C] or, if `batch_first`, [B, T, C]: what is past an end does not
        count.
    """
    if y.ndim == target.ndim and y.ndim and y.shape[-1] > 1 and target.dtype.kind == "f":
        found, labels = y.argmax(-1), target.argmax(-1)
    elif y.ndim == target.ndim:
        found, labels = y > 0, target if target.dtype.kind in "bi" else target > 0.5
    else:
        found, labels = y[..., 0] > 0 if y.shape[-1] == 1 else y.argmax(-1), target
    if found.shape != labels.shape:
        raise ValueError(f"target: expected labels {found.shape}, got {_checks.described(target)}")
    right, counts = found == labels, labels >= 0
    if lengths is not None:
        steps = np.arange(labels.shape[batch_first])
        inside = steps[:, None] < np.asarray(lengths)
        inside = inside.T if batch_first else inside
        counts &= inside.reshape(*inside.shape, *[1] * (labels.ndim - 2))
        right &= counts
    return float(np.count_nonzero(right) / (np.count_nonzero(counts) or 1))


def number(expected: str, value: Any) -> float:
    """What a loss or metric returned as a float; a TypeError that says what was expected."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{expected}, got {_checks.described(value)}") from None


class Scored:
    """A loss or metric that gets the lengths of sequences if it takes them.

    It gets ``lengths=`` and, if it takes that as well, ``batch_first=``, where it has such
    parameters and the output still has steps, at least three axes.
    """

    def __init__(self, function: Callable[..., Any], batch_first: bool) -> None:
        self.function = function
        try:
            parameters = set(inspect.signature(function).parameters)
        except (TypeError, ValueError):  # some functions in C have no signature
            parameters = set()
        self.takes_lengths = "lengths" in parameters
        self.more = {"batch_first": batch_first} if "batch_first" in parameters else {}

    def uses_lengths(self, y: Any) -> bool:
        return self.takes_lengths and y.ndim >= 3

    def __call__(self, y: Any, target: Any, lengths: Any) -> Any:
        if lengths is None or not self.uses_lengths(y):
            return self.function(y, target)
        return self.function(y, target, lengths=lengths, **self.more)


def named_metrics(metrics: Any, batch_first: bool) -> dict[str, Scored]:
    """The metrics by name: "accuracy", or functions, which have one."""
    if isinstance(metrics, str) or not isinstance(metrics, list | tuple):
        raise TypeError(f"metrics: expected a list or tuple, got {metrics!r}")
    found: dict[str, Scored] = {}
    for i, metric in enumerate(metrics):
        if isinstance(metric, str):
            _checks.check_choice(f"metrics[{i}]", metric, ("accuracy",))
        elif not callable(metric):
            raise TypeError(f"metrics[{i}]: expected 'accuracy' or a function, got {metric!r}")
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "")
        name = name or type(metric).__name__
        if name in found or name in ("epoch", "loss", "lr", "seconds"):
            raise ValueError(f"metrics[{i}]: expected a name of its own, got {name!r} again")
        if name.startswith("val_"):
            raise ValueError(f"metrics[{i}]: expected a name without 'val_', got {name!r}")
        found[name] = Scored(accuracy if isinstance(metric, str) else metric, batch_first)
    return found


class Means:
    """Means over an epoch, batches weighted by their rows."""

    def __init__(self, metrics: dict[str, Scored]) -> None:
        self.metrics = tuple(metrics.items())
        self.loss = 0.0
        self.rows = self.steps = 0
        self.sums = dict.fromkeys(metrics, 0.0)

    def add(self, loss: float, y: Any, target: Any, lengths: Any, rows: int) -> None:
        for name, metric in self.metrics:
            value = metric(y, target, lengths)
            value = value[0] if isinstance(value, tuple) and value else value
            self.sums[name] += rows * number(f"metrics: expected a number of {name}", value)
        self.loss += loss * rows
        self.rows += rows
        self.steps += 1

    def values(self, prefix: str = "") -> dict[str, float]:
        sums = {"loss": self.loss, **self.sums}
        return {prefix + name: value / max(1, self.rows) for name, value in sums.items()}
