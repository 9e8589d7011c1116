"""The optimizer kernels against their twins in pyoptk.reference, and the classes around them."""

import threading
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from conftest import USABLE
from optim_rows import (
    CASES,
    COMMON,
    IDS,
    ROWS,
    SETTINGS,
    by_twin,
    data,
    hyper_of,
    inputs_of,
    outcomes_of,
)

import pyoptk
from pyoptk import kernels, reference

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("threads", [1, 2], ids=["1thread", "2threads"], indirect=True)
@pytest.mark.parametrize("isa", USABLE, indirect=True)  # these two change first
@pytest.mark.parametrize("common", COMMON)
@pytest.mark.parametrize(("name", "settings", "case"), CASES, ids=IDS)
def test_every_kernel_equals_its_twin_bit_for_bit(
    name, settings, case, common, dtype, isa, threads
):
    expected_of_all = outcomes_of(name, case, common, dtype)
    for (param, grads), (expected, states) in zip(inputs_of(dtype), expected_of_all, strict=True):
        size = param.size
        opt = ROWS[name][0](param.copy(), lr=0.01, **settings, **COMMON[common])
        for grad in grads:
            opt.step(grad)
        np.testing.assert_array_equal(opt.params, expected, err_msg=f"{size} elements")
        for state, array in opt.state.items():
            np.testing.assert_array_equal(array, states[state], err_msg=f"{state}, {size} elements")


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
def test_late_steps_equal_their_twins_too(name, settings, dtype, isa, rng):
    """Step counts are 64-bit integers; RAdam changes its formula at the sixth step."""
    cls, states, _ = ROWS[name]
    param, grads = data(rng, 1009, dtype, 4)
    hyper = hyper_of(cls(param.copy(), lr=0.01, **settings))
    ours, theirs = ([param.copy()] + [np.zeros_like(param) for _ in states] for _ in range(2))
    for step, grad in zip([6, 400, 10**6, 2**40], grads, strict=True):
        getattr(kernels, name)(ours[0], grad, *ours[1:], step=step, **hyper)
        getattr(reference, name)(theirs[0], grad, *theirs[1:], step=step, **hyper)
        np.testing.assert_array_equal(ours, theirs, err_msg=f"step {step}")
        assert np.isfinite(ours).all()


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
def test_one_step_in_float32_is_within_4_ulp_of_float64(name, settings, rng):
    param, (grad,) = data(rng, 10_007, np.dtype(np.float32), 1)
    opt = ROWS[name][0](param.copy(), lr=0.01, **settings)
    exact, _ = by_twin(name, param.astype(np.float64), [grad.astype(np.float64)], hyper_of(opt))
    opt.step(grad)
    # one ulp of the larger of parameter and update, because the two may cancel
    ulp = np.spacing(np.maximum(np.abs(param), np.abs(exact - param)).astype(np.float32))
    assert np.max(np.abs(opt.params - exact) / ulp) <= 4


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
def test_a_hundred_steps_in_float32_stay_near_float64(name, settings, rng):
    param, grads = data(rng, 1009, np.dtype(np.float32), 100)
    opt = ROWS[name][0](param.copy(), lr=1e-3, **settings)
    exact, _ = by_twin(
        name, param.astype(np.float64), [g.astype(np.float64) for g in grads], hyper_of(opt)
    )
    for grad in grads:
        opt.step(grad)
    # 1 - lr * weight_decay is rounded to float32, and multiplies the parameter a hundred times
    limit = 8e-6 if settings.get("decay_outside_norm") else 2e-6
    assert np.abs(opt.params - exact).max() <= limit * np.abs(exact).max()


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
def test_bare_kernel_class_and_twin_agree(name, settings, dtype, rng):
    param, grads = data(rng, (5, 41), dtype, 3)
    opt = ROWS[name][0](param.copy(), **settings)
    bare, states = param.copy(), [np.zeros_like(param) for _ in ROWS[name][1]]
    for step, grad in enumerate(grads, 1):
        opt.step(grad)
        assert getattr(kernels, name)(bare, grad, *states, step=step, **settings) is None
    np.testing.assert_array_equal(bare, opt.params)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "lamb"])
def test_any_split_into_tensors_gives_the_same_bits(name, dtype, threads, rng):
    param, (grad, _) = data(rng, 90_001, dtype, 2)
    whole, pieces = param.copy(), param.copy()
    cuts = [0, 0, 1, 17, 5000, 5001, 65_537, 90_001, 90_001]
    parts = [slice(a, b) for a, b in pairwise(cuts)]
    one = ROWS[name][0](whole, max_norm=0.5)
    many = ROWS[name][0]([pieces[part] for part in parts])
    for _ in range(2):
        one.step(grad)
        many.grad_scale = 0.5 / (one.grad_norm + 1e-6)
        many.step([grad[part] for part in parts])
    np.testing.assert_array_equal(whole, pieces)


def test_lamb_takes_the_norms_of_each_tensor_alone(dtype, isa, threads, rng):
    params = [data(rng, n, dtype, 1)[0] for n in (70_001, 0, 3, 4096, 5000)]
    grads = [data(rng, p.size, dtype, 1)[1][0] for p in params]
    together, alone = [p.copy() for p in params], [p.copy() for p in params]
    many = pyoptk.LAMB(together)
    ones = [pyoptk.LAMB(p) for p in alone]
    for _ in range(2):
        many.step(grads)
        for one, grad in zip(ones, grads, strict=True):
            one.step(grad)
    many.step([None, None, grads[2], None, None])
    ones[2].step(grads[2])
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_lamb_moves_a_parameter_of_zeros(dtype):
    opt = pyoptk.LAMB(np.zeros(3, dtype), lr=0.5, eps=0.0)
    opt.step(np.ones(3, dtype))
    np.testing.assert_allclose(opt.params, -0.5, rtol=1e-6)
    opt = pyoptk.LAMB(np.ones(3, dtype), lr=0.5, weight_decay=0.0)
    opt.step(np.zeros(3, dtype))
    np.testing.assert_array_equal(opt.params, np.ones(3, dtype))


@pytest.mark.parametrize("name", ROWS)
def test_a_tail_rounds_like_the_body(name, dtype, isa):
    """Equal elements stay equal, whichever path of the loop computes them."""
    for size in range(1, 70):
        opt = ROWS[name][0](np.full(size, 0.7, dtype), lr=0.1)
        for grad in (0.3, -0.1):
            opt.step(np.full(size, grad, dtype))
        assert np.unique(opt.params).size == 1, size


def test_states_lie_where_a_step_is_fast(dtype):
    """States have the offset of their parameter in a cache line, but another one in a page."""
    memory = np.ones(3000, dtype)
    params = [memory[1:4], memory[10:90], memory[101:1200], memory[1203:]]
    opt = pyoptk.Adam(params, amsgrad=True, ema_decay=0.9)
    for param, *states in zip(params, *opt.state.values(), strict=True):
        assert len(states) == 4
        places = [array.ctypes.data for array in (param, *states)]
        assert len({place % 64 for place in places}) == 1
        if param.nbytes >= 512:
            gaps = [(a - b) % 4096 for a, b in permutations(places, 2)]
            assert min(gaps) >= 384


def test_nothing_outside_a_sliced_parameter_is_written(dtype, isa):
    for offset in range(5):
        array = np.full(300, 7, dtype)
        opt = pyoptk.Adam(array[offset : offset + 270], lr=1.0)
        opt.step(np.ones(270, dtype))
        assert (array[:offset] == 7).all()
        assert (array[offset + 270 :] == 7).all()
        assert (array[offset : offset + 270] != 7).all()


STRIDED = {
    "transposed": lambda g: np.asfortranarray(g),
    "reversed": lambda g: g[::-1].copy()[::-1],
    "every second": lambda g: np.repeat(g, 2, axis=1)[:, ::2],
    "broadcast": lambda g: np.broadcast_to(g[:1], g.shape),
}


@pytest.mark.parametrize("view", STRIDED)
def test_a_strided_gradient_is_taken_as_it_reads(view, dtype, rng):
    param, (grad,) = data(rng, (6, 5), dtype, 1)
    strided = STRIDED[view](grad)
    ours, bare, expected = param.copy(), param.copy(), param.copy()
    pyoptk.SGD(ours, lr=0.5).step(strided)
    kernels.sgd(bare, strided, lr=0.5)
    pyoptk.SGD(expected, lr=0.5).step(np.ascontiguousarray(strided))
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(bare, expected)


@pytest.mark.parametrize("name", ROWS)
def test_a_step_count_does_not_wrap(name):
    opt = ROWS[name][0](np.ones(3), lr=0.5)
    state = opt.state_dict() | {"calls": 2**63 - 1, "steps": np.array([2**63 - 1])}
    opt.load_state_dict(state)
    opt.step(np.ones(3))
    assert opt.steps == 2**63 - 1
    assert np.isfinite(opt.params).all()


def test_params_may_be_an_array_a_sequence_or_a_dict(dtype):
    array = np.ones(3, dtype)
    pyoptk.SGD(array, lr=1).step(np.ones(3, dtype))
    listed = [np.ones(3, dtype), np.ones((), dtype)]
    pyoptk.SGD(tuple(listed), lr=1).step([np.ones(3, dtype), np.ones((), dtype)])
    named = {"a": np.ones(3, dtype), 7: np.ones((2, 2), dtype)}
    opt = pyoptk.SGD(named, lr=1, momentum=0.5)
    opt.step({7: np.ones((2, 2), dtype), "a": np.ones(3, dtype)})
    for changed in (array, *listed, *named.values()):
        assert (changed == 0).all()
    assert opt.steps == {"a": 1, 7: 1}
    assert opt.state["velocity"][7].shape == (2, 2)


def test_none_leaves_a_parameter_its_state_and_its_step_count_alone(dtype):
    late, early = np.ones(4, dtype), np.ones(4, dtype)
    opt = pyoptk.Adam({"late": late, "early": early}, lr=0.1)
    for _ in range(3):
        opt.step({"late": None, "early": np.ones(4, dtype)})
    assert opt.steps == {"late": 0, "early": 3}
    assert (late == 1).all()
    assert (opt.state["m"]["late"] == 0).all()
    opt.step({"late": np.ones(4, dtype), "early": None})
    np.testing.assert_allclose(late, 0.9, rtol=1e-6)  # the first step of Adam is lr, whenever it is


def test_parameters_of_different_age_step_together(dtype, threads, rng):
    old, young = rng.standard_normal((2, 40_000)).astype(dtype)
    opt = pyoptk.Adam([old, young, np.zeros(0, dtype)], lr=0.1)
    alone = [pyoptk.Adam(p.copy(), lr=0.1) for p in (old, young)]
    for grads in (
        [np.ones_like(old), None, None],
        [np.ones_like(old), -np.ones_like(young), np.zeros(0, dtype)],
    ):
        opt.step(grads)
        for other, grad in zip(alone, grads, strict=False):
            if grad is not None:
                other.step(grad)
    np.testing.assert_array_equal(old, alone[0].params)
    np.testing.assert_array_equal(young, alone[1].params)


def test_nothing_to_do_is_done():
    opt = pyoptk.Adam([np.zeros(0), np.zeros((3, 0))], max_norm=1.0)
    opt.step([np.zeros(0), np.zeros((3, 0))])
    assert opt.grad_norm == 0


def test_an_empty_tensor_last_in_the_list_changes_nothing():
    p = np.ones(5)
    opt = pyoptk.Adam([p, np.zeros(0)], lr=0.1)
    opt.step([np.ones(5), np.zeros(0)])
    np.testing.assert_allclose(p, 0.9)


def test_global_norm_is_exact_and_clips_like_pytorch(dtype, isa, threads, rng):
    grads = [rng.standard_normal(n).astype(dtype) for n in (70_001, 0, 3, 4096)]
    norm = float(np.sqrt(sum(np.sum(g.astype(np.longdouble) ** 2) for g in grads)))
    assert kernels.global_norm(grads) == pytest.approx(norm, rel=1e-13)
    assert kernels.global_norm(grads) == pytest.approx(reference.global_norm(grads), rel=1e-13)
    params = [np.zeros_like(g) for g in grads]
    opt = pyoptk.SGD(params, lr=1.0, max_norm=1.5)
    opt.step(grads)
    assert opt.grad_norm == pytest.approx(norm, rel=1e-13)
    for param, grad in zip(params, grads, strict=True):
        np.testing.assert_allclose(
            param, -grad * (1.5 / (norm + 1e-6)), rtol=3 * np.finfo(dtype).eps
        )
    opt.max_norm = 1e6
    before = [p.copy() for p in params]
    opt.step(grads)  # below the limit: untouched
    for param, old, grad in zip(params, before, grads, strict=True):
        np.testing.assert_array_equal(param, old - grad)


def test_global_norm_has_the_same_bits_everywhere(dtype, rng):
    grads = [rng.standard_normal(n).astype(dtype) for n in (100_003, 7, 33_000)]
    norms = set()
    for isa in [name for name, usable in pyoptk.isas().items() if usable]:
        for threads in (1, 2, 5):
            pyoptk.use_isa(isa)
            pyoptk.set_num_threads(threads)
            norms.add(kernels.global_norm(grads))
    pyoptk.use_isa()
    pyoptk.set_num_threads()
    assert len(norms) == 1


@pytest.mark.parametrize("size", ["largest", "smallest"])
def test_global_norm_neither_overflows_nor_underflows(size, dtype):
    info = np.finfo(dtype)
    value = info.max / 4 if size == "largest" else info.tiny * 4
    grads = np.full(9, value, dtype)
    assert kernels.global_norm([grads]) == pytest.approx(3 * float(value), rel=1e-12)


def test_nan_and_infinity_come_through(dtype, isa):
    for name, (cls, _, _) in ROWS.items():
        for clip_value in (None, 1.0):
            grad = np.ones(40, dtype)
            grad[3] = np.nan
            opt = cls(np.ones(40, dtype), clip_value=clip_value)
            opt.step(grad)
            assert np.isnan(opt.params[3]), name
            if name == "lamb":  # its norm is NaN, and so is all of the parameter
                assert np.isnan(opt.params).all()
            else:
                assert np.isfinite(np.delete(opt.params, 3)).all(), name
    opt = pyoptk.SGD(np.ones(40, dtype), max_norm=1.0)
    opt.step(grad)
    assert np.isnan(opt.params).all()  # as in PyTorch: the norm is NaN, and nobody could miss it
    assert np.isnan(opt.grad_norm)


def test_denormals_count_as_zero_and_the_callers_mode_comes_back(dtype, isa, threads):
    tiny = np.finfo(dtype).tiny / 4
    p = np.full(50_000, tiny, dtype)
    pyoptk.SGD(p, lr=1.0).step(np.zeros_like(p))
    assert (p == 0).all()
    assert np.array([tiny], dtype)[0] * dtype.type(0.5) > 0  # NumPy still has denormals


def test_step_counts_beyond_2_to_the_24_still_count(dtype):
    p, m, v = np.ones(3, dtype), np.zeros(3, dtype), np.zeros(3, dtype)
    kernels.adam(p, np.ones(3, dtype), m, v, step=2**40, lr=0.5, beta2=0.5, beta1=0.5)
    np.testing.assert_allclose(p, 1 - 0.5 * 0.5 / np.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize("momentum_decay", [0.0, 1e-12, 4e-3, 1.0, 50.0, 1e5])
@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.9999])
def test_nadam_s_product_is_that_of_all_steps(beta1, momentum_decay):
    product = 1.0
    for step in range(1, 2001):
        product *= beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
        ours = reference.moments._mu_product(beta1, momentum_decay, step)
        # relative 1e-13 for the 2000 roundings; absolute 0x1p-60, which is lost when added to 1
        assert ours == pytest.approx(product, rel=1e-13, abs=1e-18)


def test_lion_leaves_a_parameter_alone_where_the_sign_is_that_of_zero(dtype, isa):
    p = np.array([1.0, -1.0, 2.0, 3.0] * 9, dtype)
    opt = pyoptk.Lion(p, lr=0.5)
    opt.step(np.array([0.0, -0.0, 1e-30, -1e30] * 9, dtype))
    np.testing.assert_array_equal(p, np.array([1.0, -1.0, 1.5, 3.5] * 9, dtype))


def test_beta2_with_zero_gradients_decays_towards_zero_without_freezing():
    opt = pyoptk.Adam(np.ones(3, np.float32), lr=0.0)
    opt.step(np.ones(3, np.float32))
    for _ in range(3000):
        opt.step(np.zeros(3, np.float32))
    np.testing.assert_allclose(opt.state["v"], 1e-3 * 0.999**3000, rtol=1e-3)


def test_hyper_parameters_may_be_changed_between_steps():
    p = np.zeros(1)
    opt = pyoptk.SGD(p, lr=1.0)
    opt.step(np.ones(1))
    opt.lr = 0.25
    assert opt.lr == 0.25
    opt.step(np.ones(1))
    assert p[0] == -1.25
    with pytest.raises(ValueError, match=r"^lr: expected a finite number >= 0, got nan$"):
        opt.lr = float("nan")
    assert opt.lr == 0.25
    with pytest.raises(AttributeError, match="no hyper-parameter 'learning_rate'; did you mean lr"):
        opt.learning_rate = 1
    with pytest.raises(ValueError, match=r"^momentum: expected to be off in every group"):
        opt.momentum = 0.9
    with pytest.raises(AttributeError, match="'betas'"):
        opt.betas  # noqa: B018


def test_an_optimizer_that_is_stepping_refuses_a_second_thread():
    p = np.zeros(20_000_000, np.float32)
    g = np.ones_like(p)
    opt = pyoptk.Adam(p)
    outcomes = []

    def step():
        try:
            opt.step(g)
            outcomes.append("done")
        except RuntimeError as error:
            outcomes.append(str(error))

    callers = [threading.Thread(target=step) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    done = outcomes.count("done")
    assert opt.steps == done >= 1
    assert set(outcomes) <= {
        "done",
        "step: this optimizer is stepping in another thread already",
    }
    assert np.unique(p).size == 1
