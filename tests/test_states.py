"""States of 8 and 16 bits: against their twins, what they keep, and how they are saved."""

import numpy as np
import pytest
from optim_rows import COMMON, ROWS, SETTINGS, data, hyper_of

import pyoptk
import pyoptk.mpi
from pyoptk import _optim, reference

F32 = np.dtype(np.float32)
KINDS = ["bfloat16", "8bit"]
POSITIVE = {"v", "s", "vmax"}  # states that cannot be negative
SIZES = [0, 1, 63, 255, 257, 4097, 20_011]
NARROW = [
    (name, settings)
    for name, settings in SETTINGS
    if _optim.ROWS[name].narrow_states
    and not settings.get("centered")
    and (name != "sgd" or settings)
]
IDS = [f"{name}-{'-'.join(settings) or 'defaults'}" for name, settings in NARROW]
ALL = {**COMMON["all"], "ema_decay": 0.9, "zero_grad": True}


def narrow(cls, params, kind, **settings):
    return cls(params, state_dtype=kind, min_8bit_size=0, **settings)


def by_twin(opt, kind, param, grads, seed):
    """The parameter and the numbers of the states after steps of the twin."""
    names = tuple(state for state in ROWS[opt._kernel][1] if state in opt.state)
    stored = {}
    for step, grad in enumerate(grads, 1):
        states = {n: np.zeros_like(param) for n in ROWS[opt._kernel][1]}
        for n, (words, scales) in stored.items():
            values = reference.decode_state(words, scales, param.size, positive=n in POSITIVE)
            states[n] = values.reshape(param.shape)
        getattr(reference, opt._kernel)(param, grad, *states.values(), step=step, **hyper_of(opt))
        for n in names:
            slot = list(states).index(n)
            stored[n] = reference.encode_state(
                states[n], kind, positive=n in POSITIVE, seed=seed, step=step, state=slot
            )
    return param, stored


def check_against_twin(name, settings, kind, common, rng):
    params, grads = [], []
    for size in SIZES:
        param, more = data(rng, size, F32, 3)
        if size > 4000:  # of many magnitudes, and some that stay zero
            scale = np.float32(10.0) ** rng.integers(-9, 4, size).astype(np.float32)
            more = [g * scale * (np.arange(size) % 5 > 0) for g in more]
        params.append(param)
        grads.append(more)
    opt = narrow(ROWS[name][0], [p.copy() for p in params], kind, lr=0.01, **settings, **common)
    for each in zip(*grads, strict=True):
        opt.step([g.copy() for g in each])
    for i, (param, more) in enumerate(zip(params, grads, strict=True)):
        expected, stored = by_twin(opt, kind, param, more, seed=i)
        np.testing.assert_array_equal(opt.params[i], expected, err_msg=f"{param.size} elements")
        for state, (words, scales) in stored.items():
            np.testing.assert_array_equal(opt.state[state][i], words, err_msg=state)
            values = reference.decode_state(words, scales, param.size, positive=state in POSITIVE)
            np.testing.assert_array_equal(opt.state_values(state)[i], values)
            if scales is not None:
                np.testing.assert_array_equal(opt.state[f"{state}_scale"][i], scales)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "settings"), NARROW, ids=IDS)
def test_a_step_equals_its_twin_bit_for_bit(name, settings, kind, isa, rng):
    check_against_twin(name, settings, kind, {}, rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted({name for name, _ in NARROW}))
def test_so_it_does_with_everything_on(name, kind, isa, threads, rng):
    settings = next(s for n, s in NARROW if n == name)
    caution = (
        {} if name == "adagrad" or (name == "rmsprop" and not settings) else {"cautious": True}
    )
    check_against_twin(name, settings, kind, ALL | caution, rng)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_an_array_have_the_bits_of_the_whole(kind, isa, rng):
    """Also by the twins; 4,096 elements of the whole decide whether a state is narrow."""
    cut, size = 5120, 7000
    whole, grads = data(rng, size, F32, 3)
    given = {"lr": 0.01, "initial_accumulator": 0.1, "state_dtype": kind}
    parts = [whole[:cut].copy(), whole[cut:].copy()]
    places = [(0, 0, size), (0, cut // 256, size)]
    of_parts = pyoptk.mpi.states.made_of_parts(pyoptk.AdaGrad, parts, places, given)
    opt = pyoptk.AdaGrad(whole, **given)
    for grad in grads:
        opt.step(grad)
        of_parts.step([grad[:cut], grad[cut:]])
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for name, state in opt.state.items():
        np.testing.assert_array_equal(np.concatenate(of_parts.state[name]), state)
    rounding = {"positive": True, "seed": 0, "step": 3, "state": 0}
    words, _ = reference.encode_state(grads[0], kind, **rounding)
    last, _ = reference.encode_state(grads[0][cut:], kind, **rounding, first_block=cut // 256)
    np.testing.assert_array_equal(words[-last.size :], last)
    chance = reference.round_by_chance(whole, seed=0, step=3)
    last = reference.round_by_chance(whole[cut:], seed=0, step=3, first_block=cut // 256)
    np.testing.assert_array_equal(chance[cut:], last)


# ---- what rounding does --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_v_follows_gradients_that_shrink(kind):
    """Rounded to the nearest code, v would stay at 1 for ever: the factor 0.999 is lost each time.

    4,096 elements with gradient 1 for 3,000 steps, then 0.1 for every second one for 5,000.
    """
    n, exact = 4096, 0.0
    opt = pyoptk.Adam(np.zeros(n, np.float32), state_dtype=kind)
    grad = np.ones(n, np.float32)
    for step in range(8000):
        if step == 3000:
            grad[::2] = 0.1
        opt.step(grad)
        exact = 0.999 * exact + 0.001 * (1.0 if step < 3000 else 0.01)
    v = opt.state_values("v")
    # the mean of 2,048 elements that were each rounded thousands of times
    assert abs(v[::2].mean() / exact - 1) < 0.05
    assert abs(v[1::2].mean() - 1) < 0.02
    assert v.min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_weights_without_a_gradient_do_not_move(kind, rng):
    opt = pyoptk.Adam(np.ones(8192, np.float32), lr=1e-3, state_dtype=kind)
    still = rng.random(8192) < 0.5
    for _ in range(200):
        grad = rng.standard_normal(8192).astype(np.float32)
        grad[still] = 0
        opt.step(grad)
    assert (opt.params[still] == 1).all()
    assert (opt.params[~still] != 1).all()


def test_constant_gradients_far_below_their_block_s_largest_move_as_in_float32(rng):
    grad = rng.standard_normal(8192).astype(np.float32)
    grad[::4] = 1e-4
    opts = [pyoptk.Adam(np.zeros(8192, np.float32), state_dtype=d) for d in ("float32", "8bit")]
    for _ in range(200):
        for opt in opts:
            opt.step(grad)
    moved = [opt.params[::4].mean() for opt in opts]
    assert abs(moved[1] / moved[0] - 1) < 0.02  # 2,048 elements, each some 4 % off at random


def test_rounding_is_unbiased(rng):
    """The mean of many roundings is the number: signed down to 0, positive down to code 1."""
    size, count = 256, 1500
    x = rng.standard_normal(size).astype(np.float32) * np.float32(10) ** rng.integers(-4, 1, size)
    for kind in KINDS:
        for positive in (False, True):
            values = np.abs(x) if positive else x
            total = np.zeros(size)
            for step in range(count):
                stored = reference.encode_state(
                    values, kind, positive=positive, seed=1, step=step, state=0
                )
                total += reference.decode_state(*stored, size, positive=positive)
            # a rounding is at most 1/4 of the number off, its deviation at most 1/8; 5 deviations,
            # and for signed codes near 0 the distance of the smallest ones
            step_size = 0 if positive or kind == "bfloat16" else 2.0**-18 * np.abs(x).max() * 2
            limit = 5 * (np.abs(values) / 8 + step_size) / np.sqrt(count)
            assert (np.abs(total / count - values) < limit).all(), (kind, positive)


def test_rounding_bits_are_uniform_and_uncorrelated():
    """Between neighbours at several distances, states, steps and seeds."""

    def bits(seed=3, step=1, state=0):
        return reference.rounding_bits(2**16, seed=seed, step=step, state=state) / 2.0**32 - 0.5

    several = np.array([bits(step=step) for step in range(1, 33)])
    n = several.size
    deviation = 1 / np.sqrt(12)
    assert abs(several.mean()) < 5 * deviation / np.sqrt(n)
    counts = np.histogram(several, 256, (-0.5, 0.5))[0]
    assert np.abs(counts - n / 256).max() < 6 * np.sqrt(n / 256)

    def correlation(a, b):
        return abs(np.mean(a * b)) * 12 * np.sqrt(a.size)  # in deviations of independent numbers

    blocks = several.reshape(-1, 256)
    for distance in (1, 2, 3, 8, 16, 32, 64, 128, 255):
        # Pairs of one block have one stride: their products vary as those of so many blocks.
        each = (blocks[:, distance:] * blocks[:, :-distance]).mean(1) * 12
        assert abs(each.mean()) * np.sqrt(len(each)) < 5 * each.std()
        assert each.std() < 1.5
    for other in ({"step": 2}, {"state": 1}, {"state": 2}, {"seed": 4}):
        assert correlation(bits(), bits(**other)) < 5
    assert correlation(bits()[256:], bits()[:-256]) < 5


def test_adam_in_8_bits_takes_2_04_bytes_a_parameter():
    opt = pyoptk.Adam(np.zeros(1_000_003, np.float32), state_dtype="8bit")
    assert sum(array.nbytes for array in opt.state.values()) <= 2.04 * 1_000_003


def test_small_parameters_keep_float32():
    params = {"small": np.zeros(4095, np.float32), "large": np.zeros(4096, np.float32)}
    opt = pyoptk.Adam(params, state_dtype="8bit")
    assert opt.state["m"]["small"].dtype == np.float32
    assert opt.state["m"]["large"].dtype == np.uint32
    assert opt.state["m_scale"]["small"] is None
    assert opt.state["m_scale"]["large"].shape == (16,)
    opt = pyoptk.Adam(params, state_dtype="bfloat16")
    assert opt.state["m"]["small"].shape == (2048,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_reaches_at_most_its_block(kind):
    opt = pyoptk.SGD(np.zeros(5000, np.float32), lr=1.0, momentum=0.5, state_dtype=kind)
    grad = np.ones(5000, np.float32)
    grad[700] = np.nan
    opt.step(grad)
    opt.step(np.ones(5000, np.float32))
    nans = np.flatnonzero(np.isnan(opt.params))
    assert nans.tolist() == ([700] if kind == "bfloat16" else list(range(512, 768)))


# ---- refused, saved, loaded ----------------------------------------------------------------------


W = np.zeros(5000, np.float32)
REFUSED = {
    "kind": (lambda: pyoptk.Adam(W, state_dtype="int8"), "state_dtype: expected "),
    "size": (lambda: pyoptk.Adam(W, min_8bit_size=-1), "min_8bit_size: expected an integer >= 0"),
    "kernel": (
        lambda: pyoptk.LAMB(W, state_dtype="8bit"),
        "state_dtype: expected 'float32' for lamb, because only sgd, adagrad, rmsprop, adam, ",
    ),
    "float64": (
        lambda: pyoptk.Adam(W.astype("f8"), state_dtype="8bit"),
        "state_dtype: expected 'float32' for parameters of float64",
    ),
    "centered": (
        lambda: pyoptk.RMSprop(W, centered=True, state_dtype="bfloat16"),
        "state_dtype: expected 'float32' with centered",
    ),
    "no state": (
        lambda: pyoptk.SGD(W, state_dtype="8bit"),
        "state_dtype: expected 'float32' without momentum",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_narrow_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_sparse_rows_are_refused():
    opt = pyoptk.Adam(np.zeros((100, 64), np.float32), state_dtype="8bit")
    rows = pyoptk.SparseRows([3], np.ones((1, 64), np.float32), (100, 64))
    with pytest.raises(
        TypeError, match=r"^grads: expected an array where a narrow state_dtype is on"
    ):
        opt.step(rows)
    assert not opt.params.any()


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_resumes_with_the_same_bits(kind, ending, tmp_path, rng):
    if ending == "safetensors":
        pytest.importorskip("safetensors")

    def made(params):
        return pyoptk.Adam(params, state_dtype=kind, ema_decay=0.9)

    params = {"a": rng.standard_normal((70, 71)).astype(np.float32), "b": np.ones(9, np.float32)}
    grads = [
        {k: rng.standard_normal(p.shape).astype(np.float32) for k, p in params.items()}
        for _ in "six  "
    ]
    through = made({k: p.copy() for k, p in params.items()})
    path, first, second = (
        tmp_path / f"run.{ending}",
        made(params),
        {k: p * 0 for k, p in params.items()},
    )
    for grad in grads:
        through.step(grad)
    for grad in grads[:3]:
        first.step(grad)
    pyoptk.save(path, w=params, opt=first)
    later = made(second)
    pyoptk.load(path, w=second, opt=later)
    for grad in grads[3:]:
        later.step(grad)
    for key, param in through.params.items():
        np.testing.assert_array_equal(second[key], param)
    for one, other in zip(later.state_dict().values(), through.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("to", ["float32", *KINDS])
@pytest.mark.parametrize("kind", ["float32", *KINDS])
def test_states_become_those_of_another_state_dtype(kind, to, rng):
    def made(dtype):
        params = [np.zeros(5000, np.float32), np.zeros(7, np.float32)]
        return pyoptk.Adam(params, state_dtype=dtype, lr=0.1)

    opt, other = made(kind), made(to)
    for _ in range(3):
        opt.step([rng.standard_normal(p.size).astype(np.float32) for p in opt.params])
    state = opt.state_dict()
    other.check_state_dict(state)
    other.load_state_dict(state)
    assert other.steps == opt.steps
    for name in ("m", "v"):
        for i in (0, 1):
            old, new = opt.state_values(name)[i], other.state_values(name)[i]
            # an eighth of large codes, of small ones of m their distance, 2**-18 of 2 scales
            off = {"float32": 0, "bfloat16": 2.0**-7, "8bit": 0.26}[to if to != kind else "float32"]
            assert (np.abs(new - old) <= off * np.abs(old) + bool(off) * 2.0**-16 * old.max()).all()


def test_a_state_that_does_not_fit_is_refused(rng):
    opt = pyoptk.Adam(np.zeros(5000, np.float32), state_dtype="8bit")
    opt.step(rng.standard_normal(5000).astype(np.float32))
    state = opt.state_dict()
    for wrong in (
        {**state, "m": state["m"][:-1]},
        {**state, "m_scale": state["m_scale"][:-1]},
        {**state, "m": state["m"].astype(np.int32)},
        {k: v for k, v in state.items() if k != "v"},
    ):
        with pytest.raises((TypeError, ValueError), match=r"^state"):
            opt.load_state_dict(wrong)
    with pytest.raises((TypeError, ValueError), match=r"^state"):
        pyoptk.Adam(np.zeros(4900, np.float32)).load_state_dict(state)


def test_watching_and_a_guard_change_no_bit(rng):
    made = [pyoptk.Adam(np.ones(5000, np.float32), state_dtype="8bit") for _ in range(3)]
    made[1].watch = True
    made[2].on_nonfinite = "skip"
    grads = [rng.standard_normal(5000).astype(np.float32) for _ in range(3)]
    for grad in grads:
        for opt in made:
            opt.step(grad)
    bad = grads[0].copy()
    bad[5] = np.inf
    made[2].step(bad)
    assert made[2].skipped == 1
    for opt in made[1:]:
        for one, other in zip(opt.state.values(), made[0].state.values(), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(opt.params, made[0].params)
    norm = made[1].watched["param_norm"]
    assert abs(norm / np.linalg.norm(made[0].params) - 1) < 1e-5


@pytest.mark.parametrize("state", ["m", "v_scale"])
def test_a_gradient_in_the_memory_of_a_state_is_refused(state):
    params = [np.ones(5000, np.float32), np.ones(20, np.float32)]
    opt = pyoptk.Adam(params, lr=0.1, state_dtype="8bit")
    inside = opt.state[state][0].view(np.float32)[:20]
    with pytest.raises(ValueError, match=r"^grads\[1\]: .*overlap"):
        opt.step([params[0] * 0.5, inside])
    assert params[1].tolist() == [1] * 20
