"""What goes around an optimizer: gradients added up, loss scaling; in averages.py averaged weights.

`Accumulation`, `LossScaler` and `Lookahead` take an optimizer or one another, in any order, and
count only steps that the optimizer took; `SWA` stands beside it. Each keeps its own arrays and
numbers, which `pyoptk.save` writes next to the optimizer's: ``save(path, params=params, opt=opt,
lookahead=lookahead)``. What happens in every step is compiled with the optimizer; these are a few
NumPy passes, most of them every k-th step.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import Rule, checked, real
from .._sparse import SparseRows
from ..checkpoint import check_arrays, fill_arrays
from .base import Optimizer, Uncopied
from .hyper import Array, Grads, at_step

# Between these, a loss scale and 1 / scale are both normal numbers in float32.
_LEAST, _MOST = 2.0**-126, 2.0**126

# For every number by name, in a constructor, an assignment and a checkpoint.
_length = "an integer >= 1", operator.index, lambda n: n >= 1
_RULES: dict[str, Rule] = {
    "k": _length,
    "interval": _length,
    "count": ("an integer >= 0", operator.index, lambda n: n >= 0),
    "alpha": ("a number in [0, 1]", real, lambda x: 0 <= x <= 1),
    "scale": ("a number in [2**-126, 2**126]", real, lambda x: _LEAST <= x <= _MOST),
    "growth": ("a finite number > 1", real, lambda x: 1 < x < float("inf")),
    "backoff": ("a number in (0, 1)", real, lambda x: 0 < x < 1),
}


class Stateful(Uncopied):
    """Some numbers, checked whenever they are set, and some arrays: the state of a wrapper."""

    _numbers: tuple[str, ...]
    _own: dict[str, NDArray[Any]]
    count: int

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, checked(_RULES, name, value) if name in _RULES else value)

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
        self.check_state_dict(state)
        fill_arrays(self._own, {name: state[name] for name in self._own})
        for name in self._numbers:
            setattr(self, name, state[name])

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would."""
        check_arrays(self.state_dict(), state, "state")
        for name in self._numbers:
            checked(_RULES, name, state[name], f"state[{name!r}]")

    def __repr__(self) -> str:
        settings = "".join(f", {name}={getattr(self, name)!r}" for name in self._numbers)
        return f"{type(self).__name__}({getattr(self, 'opt', '...')!r}{settings})"


class Wrapper(Stateful):
    """Around `opt`; `optimizer` is the innermost one."""

    opt: Optimizer | Wrapper
    optimizer: Optimizer

    def __init__(self, opt: Optimizer | Wrapper) -> None:
        if not isinstance(opt, Optimizer | Wrapper):
            raise TypeError(
                f"opt: expected an optimizer or a wrapper of one, got {type(opt).__name__}"
            )
        self.opt = opt
        self.optimizer = opt.optimizer if isinstance(opt, Wrapper) else opt

    def step(self, grads: Grads) -> bool:
        """What a step does is up to each; returns whether the optimizer took one."""
        calls = self.optimizer._plan.calls
        self.opt.step(grads)
        return bool(self.optimizer._plan.calls != calls)


def named(opt: Optimizer, what: str, arrays: list[Array]) -> dict[str, NDArray[Any]]:
    return {opt._name_of(what, i): array for i, array in enumerate(arrays)}


class Accumulation(Wrapper):
    """Gradient accumulation: one step of `opt` on the mean gradient of k micro-batches.

    ``sum = g_1; sum += g_2; ...; sum += g_k``, then ``opt.step`` with `grad_scale` / k, so that the
    mean takes no pass of its own; clipping by norm, like all that `opt` does, sees the mean.

    Parameters
    ----------
    opt : optimizer or wrapper
    k : int
        How many micro-batches make a step, at least 1.

    Attributes
    ----------
    count : int
        How many have been added up since the last step.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([1.0, 2.0])
    >>> accumulation = pyoptk.Accumulation(pyoptk.SGD(w, lr=0.5), k=2)
    >>> accumulation.step(np.array([1.0, 0.0])), accumulation.step(np.array([3.0, 2.0]))
    (False, True)
    >>> w
    array([0. , 1.5])
    """

    _numbers = ("k", "count")
    k: int

    def __init__(self, opt: Optimizer | Wrapper, k: int) -> None:
        super().__init__(opt)
        self.k, self.count = k, 0
        self._sums = [np.zeros_like(param) for param in self.optimizer._arrays()]
        self._given = np.zeros(len(self._sums), bool)
        self._own = {**named(self.optimizer, "sum", self._sums), "given": self._given}
        self._rows: dict[int, list[SparseRows]] = {}

    def step(self, grads: Grads) -> bool:
        """Add the gradients of a micro-batch; every k-th time change the parameters in place.

        Parameters
        ----------
        grads : array, sequence or dict of arrays
            As for the optimizer's step. Only read, but set to zero if the optimizer has
            `zero_grad`. Where it is None, there is nothing to add; a parameter with None in all k
            micro-batches gets None. Rows of `SparseRows` are gathered, one micro-batch after the
            other, and all that were in one of them are stepped.

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
        opt = self.optimizer
        ordered = opt._plan.ordered(grads)
        self._check_kinds(ordered)
        zeroed = [kind["zero_grad"] for kind in at_step(opt._plan.calls, opt._merged)]
        with np.errstate(over="ignore", invalid="ignore"):  # `on_nonfinite` is there for these
            for i, (total, grad) in enumerate(zip(self._sums, ordered, strict=True)):
                if isinstance(grad, SparseRows):
                    copied = SparseRows(grad.indices, grad.values.copy(), grad.shape)
                    self._rows.setdefault(i, []).append(copied)
                    self._given[i] = True
                elif grad is not None:
                    if self._given[i]:
                        np.add(total, grad, out=total)
                    else:
                        np.copyto(total, grad)
                    self._given[i] = True
        for kind, grad in zip(opt._of, ordered, strict=True):
            if grad is not None and zeroed[kind]:
                np.asarray(grad)[...] = 0
        self.count += 1
        if self.count < self.k:
            return False
        sums: list[Any] = [
            s if there else None for s, there in zip(self._sums, self._given, strict=True)
        ]
        for i, parts in self._rows.items():
            indices = np.concatenate([part.indices for part in parts])
            values = np.concatenate([part.values for part in parts])
            sums[i] = SparseRows(indices, values, parts[0].shape)
        try:
            with opt._scaled(1 / self.count):
                return super().step(opt._like_params(sums))
        finally:
            self.count = 0
            self._given[...] = False
            self._rows.clear()

    def _check_kinds(self, ordered: list[Any]) -> None:
        for i, grad in enumerate(ordered):
            if grad is None or not self._given[i]:
                continue
            if isinstance(grad, SparseRows) != (i in self._rows):
                keys = self.optimizer._keys
                raise TypeError(
                    f"grads{'' if keys is None else f'[{keys[i]!r}]'}: expected "
                    f"{'SparseRows' if i in self._rows else 'an array'} as in this step's other "
                    f"micro-batches, got {type(grad).__name__}"
                )

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
        self.interval, self.count = interval, 0
        self._own = {}

    def step(self, grads: Grads) -> bool:
        """Take a step of `opt` on gradients / `scale`, or leave it undone; adapt `scale`.

        One that is left undone changes nothing but `scale`, `count` and the optimizer's `skipped`.
        Returns whether the optimizer took a step. Errors are those of its own step, and nothing has
        been changed.
        """
        skipped = self.optimizer.skipped
        with self.optimizer._scaled(1 / self.scale, skip=True):
            stepped = super().step(grads)
        if self.optimizer.skipped != skipped:
            self._rescale(self.backoff)
        elif stepped:
            self.count += 1
            if self.count >= self.interval:
                self._rescale(self.growth)
        return stepped

    def _rescale(self, factor: float) -> None:
        self.count = 0
        if _LEAST <= self.scale * factor <= _MOST:
            self.scale *= factor
