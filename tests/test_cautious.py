"""Cautious updates: against the twins, the authors' formula and its consequences."""

import functools

import numpy as np
import pytest
from conftest import everywhere
from optim_rows import COMMON, ROWS, SETTINGS, by_twin, data, hyper_of

import pyoptk
from pyoptk import _optim, kernels

CAUTIOUS = [
    (name, settings)
    for name, settings in SETTINGS
    if _optim.ROWS[name].cautious
    and ("momentum" in settings or "momentum" not in _optim.ROWS[name].fields)
]


@functools.lru_cache(maxsize=1)  # the next test has the same, but for instruction set and threads
def outcomes_of(name, settings, common, dtype):
    """Parameters, gradients, and what the twin makes of them, for several sizes."""
    rng, found = np.random.default_rng(20), []
    options = {"lr": 0.01, "cautious": True, **dict(settings), **COMMON[common]}
    hyper = hyper_of(ROWS[name][0](np.zeros(1, dtype), **options))
    for size in (0, 1, 7, 1009, 40_003):
        param, grads = data(rng, size, dtype, 3)
        found.append((param, grads, by_twin(name, param, grads, hyper)))
    return found


@everywhere
@pytest.mark.parametrize("common", ["decoupled", "all"])
@pytest.mark.parametrize(("name", "settings"), CAUTIOUS, ids=repr)
def test_every_kernel_equals_its_twin_bit_for_bit(name, settings, common, dtype, isa, threads):
    key = name, tuple(settings.items()), common, dtype
    for param, grads, (expected, states) in outcomes_of(*key):
        size = param.size
        opt = ROWS[name][0](param.copy(), lr=0.01, cautious=True, **settings, **COMMON[common])
        for grad in grads:
            opt.step(grad)
        np.testing.assert_array_equal(opt.params, expected, err_msg=f"{size} elements")
        for state, array in opt.state.items():
            np.testing.assert_array_equal(array, states[state], err_msg=f"{state}, {size} elements")


def their_adamw(p, g, s, t, lr=1e-2, decay=0.1):
    s["m"] = 0.9 * s["m"] + 0.1 * g
    s["v"] = 0.999 * s["v"] + 0.001 * g * g
    mask = (s["m"] * g > 0).astype(float)
    mask /= max(mask.mean(), 1e-3)
    root = np.sqrt(s["v"]) / np.sqrt(1 - 0.999**t) + 1e-8
    return p * (1 - lr * decay) - lr / (1 - 0.9**t) * (s["m"] * mask) / root


def their_lion(p, g, s, t, lr=1e-2, decay=0.1):
    u = np.sign(0.9 * s["m"] + 0.1 * g)
    s["m"] = 0.99 * s["m"] + 0.01 * g
    mask = (u * g > 0).astype(float)
    return p * (1 - lr * decay) - lr * u * mask / max(mask.mean(), 1e-3)


def their_sgd(p, g, s, t, lr=1e-2, decay=0.1):
    s["m"] = g if t == 1 else 0.9 * s["m"] + g
    u = g + 0.9 * s["m"]
    mask = (u * g > 0).astype(float)
    return p * (1 - lr * decay) - lr * u * mask / max(mask.mean(), 1e-3)


@pytest.mark.parametrize(
    ("cls", "settings", "theirs"),
    [
        (pyoptk.AdamW, {}, their_adamw),
        (pyoptk.Lion, {}, their_lion),
        (pyoptk.SGD, {"momentum": 0.9, "nesterov": True, "decoupled": True}, their_sgd),
    ],
)
def test_fifty_steps_equal_the_published_formula_to_1e_12(cls, settings, theirs, rng):
    param, grads = data(rng, 500, np.dtype(float), 50)
    expected, states = param.copy(), {"m": 0.0, "v": 0.0}
    opt = cls(param, lr=1e-2, weight_decay=0.1, cautious=True, **settings)
    for t, grad in enumerate(grads, 1):
        opt.step(grad)
        expected = theirs(expected, grad, states, t)
    np.testing.assert_allclose(param, expected, rtol=1e-12, atol=1e-12)


def test_the_mean_is_that_of_each_tensor_and_groups_may_do_without(dtype, threads, rng):
    sizes = [1, 40, 3, 0, 2000, 17_537, 5] * 80  # more than are counted in one region
    params = {
        f"{'bold' if i % 3 else 'meek'}{i}": data(rng, n, dtype, 0)[0] for i, n in enumerate(sizes)
    }
    alone = {
        name: pyoptk.Adam(p.copy(), cautious=name.startswith("meek")) for name, p in params.items()
    }
    opt = pyoptk.Adam(params, groups={"meek*": {"cautious": True}})
    late = "meek12"
    for step in range(3):
        grads = {name: data(rng, p.size, dtype, 1)[1][0] for name, p in params.items()}
        grads[late] = grads[late] if step else None
        opt.step(grads)
        for name, other in alone.items():
            other.step(grads[name])
    for name, p in params.items():
        np.testing.assert_array_equal(p, alone[name].params, err_msg=name)


def test_only_elements_that_agree_move_and_by_as_much_more(dtype, isa):
    velocity = np.array([1, 1, 1, -1, -1, 1, 1, 1], dtype)
    g = np.array([1, -0.25, 0, 0.25, -1, -0.25, -0.5, -0.25], dtype)
    p = np.zeros(8, dtype)
    kernels.sgd(p, g, velocity, step=2, momentum=0.5, lr=0.25, cautious=True)
    np.testing.assert_array_equal(velocity, [1.5, 0.25, 0.5, -0.25, -1.5, 0.25, 0, 0.25])
    np.testing.assert_array_equal(p, [-1.5, 0, 0, 0, 1.5, 0, 0, 0])  # two of eight: times four
    # one element of 2000 agrees: its factor is 1000, the inverse of the floor, and not 2000
    g, p = np.zeros(2000, dtype), np.zeros(2000, dtype)
    g[7] = 1
    pyoptk.Lion(p, lr=0.5, cautious=True).step(g)
    assert p[7] == -500
    assert np.count_nonzero(p) == 1


def test_small_gradients_agree_though_their_square_is_zero(isa):
    g = np.full(50, 1e-25, np.float32)
    opt = pyoptk.SGD(np.zeros(50, np.float32), lr=1.0, momentum=0.9, cautious=True)
    opt.step(g)
    np.testing.assert_array_equal(opt.params, -g)


@pytest.mark.parametrize("first", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "settings"),
    [*CAUTIOUS, ("adamax", {"beta2": 0.0}), ("adam", {"amsgrad": True, "beta2": 0.0})],
    ids=repr,
)
def test_after_a_gradient_that_is_not_finite_all_others_equal_the_twin(
    name, settings, first, dtype, isa, rng
):
    param, grads = data(rng, 100, dtype, 4)
    grads[1][7] = first
    opt = ROWS[name][0](param.copy(), cautious=True, **settings)
    with np.errstate(invalid="ignore"):
        expected, states = by_twin(name, param, grads, hyper_of(opt))
    for grad in grads:
        opt.step(grad)
    np.testing.assert_array_equal(opt.params, expected)  # where one has a NaN, the other has
    for state, array in opt.state.items():
        np.testing.assert_array_equal(array, states[state], err_msg=state)


def test_a_nan_stays_one(dtype, isa):
    g = np.ones(40, dtype)
    g[3] = np.nan
    opt = pyoptk.Adam(np.ones(40, dtype), cautious=True)
    opt.step(g)
    assert np.isnan(opt.params[3])
    assert np.isfinite(np.delete(opt.params, 3)).all()


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (pyoptk.SGD, {}),
        (pyoptk.RMSprop, {"centered": True}),
        (pyoptk.AdaGrad, {}),
        (pyoptk.Adadelta, {}),
        (pyoptk.LAMB, {}),
    ],
)
def test_without_momentum_and_for_lamb_cautious_is_refused(cls, settings):
    able = cls in (pyoptk.SGD, pyoptk.RMSprop)
    expected = "momentum to be set with it, got momentum=0.0" if able else "False for .*, got True"
    message = rf"^cautious: expected {expected}$"
    with pytest.raises(ValueError, match=message):
        cls(np.ones(3), cautious=True, **settings)
    opt = cls([np.ones(3)], **settings)
    with pytest.raises(ValueError, match=message):
        opt.cautious = True
    assert not opt.cautious
    with pytest.raises(ValueError, match=message):
        cls([np.ones(3)], groups={"0": {"cautious": True}}, **settings)
