"""What goes around an optimizer: gradients added up, loss scaling; in averages.py averaged weights.

`Accumulation`, `LossScaler` and `Lookahead` take an optimizer or one another, in any order, and
count only steps that the optimizer took; `SWA` stands beside it. Each keeps its own arrays and
numbers, which `pyoptk.save` writes next to the optimizer's: ``save(path, params=params, opt=opt,
lookahead=lookahead)``. What happens in every step is compiled with the optimizer; these are a few
NumPy passes, most of them every k-th step.

This file is compiled by Cython as it stands, so that no signal handler (Ctrl-C) runs between two
changes that belong together: Python runs handlers between its own instructions only. Everything
that may raise, or that calls what is not compiled, comes before the first change.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import Rule, checked, real
from .._plan import Plan
from .._sparse import SparseRows
from ..checkpoint import check_arrays
from ..params import Array, Params
from .base import Optimizer, Uncopied
from .hyper import Grads

# Between these, a loss scale and 1 / scale are both normal numbers in float32.
_LEAST, _MOST = 2.0**-126, 2.0**126

# For every number by name, in a constructor, an assignment and a checkpoint.
_length = "an integer >= 1", operator.index, lambda n: 1 <= n < 2**63
_RULES: dict[str, Rule] = {
    "k": _length,
    "interval": _length,
    "count": ("an integer >= 0", operator.index, lambda n: 0 <= n < 2**63),
    "weight": ("a finite number >= 0", real, lambda x: 0 <= x < float("inf")),
    "alpha": ("a number in [0, 1]", real, lambda x: 0 <= x <= 1),
    "scale": ("a number in [2**-126, 2**126]", real, lambda x: _LEAST <= x <= _MOST),
    "growth": ("a finite number > 1", real, lambda x: 1 < x < float("inf")),
    "backoff": ("a number in (0, 1)", real, lambda x: 0 < x < 1),
}


class Stateful(Uncopied):
    """Some numbers, checked whenever they are set, and some arrays: the state of a wrapper."""

    _numbers: tuple[str, ...]
    _own: dict[str, NDArray[Any]]
    _tree: Params
    count: int

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _RULES:
            super().__setattr__(name, checked(_RULES, name, value))
        elif value is not getattr(self, name, object()):  # as for `lookahead.slow *= 2`, which has
            super().__setattr__(name, value)  # changed the array before it sets the same one again

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs of this wrapper; its own arrays, not copies."""
        return {**self._own, **{name: getattr(self, name) for name in self._numbers}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a wrapper of the same kind and parameters; copies the arrays.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, an array has another shape or dtype, or a number is out
            of range; nothing has been changed then.
        """
        numbers = self.check_state_dict(state)
        self._tree.held.begin("load_state_dict")
        for name, array in self._own.items():
            array[...] = state[name]
        vars(self).update(numbers)
        self._tree.held.end()

    def check_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Raise what `load_state_dict` would; returns the numbers there would be."""
        check_arrays(self.state_dict(), state, "state")
        return {n: checked(_RULES, n, state[n], f"state[{n!r}]") for n in self._numbers}

    def __repr__(self) -> str:
        known = {n: p.default for n, p in inspect.signature(type(self)).parameters.items()}
        values = {name: getattr(self, name) for name in self._numbers}
        shown = [f"{n}={v!r}" for n, v in values.items() if v != known.get(n, 0)]
        within = [repr(self.opt)] if isinstance(self, Wrapper) else []
        return f"{type(self).__name__}({', '.join(within + shown)})"


class Wrapper(Stateful):
    """Around `opt`; `optimizer` is the innermost one."""

    opt: Optimizer | Wrapper
    optimizer: Optimizer

    def __init__(self, opt: Optimizer | Wrapper) -> None:
        if not isinstance(opt, Optimizer | Wrapper):
            raise TypeError(
                f"opt: expected an optimizer or a wrapper of one, got {type(opt).__name__}"
            )
        self.opt, self.count = opt, 0
        self.optimizer = opt.optimizer if isinstance(opt, Wrapper) else opt
        self._tree, self._own = self.optimizer._params, {}

    def step(self, grads: Grads, *, weight: float = 1.0) -> bool:
        """What a step does is up to each; returns whether the optimizer took one.

        `weight`: of this micro-batch, where there is an `Accumulation`.
        """
        weight = checked(_RULES, "weight", weight)
        if weight == 0:
            raise ValueError("weight: expected a number > 0, got 0")
        return self._whole_step(lambda plan: plan.checked(grads), weight)

    def flush(self) -> bool:
        """Take a step on what an `Accumulation` has gathered; returns whether there was one."""
        return self._whole_step(lambda plan: None, 1.0)

    def _whole_step(self, take: Callable[[Plan], Any], weight: float) -> bool:
        plan = self.optimizer._plan
        self.optimizer._prepare()
        with np.errstate(all="ignore"):  # `on_nonfinite` is there for these
            plan.held.begin("step")
            try:
                return self._go(take(plan), 1.0, False, weight)
            finally:
                plan.held.end()

    def _go(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        """This wrapper's part; whether the optimizer took a step. `grads` is None to flush."""
        raise NotImplementedError

    def _within(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        """The same of the wrapper within, or the optimizer's step."""
        if isinstance(self.opt, Wrapper):
            return self.opt._go(grads, factor, skips, weight)
        if weight != 1:
            raise TypeError(
                "weight: expected an Accumulation around the optimizer, which knows what to do "
                f"with it, got none and {weight}"
            )
        return grads is not None and bool(self.opt._plan.run_step(grads, factor, skips))


def approach(averages: list[Array], params: list[Array], factor: float, divide: bool) -> None:
    """``average += (p - average) * factor``, or ``/ factor``; changes the averages."""
    scale, by = np.divide if divide else np.multiply, averages[0].dtype.type(factor)
    room = np.empty(max([average.size for average in averages]), averages[0].dtype)
    for average, param in zip(averages, params, strict=True):
        way = room[: average.size].reshape(average.shape)
        np.subtract(param, average, way)
        scale(way, by, way)
        np.add(average, way, average)


class Accumulation(Wrapper):
    """Gradient accumulation: one step of `opt` on the mean gradient of k micro-batches.

    ``sum = g_1; sum += g_2; ...; sum += g_k``, then ``opt.step(sum / k)``; clipping by norm, like
    all that `opt` does, sees the mean. With weights, ``sum += weight * g``, and the sum of the
    weights takes the place of k. `flush` steps on what is left at the end of an epoch.

    Parameters
    ----------
    opt : optimizer or wrapper
    k : int
        How many micro-batches make a step, at least 1.

    Attributes
    ----------
    count : int
        How many have been added up since the last step.
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
    k: int
    weight: float

    def __init__(self, opt: Optimizer | Wrapper, k: int) -> None:
        super().__init__(opt)
        self.k, self.weight = k, 0.0
        self._sums = [np.zeros_like(param) for param in self._tree.arrays]
        self._given = np.zeros(len(self._sums), bool)
        self._own = {**self._tree.named("sum", self._sums), "given": self._given}
        self._rows: dict[int, list[SparseRows]] = {}

    def step(self, grads: Grads, *, weight: float = 1.0) -> bool:
        """Add the gradients of a micro-batch; every k-th time change the parameters in place.

        Parameters
        ----------
        grads : array, sequence or dict of arrays
            As for the optimizer's step. Only read, but set to zero if the optimizer has
            `zero_grad`. Where it is None, there is nothing to add; a parameter with None in all k
            micro-batches gets None. Rows of `SparseRows` are gathered, one micro-batch after the
            other, and all that were in one of them are stepped.
        weight : float
            > 0, of this micro-batch in the mean: its number of rows, say, or of tokens.

        Returns
        -------
        bool
            Whether the optimizer took a step.

        Raises
        ------
        TypeError, ValueError
            As from the optimizer's step, and if a gradient is `SparseRows` in some micro-batches of
            a step and an array in others; nothing has been added then. If it is the step on the
            mean that raises, the micro-batches are dropped and the next call begins anew.
        """
        return super().step(grads, weight=weight)

    def _go(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        if grads is not None:
            self._add(grads, self._weighted(grads, weight), weight)
        if self.count == 0 or (grads is not None and self.count < self.k):
            return False
        try:
            return self._within(self._means(), factor, skips, 1.0)
        finally:
            vars(self).update(count=0, weight=0.0)
            self._given.fill(False)
            self._rows.clear()

    def _weighted(self, grads: list[Any], weight: float) -> list[Any]:
        """What is to be added. Raises for rows where an array was, and the other way round."""
        found: list[Any] = []
        for i, grad in enumerate(grads):
            sparse = isinstance(grad, SparseRows)
            if grad is not None and self._given[i] and sparse != (i in self._rows):
                keys = self._tree.keys
                raise TypeError(
                    f"grads{'' if keys is None else f'[{keys[i]!r}]'}: expected "
                    f"{'SparseRows' if i in self._rows else 'an array'} as in this step's other "
                    f"micro-batches, got {type(grad).__name__}"
                )
            if sparse:
                grad = SparseRows(grad.indices, grad.values * weight, grad.shape)
            elif grad is not None:
                grad = np.asarray(grad)
                if weight != 1:
                    grad = np.multiply(grad, weight, dtype=self._sums[i].dtype)
            found.append(grad)
        return found

    def _add(self, grads: list[Any], weighted: list[Any], weight: float) -> None:
        zeroes = self.optimizer._plan.zeroes()
        for i, grad in enumerate(weighted):
            if isinstance(grad, SparseRows):
                self._rows.setdefault(i, []).append(grad)
            elif grad is not None and self._given[i]:
                np.add(self._sums[i], grad, self._sums[i])
            elif grad is not None:
                self._sums[i][...] = grad
            if grad is not None:
                self._given[i] = True
                if zeroes[i]:
                    np.asarray(grads[i])[...] = 0
        vars(self).update(count=self.count + 1, weight=self.weight + weight)

    def _means(self) -> list[Any]:
        """The sums over the sum of the weights, divided in place; None where nothing was given."""
        means: list[Any] = [s if g else None for s, g in zip(self._sums, self._given, strict=True)]
        for i, parts in self._rows.items():
            indices = np.concatenate([part.indices for part in parts])
            values = np.concatenate([part.values for part in parts])
            means[i] = SparseRows(indices, values, parts[0].shape)
        for mean in means:
            if mean is not None:
                values = mean.values if isinstance(mean, SparseRows) else mean
                np.divide(values, values.dtype.type(self.weight), values)
        return means

    def check_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Raise what `load_state_dict` would; returns the numbers there would be."""
        return super().check_state_dict(state) | {"_rows": {}}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs of this wrapper; its own arrays, not copies.

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


class LossScaler(Wrapper):
    """Dynamic loss scaling (Micikevicius et al. 2018), for gradients that overflow or underflow.

    Multiply the loss, or its gradient, with `scale` before going backward; `step` divides the
    gradients by it again within the optimizer's sweep. If one has a NaN or an infinity, the step is
    left undone and ``scale *= backoff``; after `interval` steps in a row, ``scale *= growth``: as
    PyTorch's ``torch.amp.GradScaler``, and with its defaults. The scale stays in [2**-126, 2**126].

    Parameters
    ----------
    opt : optimizer or wrapper
        Its own `grad_scale` counts besides; its `on_nonfinite` does not matter here.
    scale : float
        To begin with, in [2**-126, 2**126]; a power of two makes no rounding errors.
    growth : float
        > 1.
    backoff : float
        In (0, 1).
    interval : int
        At least 1.

    Attributes
    ----------
    scale : float
        What to multiply the next loss with.
    count : int
        How many steps were taken since the scale changed or one was left undone.

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
    scale: float
    growth: float
    backoff: float
    interval: int

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
        """Take a step of `opt` on gradients / `scale`, or leave it undone; adapt `scale`.

        One that is left undone changes nothing but `scale`, `count` and the optimizer's `skipped`.
        Returns whether the optimizer took a step. Errors are those of its own step, and nothing has
        been changed.
        """
        return super().step(grads, weight=weight)

    def _go(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        plan = self.optimizer._plan
        skipped = plan.skipped
        stepped = self._within(grads, factor * (1 / self.scale), True, weight)
        count, scale = self.count + stepped, self.scale
        if plan.skipped != skipped:
            count, scale = 0, scale * self.backoff
        elif count >= self.interval:
            count, scale = 0, scale * self.growth
        vars(self).update(count=count, scale=scale if _LEAST <= scale <= _MOST else self.scale)
        return stepped
