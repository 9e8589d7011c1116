"""Schedules against values computed by hand, and PyTorch, Optax and JAX where installed."""

import inspect
import json
import math
import pickle

import numpy as np
import pytest

import pyoptk
from pyoptk import schedules
from pyoptk.schedules import (
    ReduceOnPlateau,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_time,
    join,
    linear_warmup,
    multi_step,
    one_cycle,
    one_cycle_momentum,
    polynomial,
    step,
)

# ---- by hand -------------------------------------------------------------------------------------

HALF = math.sqrt(0.5)
# schedule, {step: value}: first, last, beyond the last, both sides of a corner
BY_HAND = [
    (constant(3), {0: 3, 10**9: 3}),
    (step(8, step_size=3, gamma=0.5), {0: 8, 2: 8, 3: 4, 5: 4, 6: 2, 300: 8 * 0.5**100}),
    (step(8, step_size=3), {3: 0.8, 6: 0.08}),
    (multi_step(8, [2, 3, 7], gamma=0.5), {0: 8, 1: 8, 2: 4, 3: 2, 6: 2, 7: 1, 10**9: 1}),
    (multi_step(8, [], gamma=0.5), {0: 8, 10**9: 8}),
    (exponential(8, gamma=0.5), {0: 8, 1: 4, 3: 1, 10**9: 0}),
    (exponential(8, gamma=0.5, decay_steps=4), {0: 8, 2: 8 * HALF, 4: 4, 8: 2}),
    (exponential(1, gamma=2), {0: 1, 10: 1024}),
    (inverse_time(8, decay_rate=1), {0: 8, 1: 4, 3: 2, 7: 1}),
    (inverse_time(8, decay_rate=3, decay_steps=10), {0: 8, 10: 2, 50: 0.5}),
    (inverse_time(8, decay_rate=0), {0: 8, 10**9: 8}),
    (polynomial(8, decay_steps=4), {0: 8, 1: 6, 3: 2, 4: 0, 5: 0, 10**9: 0}),
    (polynomial(8, decay_steps=4, power=0.5, final=4), {0: 8, 3: 6, 4: 4, 5: 4}),
    (polynomial(2, decay_steps=4, power=2, final=10), {0: 2, 2: 8, 4: 10, 5: 10}),
    (linear_warmup(0, 8, warmup_steps=4), {0: 0, 1: 2, 3: 6, 4: 8, 5: 8, 10**9: 8}),
    (linear_warmup(0, 8, warmup_steps=0), {0: 8, 1: 8}),
    (cosine(8, decay_steps=4), {0: 8, 1: 4 + 4 * HALF, 2: 4, 4: 0, 5: 0, 8: 0, 10**9: 0}),
    (cosine(8, decay_steps=1, final=2), {0: 8, 1: 2, 2: 2}),
    (cosine_restarts(8, T_0=4), {0: 8, 2: 4, 3: 4 - 4 * HALF, 4: 8, 6: 4, 4 * 10**9: 8}),
    (cosine_restarts(8, T_0=4, T_mult=3, final=2), {0: 8, 2: 5, 4: 8, 10: 5, 16: 8, 34: 5, 52: 8}),
    # exactly at the restarts, where a formula with a logarithm would be off by one
    (cosine_restarts(8, T_0=1, T_mult=10), {(10**n - 1) // 9: 8 for n in range(16)}),
    # corners at t = 3 (peak), 6 (end of the fall, three phases) and 9 (the last of 10 steps)
    (
        one_cycle(8, 10, pct_start=0.4, div_factor=4, final_div_factor=2, anneal_strategy="linear"),
        {0: 2, 1: 4, 2: 6, 3: 8, 4: 8 - 7 / 6, 6: 4.5, 9: 1, 10: 1, 10**9: 1},
    ),
    (
        one_cycle(8, 10, 0.4, 4, 2, "linear", three_phase=True),
        {0: 2, 1: 4, 3: 8, 4: 6, 6: 2, 7: 5 / 3, 9: 1, 10: 1, 10**9: 1},
    ),
    (one_cycle(8, 9, 5 / 9, 4, 2), {0: 2, 2: 5, 4: 8, 6: 4.5, 8: 1, 9: 1}),
    (one_cycle(25, 1000), {0: 1, 299: 25, 999: 1e-4, 1000: 1e-4}),
    (one_cycle(8, 10, pct_start=1.0, div_factor=4), {0: 2, 9: 8, 10: 8}),
    (one_cycle(8, 10, pct_start=0.1, div_factor=4, final_div_factor=2), {0: 8, 9: 1}),  # no way up
    (one_cycle(8, 1, div_factor=4, final_div_factor=2), {0: 1, 1: 1}),
    (one_cycle_momentum(1000), {0: 0.95, 299: 0.85, 999: 0.95, 1000: 0.95}),
    (one_cycle_momentum(10, 0.5, 0.9, 0.4, "linear", True), {0: 0.9, 3: 0.5, 6: 0.9, 9: 0.9}),
    (join([constant(3)], []), {0: 3, 10**9: 3}),
    (
        join([linear_warmup(0, 8, 4), cosine(8, 6), constant(1)], [4, 10]),
        {0: 0, 3: 6, 4: 8, 7: 4, 9: 4 - 2 * math.sqrt(3), 10: 1, 99: 1},
    ),
    (join([constant(3), math.sqrt], [0]), {0: 0, 4: 2}),
    (ReduceOnPlateau(3), {0: 3, 10**9: 3}),
]


@pytest.mark.parametrize(("schedule", "values"), BY_HAND, ids=[repr(row[0]) for row in BY_HAND])
def test_values_are_those_worked_out_by_hand(schedule, values):
    for t, value in values.items():
        assert schedule(t) == pytest.approx(value, rel=1e-14, abs=1e-15), f"step {t}"
        assert type(schedule(t)) is float
    assert schedule(np.int64(0)) == schedule(0)


@pytest.mark.parametrize("schedule", [row[0] for row in BY_HAND if "built-in" not in repr(row)])
def test_a_schedule_can_be_pickled_compared_and_read_back_from_its_repr(schedule):
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule
    assert [copy(t) for t in range(20)] == [schedule(t) for t in range(20)]
    if not isinstance(schedule, ReduceOnPlateau):  # shows its state, which is no argument
        assert eval(repr(schedule)) == schedule


def test_a_schedule_reads_as_it_was_made():
    assert repr(step(1, 30)) == "step(initial=1.0, step_size=30, gamma=0.1)"
    assert repr(multi_step(np.float32(0.5), np.array([3, 4]), 0.25)) == (
        "multi_step(initial=0.5, milestones=(3, 4), gamma=0.25)"
    )
    assert list(inspect.signature(step).parameters) == ["initial", "step_size", "gamma"]
    assert step.__doc__.startswith("``initial * gamma ** (t // step_size)``")
    assert step(1, 30) != step(1, 31)


def test_every_schedule_has_a_row():
    made_here = {name for name, f in vars(schedules).items() if inspect.isfunction(f)
                 and f.__module__ == schedules.__name__ and name[0] != "_"}  # fmt: skip
    rows = {repr(schedule).split("(")[0] for schedule, _ in BY_HAND}
    assert rows | {"one_cycle_momentum"} == made_here | {"ReduceOnPlateau"}


def test_what_grows_beyond_all_numbers_is_refused_by_the_optimizer():
    assert exponential(1, 2)(5000) == math.inf
    opt = pyoptk.SGD(np.ones(1), lr=exponential(1, 1e200))
    opt.step(np.zeros(1))
    opt.step(np.zeros(1))
    with pytest.raises(ValueError, match=r"^lr: expected a finite number >= 0, got inf$"):
        opt.step(np.zeros(1))
    assert opt.steps == 2


# ---- refusals ------------------------------------------------------------------------------------

nan, inf = math.nan, math.inf
WRONG_VALUES = {
    "constant(-1)": "value: expected a finite number >= 0, got -1",
    "constant(10**320)": f"value: expected a finite number >= 0, got {10**320}",
    "step(nan, 1)": "initial: expected a finite number >= 0, got nan",
    "step(1, 0)": "step_size: expected an integer >= 1, got 0",
    "step(1, 2, nan)": "gamma: expected a finite number > 0, got nan",
    "step(1, 2, 0)": "gamma: expected a finite number > 0, got 0",
    "step(1, 2)(-1)": "step: expected an integer >= 0, got -1",
    "ReduceOnPlateau(1)(-1)": "step: expected an integer >= 0, got -1",
    "multi_step(1, [5, 3])": "milestones: expected increasing integers >= 1, got [5, 3]",
    "multi_step(1, [3, 3])": "milestones: expected increasing integers >= 1, got [3, 3]",
    "multi_step(1, [0, 3])": "milestones: expected increasing integers >= 1, got [0, 3]",
    "inverse_time(1, -1)": "decay_rate: expected a finite number >= 0, got -1",
    "polynomial(1, 0)": "decay_steps: expected an integer >= 1, got 0",
    "polynomial(1, 1, -1)": "power: expected a finite number > 0, got -1",
    "cosine(1, 1, inf)": "final: expected a finite number >= 0, got inf",
    "linear_warmup(0, -1, 1)": "peak: expected a finite number >= 0, got -1",
    "linear_warmup(0, 1, -1)": "warmup_steps: expected an integer >= 0, got -1",
    "cosine_restarts(1, 0)": "T_0: expected an integer >= 1, got 0",
    "cosine_restarts(1, 1, 0)": "T_mult: expected an integer >= 1, got 0",
    "one_cycle(1, 0)": "total_steps: expected an integer >= 1, got 0",
    "one_cycle(1, 9, 1.1)": "pct_start: expected a number in [0, 1], got 1.1",
    "one_cycle(1, 9, 0.3, 0)": "div_factor: expected a finite number > 0, got 0",
    "one_cycle(1, 9, 0.3, 4, -1)": "final_div_factor: expected a finite number > 0, got -1",
    "one_cycle(1, 9, anneal_strategy='x')": "anneal_strategy: expected 'cos' or 'linear', got 'x'",
    "one_cycle(1, 9, three_phase='no')": "three_phase: expected True or False, got 'no'",
    "one_cycle(1, 9, three_phase=1)": "three_phase: expected True or False, got 1",
    "one_cycle_momentum(9, 0)": "base_momentum: expected a number in (0, 1), got 0",
    "one_cycle_momentum(9, 0.5, 1)": "max_momentum: expected a number in (0, 1), got 1",
    "join([], [])": "schedules: expected functions of the step, got []",
    "join([0.1], [])": "schedules: expected functions of the step, got [0.1]",
    "join([step(1, 1)], [4])": "boundaries: expected 0, one fewer than schedules, got 1",
    "join([step(1, 1)], [4, 4])": "boundaries: expected increasing integers >= 0, got [4, 4]",
    "ReduceOnPlateau(1, 'low')": "mode: expected 'min' or 'max', got 'low'",
    "ReduceOnPlateau(1, factor=1.0)": "factor: expected a number in (0, 1), got 1.0",
    "ReduceOnPlateau(1, patience=-1)": "patience: expected an integer >= 0, got -1",
    "ReduceOnPlateau(1, cooldown=-1)": "cooldown: expected an integer >= 0, got -1",
    "ReduceOnPlateau(1, threshold=-1)": "threshold: expected a finite number >= 0, got -1",
    "ReduceOnPlateau(1, threshold_mode=1)": "threshold_mode: expected 'rel' or 'abs', got 1",
    "ReduceOnPlateau(1, min_lr=nan)": "min_lr: expected a finite number >= 0, got nan",
    "setattr(ReduceOnPlateau(1), 'value', nan)": "value: expected a finite number >= 0, got nan",
    "setattr(ReduceOnPlateau(1), 'factor', 2)": "factor: expected a number in (0, 1), got 2",
    "ReduceOnPlateau(1, eps=-1)": "eps: expected a finite number >= 0, got -1",
}
WRONG_TYPES = {
    "constant('0.1')": "value: expected a finite number >= 0, got '0.1'",
    "step(None, 1)": "initial: expected a finite number >= 0, got None",
    "step(1, 2.0)": "step_size: expected an integer >= 1, got 2.0",
    "step(1)": "missing a required argument: 'step_size'",
    "step(1, 2)(1.0)": "step: expected an integer >= 0, got 1.0",
    "multi_step(1, [3.0])": "milestones: expected increasing integers >= 1, got [3.0]",
    "multi_step(1, 3)": "milestones: expected increasing integers >= 1, got 3",
    "join(0.1, [])": "schedules: expected functions of the step, got 0.1",
    "ReduceOnPlateau(1).load_state_dict(None)": "state: expected a dict, got NoneType",
    "ReduceOnPlateau(1).update('low')": "metric: expected a number, got 'low'",
}


@pytest.mark.parametrize("call", WRONG_VALUES | WRONG_TYPES)
def test_what_is_wrong_is_refused_by_name(call):
    with pytest.raises(ValueError if call in WRONG_VALUES else TypeError) as raised:
        eval(call)
    assert str(raised.value) == (WRONG_VALUES | WRONG_TYPES)[call]


# ---- plateau -------------------------------------------------------------------------------------


def after(plateau, metrics):
    """The value after each update."""
    values = []
    for metric in metrics:
        plateau.update(metric)
        values.append(plateau(len(values)))
    return values


PLATEAUS = {
    "patience": ({"patience": 1}, [3, 3, 3, 3, 3], [1, 1, 0.5, 0.5, 0.25]),
    "no patience": ({"patience": 0}, [3, 2, 2, 1, 4], [1, 1, 0.5, 0.5, 0.25]),
    "in a row": ({"patience": 1}, [3, 3, 2, 2, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0.5]),
    "maximum": ({"patience": 0, "mode": "max", "threshold": 0.25}, [4, 5, 6], [1, 0.5, 0.5]),
    "exactly": ({"patience": 0, "mode": "max", "threshold": 0}, [4, 5, 5], [1, 1, 0.5]),
    "relative": ({"patience": 0, "threshold": 0.25}, [4, 3, 2, 1.6], [1, 0.5, 0.5, 0.25]),
    "absolute": (
        {"patience": 0, "threshold": 1, "threshold_mode": "abs"},
        [4, 3, 2, 1],
        [1, 0.5, 0.5, 0.25],
    ),
    "cooldown": ({"patience": 0, "cooldown": 2}, [3] * 6, [1, 0.5, 0.5, 0.5, 0.25, 0.25]),
    "floor": ({"patience": 0, "min_lr": 0.375}, [3] * 4, [1, 0.5, 0.375, 0.375]),
    "too small a change": ({"patience": 0, "eps": 0.25}, [3] * 4, [1, 0.5, 0.5, 0.5]),
    "nan": ({"patience": 0}, [nan, 3, nan, 2], [0.5, 0.5, 0.25, 0.25]),
    "infinite": ({"patience": 0}, [inf, 3, -inf, -inf], [0.5, 0.5, 0.5, 0.25]),
}


@pytest.mark.parametrize("case", PLATEAUS)
def test_a_plateau_reduces_the_value(case):
    settings, metrics, values = PLATEAUS[case]
    assert after(ReduceOnPlateau(1, factor=0.5, **settings), metrics) == values


def test_a_plateau_goes_on_from_its_saved_state(rng):
    metrics = rng.standard_normal(60)
    settings = {"patience": 1, "cooldown": 3, "mode": "max"}
    for cut in range(0, 60, 7):
        one, other = ReduceOnPlateau(1, **settings), ReduceOnPlateau(1, **settings)
        after(one, metrics[:cut])
        assert list(one.state_dict()) == ["value", "best", "bad_updates", "cooldown_left"]
        other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        assert other == one == pickle.loads(pickle.dumps(one))
        assert after(other, metrics[cut:]) == after(one, metrics[cut:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": nan}, "state['value']: expected a finite number >= 0, got nan"),
        ({"best": nan}, "state['best']: expected a number other than NaN, got nan"),
        ({"bad_updates": -1}, "state['bad_updates']: expected an integer >= 0, got -1"),
        ({"cooldown_left": -1}, "state['cooldown_left']: expected an integer >= 0, got -1"),
        ({"patience": 1}, "state: expected 4 names, got 'patience' too"),
    ],
    ids=repr,
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    plateau = ReduceOnPlateau(1, patience=0)
    after(plateau, [3, 3, 3])
    before = plateau.state_dict()
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        plateau.load_state_dict({"value": 0.5, "best": 2.0, **before, **change})
    assert str(raised.value).startswith(message)
    assert plateau.state_dict() == before


# ---- peers ---------------------------------------------------------------------------------------

TORCH = [  # ours, PyTorch's (s is its module, o an optimizer with lr=0.1), how many steps
    (step(0.1, 7, 0.5), lambda s, o: s.StepLR(o, 7, 0.5), 100),
    (multi_step(0.1, [3, 10, 30]), lambda s, o: s.MultiStepLR(o, [3, 10, 30]), 60),
    (exponential(0.1, 0.97), lambda s, o: s.ExponentialLR(o, 0.97), 500),
    (polynomial(0.1, 40), lambda s, o: s.PolynomialLR(o, 40), 60),
    (polynomial(0.1, 40, 1.7), lambda s, o: s.PolynomialLR(o, 40, 1.7), 60),
    (linear_warmup(0.02, 0.1, 30), lambda s, o: s.LinearLR(o, 0.2, 1, 30), 60),
    (linear_warmup(0.1, 0.02, 30), lambda s, o: s.LinearLR(o, 1, 0.2, 30), 60),
    (cosine(0.1, 90), lambda s, o: s.CosineAnnealingLR(o, 90), 91),
    (cosine(0.1, 90, 0.01), lambda s, o: s.CosineAnnealingLR(o, 90, 0.01), 91),
    *(
        (
            cosine_restarts(0.1, 9, mult, 0.01),
            lambda s, o, mult=mult: s.CosineAnnealingWarmRestarts(o, 9, mult, 0.01),
            400,
        )
        for mult in (1, 2, 3)
    ),
    (
        join([linear_warmup(0.02, 0.1, 10), exponential(0.1, 0.9)], [10]),
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.2, 1, 10), s.ExponentialLR(o, 0.9)], [10]),
        50,
    ),
]
ONE_CYCLE = [
    {"total_steps": total, "pct_start": pct, "anneal_strategy": anneal, "three_phase": three}
    for total, pct in [(100, 0.3), (7, 0.45), (50, 0.0), (50, 1.0), (1, 0.3)]
    for anneal in ("cos", "linear")
    for three in (False, True)
]


def torch_steps(make, steps):
    """Learning rate and momentum of every step under a PyTorch scheduler."""
    torch = pytest.importorskip("torch")
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.5)
    schedule = make(torch.optim.lr_scheduler, opt)
    taken = []
    for t in range(steps):
        if t > 0:
            opt.step()
            schedule.step()
        taken.append((opt.param_groups[0]["lr"], opt.param_groups[0]["momentum"]))
    return np.array(taken).T


def assert_equal_to_1e_12(ours, theirs):
    """Relative to the value, or to the largest: recursions make small values inexact."""
    values = [ours(t) for t in range(len(theirs))]
    np.testing.assert_allclose(values, theirs, rtol=1e-12, atol=1e-12 * max(np.abs(theirs)))


@pytest.mark.parametrize(("ours", "make", "steps"), TORCH, ids=[repr(row[0]) for row in TORCH])
def test_schedules_equal_pytorch(ours, make, steps):
    assert_equal_to_1e_12(ours, torch_steps(make, steps)[0])


@pytest.mark.parametrize("settings", ONE_CYCLE, ids=lambda s: "-".join(map(str, s.values())))
def test_one_cycle_and_its_momentum_equal_pytorch(settings):
    lr, momentum = torch_steps(
        lambda s, o: s.OneCycleLR(o, 0.1, **settings), settings["total_steps"]
    )
    assert_equal_to_1e_12(one_cycle(0.1, **settings), lr)
    assert_equal_to_1e_12(one_cycle_momentum(**settings), momentum)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_a_plateau_equals_pytorch(mode, threshold_mode, rng):
    torch = pytest.importorskip("torch")
    for patience, cooldown, min_lr in [(0, 0, 0), (2, 0, 0), (1, 3, 0.001), (0, 2, 0.2)]:
        metrics = np.round(1 + 0.1 * np.abs(rng.standard_normal(300).cumsum()), 2)
        metrics[rng.integers(300, size=9)] = nan
        settings = {"mode": mode, "threshold_mode": threshold_mode, "threshold": 0.01} | {
            "patience": patience, "cooldown": cooldown, "min_lr": min_lr, "factor": 0.7
        }  # fmt: skip
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, **settings)
        values = []
        for metric in metrics:
            theirs.step(metric)
            values.append(opt.param_groups[0]["lr"])
        np.testing.assert_allclose(after(ReduceOnPlateau(0.1, **settings), metrics), values, 1e-12)


OPTAX = [  # ours, Optax's (x is the module), how many steps
    (constant(0.1), lambda x: x.constant_schedule(0.1), 3),
    (step(0.1, 7, 0.5), lambda x: x.exponential_decay(0.1, 7, 0.5, staircase=True), 50),
    (multi_step(0.1, [3, 9]), lambda x: x.piecewise_constant_schedule(0.1, {3: 0.1, 9: 0.1}), 12),
    (exponential(0.1, 0.5, 30), lambda x: x.exponential_decay(0.1, 30, 0.5), 80),
    (polynomial(0.1, 40, 2.5, 0.01), lambda x: x.polynomial_schedule(0.1, 0.01, 2.5, 40), 60),
    (polynomial(0.1, 40, final=0.3), lambda x: x.linear_schedule(0.1, 0.3, 40), 60),
    (linear_warmup(0, 0.1, 40), lambda x: x.warmup_constant_schedule(0.0, 0.1, 40), 60),
    (cosine(0.1, 40), lambda x: x.cosine_decay_schedule(0.1, 40), 60),
    (cosine(0.1, 40, 0.02), lambda x: x.cosine_decay_schedule(0.1, 40, alpha=0.2), 60),
    (
        join([linear_warmup(0, 0.1, 9), cosine(0.1, 31, 0.01)], [9]),
        lambda x: x.warmup_cosine_decay_schedule(0.0, 0.1, 9, 40, 0.01),
        60,
    ),
    (
        join([constant(0.1), exponential(0.2, 0.9), constant(0.3)], [5, 25]),
        lambda x: x.join_schedules(
            [x.constant_schedule(0.1), x.exponential_decay(0.2, 1, 0.9), x.constant_schedule(0.3)],
            [5, 25],
        ),
        40,
    ),
]


@pytest.fixture
def jax():
    """The module jax, set to double precision."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize(("ours", "make", "steps"), OPTAX, ids=[repr(row[0]) for row in OPTAX])
def test_schedules_equal_optax(ours, make, steps, jax):
    theirs = make(pytest.importorskip("optax"))
    assert_equal_to_1e_12(ours, [float(theirs(t)) for t in range(steps)])


def test_inverse_time_equals_jax(jax):
    optimizers = pytest.importorskip("jax.example_libraries.optimizers")
    theirs = optimizers.inverse_time_decay(0.1, decay_steps=30, decay_rate=0.7)
    ours = inverse_time(0.1, decay_rate=0.7, decay_steps=30)
    assert_equal_to_1e_12(ours, [float(theirs(t)) for t in range(100)])
