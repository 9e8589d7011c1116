"""`lr_range_test`: the loss of a model while the learning rate grows; then all is restored."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks
from .._bound import Movable
from .._memory import as_now
from .._products import put_all
from ..layers.places import inside
from ..optim import Rprop
from ..optim.stateful import Restoring, at_once
from .batches import source_of
from .console import Interrupts
from .saved import check_optimizer, parts_of
from .step import Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEMORY = 0.9  # of the mean of the losses
_CLEARLY = 1.25  # times the standard deviation of the losses of batches
_WORSE = 4.0  # the test ends where the mean is so many times the lowest


class LRRange:
    """What `lr_range_test` found.

    Attributes
    ----------
    lr, loss, smooth : lists of float
        For each step the learning rate, the loss before it, and the mean of the losses so far with
        weights that decay by 0.9 a step.
    suggestion : float or None
        The learning rate at which the mean falls fastest. None if it does not fall by more than the
        losses of batches differ, as with a model that is trained already, or fastest at the start.
    why : str
        Why there is no suggestion; "" if there is one.
    """

    def __init__(self) -> None:
        self.lr: list[float] = []
        self.loss: list[float] = []
        self.smooth: list[float] = []
        self._sum = self._weight = 0.0

    def add(self, lr: float, loss: float) -> bool:
        """Add a step; returns whether the loss has become much worse."""
        if not math.isfinite(loss):
            return True
        self._sum = _MEMORY * self._sum + loss
        self._weight = _MEMORY * self._weight + 1
        self.lr.append(lr)
        self.loss.append(loss)
        self.smooth.append(self._sum / self._weight)
        low, first = min(self.smooth), self.smooth[0]
        return self.smooth[-1] > low + (_WORSE - 1) * max(abs(low), abs(first - low))

    @property
    def suggestion(self) -> float | None:
        return self._found[0]

    @property
    def why(self) -> str:
        return self._found[1]

    @property
    def _found(self) -> tuple[float | None, str]:
        """The suggestion, or None and why there is none."""
        count = len(self.lr)
        if count < 4:
            return None, "there are fewer than 4 steps"
        # Losses of batches differ: the first mean is one of them, and a slope of two is noise.
        lowest, half = self.smooth.index(min(self.smooth)), max(1, count // 10)
        noise = np.std(np.subtract(self.loss, self.smooth)[: lowest + 1])
        fall = np.mean(self.loss[: max(2, count // 4)]) - self.smooth[lowest]
        until = np.array(self.smooth[half : lowest + 1])
        falls = until[2 * half :] - until[: -2 * half]
        if fall <= _CLEARLY * noise or falls.size == 0:
            return None, (
                "the loss does not fall by more than its batches differ: the model is trained "
                f"already, or learns fastest below {self.lr[0]:.2g}"
            )
        steepest = int(falls.argmin())
        if steepest == 0:
            return None, f"the loss falls fastest at the start: try a lowest below {self.lr[0]:.2g}"
        return self.lr[steepest + 2 * half], ""

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the curve and the suggestion, as `History.plot` does."""
        from .pictures import drawn, learning_rates

        return drawn(lambda figure: learning_rates(figure, self), path)

    def __repr__(self) -> str:
        if not self.lr:
            return "no steps"
        best = self.suggestion
        found = f"no suggestion, {self.why}" if best is None else f"suggested lr {best:.2g}"
        return f"{found}; {len(self.lr)} steps from {self.lr[0]:.2g} to {self.lr[-1]:.2g}"


class _PutBack(Restoring):
    """At the end of the block model, optimizer and generator are as they were before it."""

    def __init__(self, model: Any, chain: list[Any], rng: np.random.Generator) -> None:
        self.opt, bits = chain[0], rng.bit_generator
        self.groups = dict(self.opt.groups or {})
        self.calls = [partial(setattr, self.opt, "lr", self.opt.lr)]
        if self.groups:
            self.calls.append(partial(setattr, self.opt, "groups", self.groups))
        layers = inside(model)
        dicts = [model.params, *(one.grads for one in layers)]
        self.calls.append(partial(at_once, as_now(dicts)))
        for one in layers:
            if counters := getattr(one, "_counters", None):
                self.calls.append(partial(put_all, [(one, counters)], []))
        for part in parts_of(model, chain).values():
            if hasattr(part, "load_state_dict") and not isinstance(part, Movable):
                load = partial(part.load_state_dict, _copied(part.state_dict()))
                load()  # so that errors are raised before any training
                self.calls.append(load)
        self.calls.append(partial(setattr, bits, "state", bits.state))
        plan = self.opt._plan  # what it tells about its last step
        self.calls.append(partial(_tell_again, plan, plan.norm, plan.watch))
        plan.watch = None

    def set_lr(self, lr: float, base: float) -> None:
        """The lr of the optimizer, and in proportion that of groups."""
        self.opt.lr = lr
        own = {
            name: {**values, "lr": _now(values["lr"], self.opt) * lr / base}
            if "lr" in values
            else values
            for name, values in self.groups.items()
        }
        if self.groups:
            self.opt.groups = own


def _tell_again(plan: Any, norm: float, watch: Any) -> None:
    plan.norm, plan.watch = norm, watch


def _copied(state: Any) -> Any:
    if isinstance(state, np.ndarray):
        return state.copy()
    return {k: _copied(v) for k, v in state.items()} if isinstance(state, dict) else state


def _now(value: Any, opt: Any) -> float:
    """A hyper-parameter as a number; a schedule at the next step."""
    return float(value(opt._plan.calls) if callable(value) else value)


def lr_range_test(
    model: Any,
    loss: Callable[..., Any],
    optimizer: Any,
    x: Any,
    y: Any = None,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    batch_size: int = 32,
    lengths: Any = None,
    batch_axis: int = 0,
    rng: np.random.Generator | None = None,
) -> LRRange:
    """Train for some steps with a learning rate that grows, and put everything back as it was.

    The learning rate grows by the same factor in each step (Smith 2017, section 3.3; on a
    logarithmic axis). The test ends early where the loss is four times as high as its lowest mean,
    not finite, or after Ctrl-C. Parameters, gradients, the states and step counts of
    optimizer and wrappers, what its `grad_norm` and `watched` tell, and `rng` are then as before,
    also after an exception.

    Parameters
    ----------
    model, loss, optimizer, x, y, batch_size, lengths, batch_axis, rng
        As for `fit`. Arrays are shuffled; batches that are given begin again at their end.
    lowest, highest : float
        The first and the last learning rate; 0 < lowest < highest. Groups with a learning rate of
        their own get one in proportion.
    steps : int
        At least 2.

    Returns
    -------
    LRRange
        The curve, a suggestion, and ``plot``.

    Raises
    ------
    TypeError, ValueError
        For arguments of another type, shape or range; the message names them.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> from pyoptk.layers import Linear, Sequential
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((256, 8)).astype("float32")
    >>> model = Sequential(Linear(8, 32, "tanh", rng=rng), Linear(32, 1, rng=rng))
    >>> opt = pyoptk.Adam(model.params)
    >>> y = x[:, :1] - x[:, 1:2]
    >>> found = pyoptk.lr_range_test(model, pyoptk.losses.mse, opt, x, y, rng=rng)
    >>> 1e-3 < found.suggestion < 1e-1
    True
    >>> opt.lr = found.suggestion
    """
    _checks.check_integer("steps", steps, 2, 2**63, "an integer >= 2")
    low = _checks.number("lowest", lowest, 2.0**-126, math.inf, "a number > 0")
    high = _checks.number("highest", highest, low, math.inf, f"a number above lowest, {low:g}")
    _checks.check_rng(rng)
    chain = check_optimizer(optimizer, model)
    if isinstance(chain[0], Rprop):
        raise TypeError("optimizer: expected one whose steps go with lr, got Rprop")
    source = source_of(model, x, y, lengths, batch_axis, batch_size, steps)
    step = Step(model, loss, batch_axis == 0, optimizer, chain)
    rng = np.random.default_rng() if rng is None else rng
    found, base = LRRange(), _now(chain[0].hyper["lr"], chain[0])
    with Interrupts(patient=True) as interrupts, _PutBack(model, chain, rng) as before:
        while len(found.lr) < steps and not interrupts.requested:
            for x_, target, lengths_, _ in source(rng):
                lr = low * (high / low) ** (len(found.lr) / (steps - 1))
                before.set_lr(lr, base or 1.0)
                _, value, dy = step.forward(x_, target, lengths_)
                if found.add(lr, value) or interrupts.requested:
                    return found
                step.backward(dy)
                if len(found.lr) == steps:
                    break
    return found
