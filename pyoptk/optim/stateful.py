"""The steps of the classes in wrappers.py and averages.py, and their checked numbers and arrays.

For models and their loop, too: changes that no exception can interrupt (`at_once`, `Restoring`).

Cython compiles this file unchanged, so that no signal handler (Ctrl-C) runs between two changes
that belong together: Python runs handlers only between instructions of its own. Code that may
raise, and calls of Python code that is not compiled, come before the first change.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._checks import Rule, checked, real
from .._held import quietly
from .._memory import apart
from .._plan import Plan
from .._sparse import SparseRows
from ..checkpoint import check_arrays
from ..params import Array, Params
from .base import Optimizer, Uncopied
from .hyper import Grads

# Between these, a loss scale and 1 / scale are both normal numbers in float32.
LEAST, MOST = 2.0**-126, 2.0**126

MOST_COUNTED = 2**63 - 1

# For every number by name, in a constructor, an assignment and a checkpoint.
_length = "an integer >= 1", operator.index, lambda n: 1 <= n <= MOST_COUNTED
_RULES: dict[str, Rule] = {
    "k": _length,
    "interval": _length,
    "count": ("an integer >= 0", operator.index, lambda n: 0 <= n <= MOST_COUNTED),
    "weight": ("a finite number >= 0", real, lambda x: 0 <= x < float("inf")),
    "alpha": ("a number in [0, 1]", real, lambda x: 0 <= x <= 1),
    "scale": ("a number in [2**-126, 2**126]", real, lambda x: LEAST <= x <= MOST),
    "growth": ("a finite number > 1", real, lambda x: 1 < x < float("inf")),
    "backoff": ("a number in (0, 1)", real, lambda x: 0 < x < 1),
}


def at_once(calls: list[Callable[[], Any]]) -> None:
    """Make calls of functions in C; no signal handler runs between them."""
    for call in calls:
        call()


class Restoring:
    """Makes `calls` at the end of a ``with`` block, also after an exception.

    If an exception interrupts a call, it is repeated, then the others follow: all are idempotent.
    """

    def __init__(self, calls: list[Callable[[], Any]]) -> None:
        self.calls = calls

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self.calls)


def _restore(calls: list[Callable[[], Any]]) -> None:
    if calls:
        done = False
        try:
            calls[0]()
            done = True
        finally:
            try:
                if not done:
                    calls[0]()
            finally:
                _restore(calls[1:])


class Stateful(Uncopied):
    """The state of a wrapper: numbers, which are checked whenever they are set, and arrays."""

    _numbers: tuple[str, ...]
    _own: dict[str, NDArray[Any]]
    _tree: Params
    count: int

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._numbers:
            super().__setattr__(name, checked(_RULES, name, value))
        elif name[0] == "_":
            super().__setattr__(name, value)
        elif value is not getattr(self, name, object()):  # `lookahead.slow *= 2` has changed the
            raise AttributeError(  # array before it sets the same one again
                f"{type(self).__name__} has no number {name!r}, only {', '.join(self._numbers)}; "
                "the numbers of an optimizer are assigned to itself"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs of this wrapper; its own arrays, not copies."""
        return {**self._own, **{name: getattr(self, name) for name in self._numbers}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a wrapper of the same class and parameters; copies the arrays.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, an array has another shape or dtype, or a number is out
            of range; nothing has been changed then.
        """
        numbers = self.check_state_dict(state)
        state = apart(state, self._own.values())
        with self._tree.held.locked("load_state_dict"):
            for name, array in self._own.items():
                array[...] = state[name]
            vars(self).update(numbers)

    def check_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Raise what `load_state_dict` would raise; returns the numbers that it would set."""
        check_arrays(Stateful.state_dict(self), state, "state")
        return {n: checked(_RULES, n, state[n], f"state[{n!r}]") for n in self._numbers}

    def __repr__(self) -> str:
        known = {n: p.default for n, p in inspect.signature(type(self)).parameters.items()}
        values = {name: getattr(self, name) for name in self._numbers}
        shown = [f"{n}={v!r}" for n, v in values.items() if v != known.get(n, 0)]
        within = [repr(self.opt)] if isinstance(self, Wrapper) else []
        return f"{type(self).__name__}({', '.join(within + shown)})"


class Wrapper(Stateful):
    """A wrapper of `opt`; `optimizer` is the innermost one."""

    opt: Optimizer | Wrapper
    optimizer: Optimizer

    def __init__(self, opt: Optimizer | Wrapper) -> None:
        if not isinstance(opt, Optimizer | Wrapper):
            raise TypeError(
                f"opt: expected an optimizer or a wrapper of one, got {type(opt).__name__}"
            )
        self.count = 0
        vars(self).update(opt=opt, optimizer=opt.optimizer if isinstance(opt, Wrapper) else opt)
        self._tree, self._own = self.optimizer._params, {}

    def step(self, grads: Grads, *, weight: float = 1.0) -> bool:
        """Give gradients to this wrapper; returns whether the optimizer took a step.

        `weight` is that of the micro-batch, for an `Accumulation`.
        """
        weight = checked(_RULES, "weight", weight)
        if not 2.0**-64 <= weight <= 2.0**64:  # their sum has to be a number in float32, too
            raise ValueError(f"weight: expected a number in [2**-64, 2**64], got {weight}")
        return self._whole_step(lambda plan: plan.checked(grads), weight)

    def flush(self) -> bool:
        """Take a step on the micro-batches of an `Accumulation` so far; returns whether it did."""
        return self._whole_step(lambda plan: None, 1.0)

    def _whole_step(self, take: Callable[[Plan], Any], weight: float) -> bool:
        plan = self.optimizer._plan
        self.optimizer._prepare(plan, plan.settings)
        # NumPy's warnings are off: `on_nonfinite` decides about such gradients.
        return bool(quietly(self._locked_step, plan, take, weight))

    def _locked_step(self, plan: Plan, take: Callable[[Plan], Any], weight: float) -> bool:
        with plan.held.locked("step"):
            return self._go(take(plan), 1.0, False, weight)

    def _go(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        """The work of this wrapper; returns whether the optimizer took a step. None: flush."""
        raise NotImplementedError

    def _within(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        """`_go` of the wrapped wrapper, or the step of the optimizer."""
        if isinstance(self.opt, Wrapper):
            return self.opt._go(grads, factor, skips, weight)
        if weight != 1:
            raise TypeError(
                "weight: expected an Accumulation around the optimizer, which knows what to do "
                f"with it, got none and {weight}"
            )
        return grads is not None and bool(self.opt._plan.run_step(grads, factor, skips))


class AccumulationSteps(Wrapper):
    """The steps of `Accumulation`."""

    k: int
    weight: float
    _sums: list[Array]
    _given: NDArray[np.bool_]  # which gradients there are in `_sums`, or in `_rows`
    _rows: dict[int, list[SparseRows]]

    def _go(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        if grads is not None:
            self._add(grads, self._weighted(grads, weight), weight)
        if self.weight == 0 or (grads is not None and self.count < self.k):
            return False
        try:
            return self._within(self._means(), factor, skips, 1.0)
        finally:
            vars(self).update(count=0, weight=0.0)
            self._given.fill(False)
            self._rows.clear()

    def _weighted(self, grads: list[Any], weight: float) -> list[Any]:
        """The gradients times `weight`; raises if a parameter gets both SparseRows and arrays."""
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
                grad = self._tree.held.wide(np.asarray(grad))
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
        """The means, divided in place; None for a parameter without a gradient."""
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


class LossScalerSteps(Wrapper):
    """The steps of `LossScaler`."""

    scale: float
    growth: float
    backoff: float
    interval: int

    def _go(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        plan = self.optimizer._plan
        skipped = plan.skipped
        stepped = self._within(grads, factor * (1 / self.scale), True, weight)
        count, scale = self.count + stepped, self.scale
        if plan.skipped != skipped:
            count, scale = 0, scale * self.backoff
        elif count >= self.interval:
            count, scale = 0, scale * self.growth
        vars(self).update(count=count, scale=scale if LEAST <= scale <= MOST else self.scale)
        return stepped


class LookaheadSteps(Wrapper):
    """The steps of `Lookahead`."""

    k: int
    alpha: float
    _slow: list[Array]

    def _go(self, grads: list[Any] | None, factor: float, skips: bool, weight: float) -> bool:
        room = room_of(self._slow) if self.count + 1 >= self.k else None
        stepped = self._within(grads, factor, skips, weight)
        count = self.count + stepped
        if room is not None and count >= self.k:
            count = 0
            approach(self._slow, self._tree.arrays, self.alpha, room, divide=False)
            for param, slow in zip(self._tree.arrays, self._slow, strict=True):
                if param.flags.writeable:  # otherwise it is frozen
                    param[...] = slow
        vars(self)["count"] = count
        return stepped


class SWAUpdates(Stateful):
    """The updates of `SWA`."""

    _averages: list[Array]

    def update(self) -> None:
        """Change the averages in place: include the present parameters."""
        quietly(self._take_in, self._tree)

    def _take_in(self, tree: Params) -> None:
        with tree.held.locked("update"):
            if self.count:
                approach(
                    self._averages,
                    tree.arrays,
                    self.count + 1,
                    room_of(self._averages),
                    divide=True,
                )
            else:
                for average, param in zip(self._averages, tree.arrays, strict=True):
                    average[...] = param
            vars(self)["count"] = min(self.count + 1, MOST_COUNTED)


def shown(arrays: list[Any]) -> list[Any]:
    """Views of a wrapper's arrays for users, who may change their dtype, shape and flags."""
    return [array.view() for array in arrays]


def room_of(arrays: list[Array]) -> Array:
    """Memory for `approach`, taken before anything is changed."""
    return np.empty(max([array.size for array in arrays]), arrays[0].dtype)


def approach(
    averages: list[Array], params: list[Array], factor: float, room: Array, divide: bool
) -> None:
    """``average += (p - average) * factor``, or ``/ factor``; changes the averages."""
    scale, by = np.divide if divide else np.multiply, averages[0].dtype.type(factor)
    for average, param in zip(averages, params, strict=True):
        way = room[: average.size].reshape(average.shape)
        np.subtract(param, average, way)
        scale(way, by, way)
        np.add(average, way, average)
