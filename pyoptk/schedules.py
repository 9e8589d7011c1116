"""Schedules: functions of the step that give a hyper-parameter, mostly the learning rate.

A schedule is called with t, the number of steps already taken: f(0) is the value of the first step,
as with PyTorch's `last_epoch` and Optax's `count`. All lengths are in steps. The schedules of this
module can be printed, compared and pickled; all but `ReduceOnPlateau` are immutable. Arguments are
checked when the schedule is made, t when it is called. Optimizers accept any other function of the
step, too.

>>> from pyoptk import schedules
>>> lr = schedules.join([schedules.linear_warmup(0, 0.1, 100), schedules.cosine(0.1, 900)], [100])
>>> [lr(0), lr(50), lr(100), lr(550), lr(1000)]
[0.0, 0.05, 0.1, 0.05, 0.0]
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Concatenate, Literal, ParamSpec

from ._checks import Rule, checked, real
from .checkpoint import check_arrays

Schedule = Callable[[int], float]
_P = ParamSpec("_P")


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(map(operator.index, values))


_at_least_0 = "a finite number >= 0", real, lambda x: 0 <= x < math.inf
_above_0 = "a finite number > 0", real, lambda x: 0 < x < math.inf
_inside_0_1 = "a number in (0, 1)", real, lambda x: 0 < x < 1
_count = "an integer >= 0", operator.index, lambda n: n >= 0
_length = "an integer >= 1", operator.index, lambda n: n >= 1
_RULES: dict[str, Rule] = {  # every argument by name
    **dict.fromkeys(["value", "initial", "final", "peak", "min_lr"], _at_least_0),
    **dict.fromkeys(["decay_rate", "threshold", "eps"], _at_least_0),
    **dict.fromkeys(["gamma", "power", "div_factor", "final_div_factor"], _above_0),
    **dict.fromkeys(["factor", "base_momentum", "max_momentum"], _inside_0_1),
    **dict.fromkeys(["step", "warmup_steps", "patience", "cooldown"], _count),
    **dict.fromkeys(["bad_updates", "cooldown_left"], _count),
    **dict.fromkeys(["step_size", "decay_steps", "total_steps", "T_0", "T_mult"], _length),
    "pct_start": ("a number in [0, 1]", real, lambda x: 0 <= x <= 1),
    "metric": ("a number", real, lambda x: True),
    "best": ("a number other than NaN", real, lambda x: not math.isnan(x)),
    "milestones": ("increasing integers >= 1", _integers, lambda v: sorted({0, *v}) == [0, *v]),
    "boundaries": ("increasing integers >= 0", _integers, lambda v: sorted({-1, *v}) == [-1, *v]),
    "schedules": ("functions of the step", tuple, lambda v: len(v) and all(map(callable, v))),
    "three_phase": ("True or False", lambda x: x, lambda x: isinstance(x, bool)),
    "anneal_strategy": ("'cos' or 'linear'", lambda x: x, lambda x: x in ("cos", "linear")),
    "mode": ("'min' or 'max'", lambda x: x, lambda x: x in ("min", "max")),
    "threshold_mode": ("'rel' or 'abs'", lambda x: x, lambda x: x in ("rel", "abs")),
}
_checked = functools.partial(checked, _RULES)


@dataclass(frozen=True, repr=False)
class _Made:
    """A formula with all arguments fixed but t."""

    maker: Any
    arguments: dict[str, Any]

    def __call__(self, step: int) -> float:
        t = _checked("step", step)
        try:
            return float(self.maker.__wrapped__(t, **self.arguments))
        except OverflowError:  # from math.pow; the optimizer refuses inf by its name
            return math.inf

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.maker.__name__}({arguments})"


def _schedule(formula: Callable[Concatenate[int, _P], float]) -> Callable[_P, Schedule]:
    """Turn formula(t, ...) into a function of the other arguments that returns a schedule."""
    _, *parameters = inspect.signature(formula).parameters.values()
    signature = inspect.Signature(parameters, return_annotation="Schedule")

    @functools.wraps(formula)
    def maker(*args: _P.args, **kwargs: _P.kwargs) -> Schedule:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        made = _Made(maker, {name: _checked(name, v) for name, v in given.arguments.items()})
        made(0)  # raises if the formula finds that its arguments contradict each other
        return made

    maker.__signature__ = signature  # type: ignore[attr-defined]
    return maker


@_schedule
def constant(t: int, value: float) -> float:
    """Always ``value``: `optax.constant_schedule`.

    >>> constant(0.1)(1000)
    0.1
    """
    return value


@_schedule
def step(t: int, initial: float, step_size: int, gamma: float = 0.1) -> float:
    """``initial * gamma ** (t // step_size)``: `torch.optim.lr_scheduler.StepLR`.

    >>> [step(1, step_size=10, gamma=0.5)(t) for t in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    return initial * math.pow(gamma, t // step_size)


@_schedule
def multi_step(t: int, initial: float, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """``initial * gamma ** (number of milestones <= t)``: `torch.optim.lr_scheduler.MultiStepLR`.

    `milestones` are increasing integers >= 1.

    >>> [multi_step(1, [10, 15], gamma=0.5)(t) for t in (9, 10, 15)]
    [1.0, 0.5, 0.25]
    """
    return initial * math.pow(gamma, bisect_right(milestones, t))


@_schedule
def exponential(t: int, initial: float, gamma: float, decay_steps: int = 1) -> float:
    """``initial * gamma ** (t / decay_steps)``: `optax.exponential_decay`.

    With ``decay_steps=1`` also `torch.optim.lr_scheduler.ExponentialLR`.

    >>> [exponential(1, gamma=0.25, decay_steps=10)(t) for t in (0, 5, 10)]
    [1.0, 0.5, 0.25]
    """
    return initial * math.pow(gamma, t / decay_steps)


@_schedule
def inverse_time(t: int, initial: float, decay_rate: float, decay_steps: int = 1) -> float:
    """``initial / (1 + decay_rate * t / decay_steps)``: Keras's `InverseTimeDecay`.

    PyTorch and Optax have none; JAX has `jax.example_libraries.optimizers.inverse_time_decay`.

    >>> [inverse_time(1, decay_rate=0.5, decay_steps=10)(t) for t in (0, 20, 60)]
    [1.0, 0.5, 0.25]
    """
    return initial / (1 + decay_rate * t / decay_steps)


@_schedule
def polynomial(
    t: int, initial: float, decay_steps: int, power: float = 1.0, final: float = 0.0
) -> float:
    """``final + (initial - final) * (1 - t / decay_steps) ** power``, `final` from decay_steps on.

    `optax.polynomial_schedule`; with ``final=0`` also `torch.optim.lr_scheduler.PolynomialLR`.

    >>> [polynomial(1, decay_steps=10, power=2)(t) for t in (0, 5, 10, 99)]
    [1.0, 0.25, 0.0, 0.0]
    """
    left = 1 - min(t, decay_steps) / decay_steps
    return final + (initial - final) * math.pow(left, power)


@_schedule
def linear_warmup(t: int, initial: float, peak: float, warmup_steps: int) -> float:
    """``initial + (peak - initial) * t / warmup_steps``, `peak` from warmup_steps on.

    `optax.warmup_constant_schedule`, and `torch.optim.lr_scheduler.LinearLR` with ``initial = peak
    * start_factor``. With ``warmup_steps=0`` it is `peak` from the first step.

    >>> [linear_warmup(0, 1, warmup_steps=4)(t) for t in (0, 1, 4, 99)]
    [0.0, 0.25, 1.0, 1.0]
    """
    return initial + (peak - initial) * t / warmup_steps if t < warmup_steps else peak


def _along_cosine(first: float, last: float, done: float) -> float:
    """Half a period of a cosine, from `first` at done = 0 to `last` at done = 1."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


@_schedule
def cosine(t: int, initial: float, decay_steps: int, final: float = 0.0) -> float:
    """``final + (initial - final) * (1 + cos(pi * t / decay_steps)) / 2``, then `final`.

    `optax.cosine_decay_schedule` with ``alpha = final / initial``. Up to `decay_steps` it is also
    `torch.optim.lr_scheduler.CosineAnnealingLR`, which rises again after that.

    >>> [cosine(1, decay_steps=10)(t) for t in (0, 5, 10, 99)]
    [1.0, 0.5, 0.0, 0.0]
    """
    return _along_cosine(initial, final, min(t, decay_steps) / decay_steps)


@_schedule
def cosine_restarts(t: int, initial: float, T_0: int, T_mult: int = 1, final: float = 0.0) -> float:
    """`cosine` in repeated cycles: SGDR (Loshchilov & Hutter 2017).

    `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`. The first cycle has `T_0` steps; each
    later cycle is `T_mult` times as long as the one before. A cycle starts at `initial` and would
    reach `final` at the step where the next one starts.

    >>> [cosine_restarts(1, T_0=10, T_mult=2)(t) for t in (0, 5, 10, 20, 30)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    if T_mult == 1:
        t %= T_0
    while t >= T_0:
        t, T_0 = t - T_0, T_0 * T_mult
    return _along_cosine(initial, final, t / T_0)


@_schedule
def one_cycle(
    t: int,
    peak: float,
    total_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    three_phase: bool = False,
) -> float:
    """One rise and one fall (Smith & Topin 2019): `torch.optim.lr_scheduler.OneCycleLR`.

    Rises from ``initial = peak / div_factor`` to `peak` at ``t = pct_start * total_steps - 1``,
    then falls to ``initial / final_div_factor`` at the last step and stays there (PyTorch raises
    an error instead). `one_cycle_momentum` is the schedule of the momentum for it.

    Parameters
    ----------
    peak, total_steps, pct_start, div_factor, final_div_factor
        As above; `pct_start` in [0, 1]. `peak` is PyTorch's ``max_lr``.
    anneal_strategy : {"cos", "linear"}
        The shape of the curve between two values.
    three_phase : bool
        Fall from `peak` to ``initial`` in as many steps as the rise takes, and only then to the
        last value.

    Examples
    --------
    >>> [one_cycle(1, total_steps=10, pct_start=0.5, div_factor=4)(t) for t in (0, 2, 4, 9)]
    [0.25, 0.625, 1.0, 2.5e-05]
    """
    initial = peak / div_factor
    last = total_steps - 1
    up = pct_start * total_steps - 1
    ends, values = [up, last], [initial, peak, initial / final_div_factor]
    if three_phase:
        ends, values = [up, 2 * up, last], [initial, peak, *values[::2]]
    t = min(t, last)
    phase = next(i for i, end in enumerate(ends) if t <= end)
    start, end = ends[phase - 1] if phase else 0, ends[phase]
    done = (t - start) / (end - start) if end > start else 1.0
    if anneal_strategy == "linear":
        return values[phase] + (values[phase + 1] - values[phase]) * done
    return _along_cosine(values[phase], values[phase + 1], done)


def one_cycle_momentum(
    total_steps: int,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    three_phase: bool = False,
) -> Schedule:
    """Falls from `max_momentum` to `base_momentum` at the peak of `one_cycle`, then rises again.

    The values that `torch.optim.lr_scheduler.OneCycleLR` gives momentum or beta1. Both momenta are
    in (0, 1); the other arguments are those of `one_cycle`.

    >>> beta1 = one_cycle_momentum(total_steps=10, pct_start=0.5)
    >>> [round(beta1(t), 4) for t in (0, 2, 4, 9)]
    [0.95, 0.9, 0.85, 0.95]
    """
    base = _checked("base_momentum", base_momentum)
    div_factor = base / _checked("max_momentum", max_momentum)
    return one_cycle(base, total_steps, pct_start, div_factor, 1.0, anneal_strategy, three_phase)


@_schedule
def join(t: int, schedules: Sequence[Schedule], boundaries: Sequence[int]) -> float:
    """One schedule after the other, each counting from 0: `optax.join_schedules`.

    `boundaries` are the steps at which the next schedule begins: increasing, one fewer than
    `schedules`.

    >>> [join([constant(1), step(2, 5, gamma=0.5)], [10])(t) for t in (9, 10, 15)]
    [1.0, 2.0, 1.0]
    """
    if len(boundaries) != len(schedules) - 1:
        expected = f"{len(schedules) - 1}, one fewer than schedules"
        raise ValueError(f"boundaries: expected {expected}, got {len(boundaries)}")
    i = bisect_right(boundaries, t)
    return schedules[i](t - boundaries[i - 1] if i else t)


@dataclass
class ReduceOnPlateau:
    """Reduced when a metric stops improving: `torch.optim.lr_scheduler.ReduceLROnPlateau`.

    Its value depends on the calls of `update` alone; the step it is called with does not matter.

    Parameters
    ----------
    initial, factor
        The first value; the factor of each reduction, in (0, 1).
    mode : {"min", "max"}
        Whether lower or higher is better.
    patience : int
        How many updates in a row without improvement to accept; the next one reduces.
    threshold, threshold_mode
        A metric improves if it beats the best so far by more than `threshold` ("abs"), or by more
        than `threshold` times that best ("rel", for metrics > 0).
    cooldown : int
        How many updates after a reduction are not counted as bad.
    min_lr, eps
        The value never falls below `min_lr`; a reduction by `eps` or less is not made.

    Examples
    --------
    >>> lr = ReduceOnPlateau(1, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     lr.update(loss)
    >>> lr(4)
    0.5
    """

    initial: float
    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    value: float = field(init=False)
    best: float = field(init=False)
    bad_updates: int = field(init=False, default=0)
    cooldown_left: int = field(init=False, default=0)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _checked(name, value) if name in _RULES else value)

    def __post_init__(self) -> None:
        self.value = self.initial
        self.best = math.inf if self.mode == "min" else -math.inf

    def __call__(self, step: int) -> float:
        _checked("step", step)
        return self.value

    def update(self, metric: float) -> None:
        """Take a new metric and reduce the value if it is time; NaN is no improvement."""
        vars(self).update(self._after(metric))  # in one call, which no signal can interrupt

    def _after(self, metric: float) -> dict[str, float]:
        """What `update` would change."""
        metric, best, bad = _checked("metric", metric), self.best, self.bad_updates + 1
        value, left = self.value, self.cooldown_left
        beyond = -self.threshold if self.mode == "min" else self.threshold
        goal = best * (1 + beyond) if self.threshold_mode == "rel" else best + beyond
        if metric < goal if self.mode == "min" else metric > goal:
            best, bad = metric, 0
        if left > 0:
            left, bad = left - 1, 0
        if bad > self.patience:
            reduced = max(value * self.factor, self.min_lr)
            value = reduced if value - reduced > self.eps else value
            left, bad = self.cooldown, 0
        return {"value": value, "best": best, "bad_updates": bad, "cooldown_left": left}

    def state_dict(self) -> dict[str, float]:
        """Everything that `update` changes: `value`, `best`, `bad_updates`, `cooldown_left`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.init}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a `state_dict`; raises and changes nothing if it does not fit."""
        check_arrays(self.state_dict(), state, "state")
        fresh = {name: _checked(name, state[name], f"state[{name!r}]") for name in state}
        self.__dict__.update(fresh)
