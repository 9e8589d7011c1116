"""Wrappers of an optimizer: `Accumulation` and `LossScaler` (averaged weights: averages.py).

`Accumulation`, `LossScaler` and `Lookahead` wrap an optimizer or one another, in any order, and
count only steps that the optimizer took; `SWA` does not wrap. Each has arrays and numbers of its
own, which `pyoptk.save` writes beside those of the optimizer: ``save(path, params=params, opt=opt,
lookahead=lookahead)``. A wrapper adds a few NumPy passes, most of them in every k-th step only.

What a step changes is in stateful.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Optimizer
from .hyper import Grads
from .stateful import AccumulationSteps, LossScalerSteps, Wrapper, shown


class Accumulation(AccumulationSteps):
    """Gradient accumulation: one step of `opt` on the mean gradient of k micro-batches.

    ``sum = g_1; sum += g_2; ...; sum += g_k``, then ``opt.step(sum / k)``. Clipping by norm applies
    to the mean. With weights, ``sum += weight * g``, and the sum is divided by the sum of the
    weights. `flush` takes a step on an incomplete set of micro-batches, at the end of an epoch.

    Parameters
    ----------
    opt : optimizer or wrapper
    k : int
        How many micro-batches make a step, at least 1.

    Attributes
    ----------
    count : int
        The number of micro-batches since the last step.
    weight : float
        The sum of their weights.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([1.0, 2.0])
    >>> accumulation = pyoptk.Accumulation(pyoptk.SGD(w, lr=0.5), k=2)
    >>> accumulation.step(np.array([1.0, 0.0])), accumulation.step(np.array([3.0, 2.0]))
    (False, True)
    >>> w
    array([0. , 1.5])

    Micro-batches of 3 rows and of 1, each with its mean gradient, then the end of an epoch:

    >>> accumulation.step(np.array([1.0, 0.0]), weight=3), accumulation.count
    (False, 1)
    >>> accumulation.step(np.array([5.0, 0.0]), weight=1)
    True
    >>> accumulation.step(np.array([1.0, 1.0])), accumulation.flush()
    (False, True)
    >>> w
    array([-1.5,  1. ])
    """

    _numbers = ("k", "count", "weight")

    def __init__(self, opt: Optimizer | Wrapper, k: int) -> None:
        super().__init__(opt)
        self.k, self.weight = k, 0.0
        self._sums = [np.zeros_like(self._tree.held.wide(param)) for param in self._tree.arrays]
        self._given = np.zeros(len(self._sums), bool)
        *sums, given = shown([*self._sums, self._given])
        self._own = {**self._tree.named("sum", sums), "given": given}
        self._rows = {}

    def step(self, grads: Grads, *, weight: float = 1.0) -> bool:
        """Add the gradients of a micro-batch; every k-th time change the parameters in place.

        Parameters
        ----------
        grads : array, or sequence or dict of arrays, nested or not
            As for the step of the optimizer. Only read, or set to zero if the optimizer has
            `zero_grad`. A parameter whose gradient is None in all k micro-batches does not change.
            `SparseRows` of the micro-batches are concatenated, and the step changes all their rows.
        weight : float
            The weight of this micro-batch in the mean, in [2**-64, 2**64]: its number of rows or
            tokens, say.

        Returns
        -------
        bool
            Whether the optimizer took a step.

        Raises
        ------
        TypeError, ValueError
            As the step of the optimizer, and if a gradient is `SparseRows` in some micro-batches of
            a step and an array in others; then nothing has been added. If the step on the mean
            raises, the micro-batches are dropped, and the next call is the first of a new step.
        """
        return super().step(grads, weight=weight)

    def check_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Raise what `load_state_dict` would raise; returns the numbers that it would set."""
        numbers = super().check_state_dict(state)
        if (numbers["count"] == 0) != (numbers["weight"] == 0):
            raise ValueError(
                f"state['weight']: expected 0 for no micro-batch and more for {numbers['count']}, "
                f"got {numbers['weight']}"
            )
        return numbers | {"_rows": {}}

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs of this wrapper; its own arrays, not copies.

        Raises
        ------
        RuntimeError
            Between two micro-batches of a step, where a gradient is `SparseRows`.
        """
        if self._rows:
            raise RuntimeError(
                "state_dict: expected a complete step before it, because there are SparseRows, "
                f"got {self.count} of {self.k} micro-batches"
            )
        return super().state_dict()


class LossScaler(LossScalerSteps):
    """Dynamic loss scaling (Micikevicius et al. 2018), for gradients that overflow or underflow.

    Multiply the loss, or its gradient, by `scale` before the backward pass; `step` divides the
    gradients by it in the optimizer's sweep. If one of them has a NaN or an infinity, the step is
    skipped and ``scale *= backoff``; after `interval` steps in a row, ``scale *= growth``. This is
    PyTorch's ``torch.amp.GradScaler``, with its defaults. The scale stays in [2**-126, 2**126].

    Parameters
    ----------
    opt : optimizer or wrapper
        Its `grad_scale` applies as well; its `on_nonfinite` is ignored.
    scale : float
        The first scale, in [2**-126, 2**126]; a power of two makes no rounding errors.
    growth : float
        > 1.
    backoff : float
        In (0, 1).
    interval : int
        At least 1.

    Attributes
    ----------
    scale : float
        The factor of the next loss.
    count : int
        The number of steps since the scale changed or a step was skipped.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.ones(1, np.float32)
    >>> scaler = pyoptk.LossScaler(pyoptk.SGD(w, lr=0.5), scale=2.0**127 / 2)
    >>> for _ in range(3):
    ...     with np.errstate(over="ignore"):
    ...         grad = np.float32(scaler.scale) * np.float32(4) * w  # infinite in float32, at first
    ...     print(scaler.step(grad), w, scaler.scale == 2.0**125)
    False [1.] True
    True [-1.] True
    True [1.] True
    """

    _numbers = ("scale", "growth", "backoff", "interval", "count")

    def __init__(
        self,
        opt: Optimizer | Wrapper,
        scale: float = 65536.0,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
    ) -> None:
        super().__init__(opt)
        self.scale, self.growth, self.backoff = scale, growth, backoff
        self.interval = interval

    def step(self, grads: Grads, *, weight: float = 1.0) -> bool:
        """Take a step of `opt` on gradients / `scale`, or skip it; adapt `scale`.

        A skipped step changes only `scale`, `count` and the optimizer's `skipped`. Returns whether
        the optimizer took a step. Raises as its step does; nothing has been changed then.
        """
        return super().step(grads, weight=weight)
