"""Wrappers of an optimizer: accumulation and loss scaling, alone and nested."""

import copy as copy_module
import itertools
import pickle

import numpy as np
import pytest

import pyoptk
from pyoptk import schedules

SHAPES = {"weight": (7, 5), "bias": (5,), "scale": ()}
from wrapped import TwinAdam, assert_equal, copy, model, state_of

# ---- accumulation --------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
def test_accumulation_steps_on_the_mean(k, dtype):
    params, grads = model(dtype)
    twin_params = copy(params)
    opt = pyoptk.Adam(params, lr=0.1, grad_scale=0.5)
    twin = TwinAdam(opt, twin_params)
    accumulation = pyoptk.Accumulation(opt, k)
    for _ in range(3):
        batches = [grads() for _ in range(k)]
        before, given = copy(params), [copy(g) for g in batches]
        for i, g in enumerate(batches[:-1]):
            assert accumulation.step(g) is False
            assert accumulation.count == i + 1
        assert_equal(params, before)
        assert accumulation.step(batches[-1]) is True
        total = copy(batches[0])
        for g in batches[1:]:
            for name in total:
                total[name] += g[name]
        for name in total:
            total[name] /= k
        twin.step(total, 0.5)
        assert_equal(params, twin_params)
        for g, old in zip(batches, given, strict=True):
            assert_equal(g, old)
    assert (accumulation.count, opt.grad_scale, opt.steps["bias"]) == (0, 0.5, 3)


def test_a_parameter_is_left_alone_only_if_all_micro_batches_have_none():
    params = [np.zeros(2), np.zeros(3), np.zeros(1)]
    opt = pyoptk.SGD(params, lr=1.0)
    accumulation = pyoptk.Accumulation(opt, 2)
    accumulation.step([None, None, np.full(1, 2.0)])
    accumulation.step([np.ones(2), None, None])
    assert [p[0] for p in params] == [-0.5, 0, -1]
    assert opt.steps == [1, 0, 1]
    accumulation.step([None, None, None])
    accumulation.step((None, np.ones(3), None))  # of the sums before nothing is left
    assert [p[0] for p in params] == [-0.5, -0.5, -1]


def test_accumulation_takes_a_single_array_of_any_strides():
    param = np.zeros((2, 3))
    accumulation = pyoptk.Accumulation(pyoptk.SGD(param, lr=1.0), 2)
    accumulation.step(np.ones((3, 2)).T)
    accumulation.step(np.ones((2, 6))[:, ::2])
    assert (param == -1).all()


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (
            lambda g, p: {"weight": None},
            ValueError,
            r"^grads: expected 3 keys, got none for 'bias'",
        ),
        (lambda g, p: list(g.values()), TypeError, r"^grads: expected a dict like params"),
        (lambda g, p: {**g, "more": None}, ValueError, r"^grads: expected the keys .* 'more' too"),
        (lambda g, p: {**g, "bias": np.ones(4)}, ValueError, r"^grads\['bias'\]: .*\(5,\)"),
        (lambda g, p: {**g, "bias": np.ones(5, "f4")}, TypeError, r"^grads\['bias'\]: .*float64"),
        (lambda g, p: {**g, "bias": p["bias"]}, ValueError, r"overlaps params\['bias'\]"),
    ],
)
def test_accumulation_refuses_bad_gradients_and_adds_nothing(bad, error, message):
    params, grads = model()
    accumulation = pyoptk.Accumulation(pyoptk.Adam(params), 2)
    accumulation.step(grads())
    before = state_of(accumulation)
    with pytest.raises(error, match=message):
        accumulation.step(bad(grads(), params))
    assert_equal(state_of(accumulation), before)


def test_accumulated_gradients_are_zeroed_where_the_optimizer_would():
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    opt = pyoptk.SGD(params, lr=1.0, groups={"a": {"zero_grad": True}})
    accumulation = pyoptk.Accumulation(opt, 2)
    grads = {"a": np.ones(2), "b": np.ones(2)}
    for _ in range(2):
        accumulation.step(grads)
        assert (grads["a"][0], grads["b"][0]) == (0, 1)
        grads["a"] += 3
    assert (params["a"][0], params["b"][0]) == (-2, -1)


def test_a_step_that_raises_drops_the_micro_batches():
    param = np.zeros(1)
    opt = pyoptk.SGD(param, lr=1.0, on_nonfinite="raise", max_norm=1e9)
    accumulation = pyoptk.Accumulation(opt, 2)
    accumulation.step(np.full(1, np.inf))
    with pytest.raises(FloatingPointError, match=r"^grads: expected finite elements"):
        accumulation.step(np.full(1, -np.inf))
    assert (accumulation.count, opt.steps, opt.grad_scale) == (0, 0, 1.0)
    accumulation.step(np.ones(1))
    accumulation.step(np.ones(1))
    assert param == -1


# ---- loss scaling --------------------------------------------------------------------------------


def test_the_scale_goes_as_torchs():
    """By hand: x is a skipped step; the scale grows after 3 steps in a row."""
    param = np.zeros(1)
    scaler = pyoptk.LossScaler(pyoptk.SGD(param), 8.0, growth=4.0, backoff=0.25, interval=3)
    scales = []
    for c in "..x...x..xx...":
        assert scaler.step(np.full(1, np.nan if c == "x" else 1.0)) is (c == ".")
        scales.append(scaler.scale)
    assert scales == [8, 8, 2, 2, 2, 8, 2, 2, 2, 0.5, 0.125, 0.125, 0.125, 0.5]


def test_the_scale_agrees_with_torch():
    torch = pytest.importorskip("torch")
    numbers = {"growth_factor": 3.0, "backoff_factor": 0.5, "growth_interval": 2}
    theirs = torch.amp.GradScaler("cpu", init_scale=64.0, **numbers)
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs_opt = torch.optim.SGD([parameter], lr=0.5)
    param = np.zeros(1, np.float32)
    scaler = pyoptk.LossScaler(pyoptk.SGD(param, lr=0.5), 64.0, 3.0, 0.5, 2)
    for bad in np.random.default_rng(1).random(40) < 0.3:
        grad = np.full(1, np.inf if bad else scaler.scale, np.float32)
        parameter.grad = torch.tensor(grad)
        theirs.scale(torch.ones(1))
        theirs.step(theirs_opt)
        theirs.update()
        scaler.step(grad)
        assert scaler.scale == theirs.get_scale()
    np.testing.assert_array_equal(param, parameter.detach())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("on_nonfinite", ["propagate", "skip", "raise"])
def test_a_skipped_step_touches_nothing(bad, on_nonfinite, dtype):
    params, grads = model(dtype)
    lr = schedules.cosine(0.1, 10)
    opt = pyoptk.Adam(params, lr=lr, on_nonfinite=on_nonfinite, ema_decay=0.9, grad_scale=0.5)
    scaler = pyoptk.LossScaler(opt, scale=1024.0, interval=5)
    scaler.step(grads())
    g = grads()
    g["bias"][3] = bad
    before, state, given = copy(params), state_of(opt), copy(g)
    assert scaler.step(g) is False
    assert_equal(params, before)
    assert_equal(g, given)
    assert_equal(state_of(opt), {**state, "skipped": np.array(1)})
    assert (scaler.scale, scaler.count, opt.grad_scale) == (512, 0, 0.5)
    assert (opt.on_nonfinite, opt.lr) == (on_nonfinite, lr)
    assert scaler.step(grads()) is True


def test_gradients_are_divided_by_the_scale_exactly(dtype):
    params, grads = model(dtype)
    plain = copy(params)
    opt = pyoptk.Adam(params, lr=0.1, max_norm=1.0, grad_scale=lambda step: 1 / (1 + step))
    other = pyoptk.Adam(plain, lr=0.1, max_norm=1.0, grad_scale=lambda step: 1 / (1 + step))
    scaler = pyoptk.LossScaler(opt, interval=2)
    for _ in range(6):
        g = grads()
        other.step(g)
        scaler.step({name: array * dtype.type(scaler.scale) for name, array in g.items()})
        assert_equal(params, plain)
        assert opt.grad_norm == other.grad_norm
    assert scaler.scale == 65536 * 8


def test_the_scale_stays_where_it_and_its_inverse_are_normal():
    param = np.zeros(1, np.float32)
    scaler = pyoptk.LossScaler(pyoptk.SGD(param), 2.0**126, interval=1)
    assert scaler.step(np.ones(1, np.float32))
    assert scaler.scale == 2.0**126
    scaler.scale = 2.0**-126
    assert not scaler.step(np.full(1, np.inf, np.float32))
    assert scaler.scale == 2.0**-126


# ---- together ------------------------------------------------------------------------------------


def test_wrappers_go_around_one_another_in_any_order():
    order = [
        lambda opt: pyoptk.Accumulation(opt, 2),
        lambda opt: pyoptk.Lookahead(opt, k=2),
        lambda opt: pyoptk.LossScaler(opt, 4.0, interval=2),
    ]
    rng = np.random.default_rng(0)
    gradients = list(rng.standard_normal((16, 3)))
    gradients[5][1] = np.nan  # the third step is left undone
    ends = []
    for wrappers in itertools.permutations(order):
        param = np.ones(3)
        opt = inner = pyoptk.Adam(param, lr=0.1)
        by_type = {}
        for wrap in wrappers:
            opt = wrap(opt)
            by_type[type(opt)] = opt
        scaler = by_type[pyoptk.LossScaler]
        stepped = [opt.step(g * scaler.scale) for g in gradients]
        assert [i for i, took in enumerate(stepped) if took] == [1, 3, 7, 9, 11, 13, 15]
        assert (opt.optimizer, inner.skipped, inner.steps) == (inner, 1, 7)
        assert (inner.grad_scale, inner.on_nonfinite) == (1.0, "propagate")
        assert (scaler.scale, scaler.count) == (16, 1)  # 4, 8, skipped: 4, 8, 16, and one more
        assert by_type[pyoptk.Lookahead].count == 1
        ends.append(param)
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])


def test_a_schedule_that_goes_wrong_leaves_the_settings_alone():
    opt = pyoptk.SGD(np.zeros(1), lr=lambda step: 0.1 if step < 2 else float("nan"))
    scaler = pyoptk.LossScaler(opt, 4.0)
    scaler.step(np.ones(1))
    scaler.step(np.ones(1))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^lr: expected a finite number"):
            scaler.step(np.ones(1))
        assert (opt.grad_scale, opt.on_nonfinite, scaler.count) == (1.0, "propagate", 2)
    opt.lr = 1.0
    opt.step(np.ones(1))
    assert opt.params == pytest.approx(-1.05)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: pyoptk.Accumulation(o, 0), ValueError, "k: expected an integer >= 1, got 0"),
        (lambda o: pyoptk.Accumulation(o, 2.0), TypeError, "k: expected an integer >= 1, got 2.0"),
        *(
            (
                lambda o, weight=weight: pyoptk.Accumulation(o, 2).step(np.ones(2), weight=weight),
                ValueError,
                r"weight: expected a number in \[2\*\*-64, 2\*\*64\], got",
            )
            for weight in (0, 1e-60, 1e60)
        ),
        (lambda o: pyoptk.Accumulation(o.params, 2), TypeError, "opt: expected an optimizer or a"),
        (lambda o: pyoptk.Lookahead(o, -1), ValueError, "k: expected an integer >= 1, got -1"),
        (lambda o: pyoptk.Lookahead(o, alpha=1.5), ValueError, r"alpha: expected a number in \[0,"),
        (lambda o: pyoptk.Lookahead(o, alpha="1"), TypeError, r"alpha: expected a number in \[0,"),
        (lambda o: pyoptk.LossScaler(o, 0), ValueError, r"scale: expected a number in \[2\*\*-126"),
        (lambda o: pyoptk.LossScaler(o, np.nan), ValueError, "scale: expected a number in"),
        (lambda o: pyoptk.LossScaler(o, growth=1), ValueError, "growth: expected a finite number"),
        (lambda o: pyoptk.LossScaler(o, backoff=1), ValueError, r"backoff: expected a number in"),
        (lambda o: pyoptk.LossScaler(o, interval=0), ValueError, "interval: expected an integer"),
    ],
)
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make(pyoptk.SGD(np.zeros(2)))


def test_a_scale_must_fit_the_dtype():
    param = np.zeros(1, np.float32)
    scaler = pyoptk.LossScaler(pyoptk.SGD(param, lr=1.0, grad_scale=1e20), scale=1e-30)
    with pytest.raises(ValueError, match=r"^grad_scale: expected a number that float32 can hold"):
        scaler.step(np.ones(1, np.float32))
    assert (param[0], scaler.count, scaler.optimizer.skipped) == (0, 0, 0)
    scaler.optimizer.step(np.zeros(1, np.float32))


@pytest.mark.parametrize("how", [copy_module.copy, copy_module.deepcopy, pickle.dumps])
def test_wrappers_refuse_to_be_copied(how):
    opt = pyoptk.SGD(np.zeros(2))
    for wrapper in (pyoptk.LossScaler(opt), pyoptk.Accumulation(opt, 2), pyoptk.SWA(np.zeros(2))):
        with pytest.raises(TypeError, match=rf"^{type(wrapper).__name__}: cannot be copied"):
            how(wrapper)


def test_assignments_are_checked():
    accumulation = pyoptk.Accumulation(pyoptk.SGD(np.zeros(2)), 2)
    with pytest.raises(ValueError, match=r"^k: expected an integer >= 1, got 0"):
        accumulation.k = 0
    assert accumulation.k == 2
    for name in ("lr", "watch", "max_norm", "kk", "alpha", "opt"):
        with pytest.raises(
            AttributeError, match=rf"^Accumulation has no number '{name}', only k, "
        ):
            setattr(accumulation, name, True)
    accumulation.k = np.int64(3)
    assert repr(accumulation) == "Accumulation(SGD(), k=3)"
    accumulation.step(np.ones(2))
    assert repr(accumulation) == "Accumulation(SGD(), k=3, count=1, weight=1.0)"


# ---- checkpoints ---------------------------------------------------------------------------------

WRAPPERS = {
    "accumulation": lambda opt: pyoptk.Accumulation(opt, 3),
    "lookahead": lambda opt: pyoptk.Lookahead(opt, k=3, alpha=0.6),
    "swa": lambda opt: pyoptk.SWA(opt.params),
    "scaler": lambda opt: pyoptk.LossScaler(opt, 16.0, interval=3),
}


def train(kind, wrapper, opt, gradients):
    for g in gradients:
        if kind == "swa":
            opt.step(g)
            wrapper.update()
        else:
            wrapper.step(g)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(kind, suffix, tmp_path, dtype):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"run{suffix}"
    params, grads = model(dtype)
    opt = pyoptk.Adam(params, lr=0.1, ema_decay=0.9)
    wrapper = WRAPPERS[kind](opt)
    gradients = [grads() for _ in range(12)]
    gradients[3]["bias"] = None
    if kind == "scaler":
        gradients[2]["bias"][0] = np.inf
    train(kind, wrapper, opt, gradients[:4])  # in the middle of a round of 3
    pyoptk.save(path, params=params, opt=opt, wrapper=wrapper)
    train(kind, wrapper, opt, gradients[4:])

    again, other_grads = model(dtype, seed=9)
    other_opt = pyoptk.Adam(again, lr=0.5, ema_decay=0.5)
    other = WRAPPERS[kind](other_opt)
    train(kind, other, other_opt, [other_grads() for _ in range(2)])
    pyoptk.load(path, params=again, opt=other_opt, wrapper=other)
    train(kind, other, other_opt, gradients[4:])
    assert_equal(again, params)
    assert_equal(state_of(other_opt), state_of(opt))
    assert_equal(state_of(other), state_of(wrapper))


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrong_state_is_refused_and_nothing_is_changed(kind, tmp_path):
    params, grads = model()
    opt = pyoptk.Adam(params)
    wrapper = WRAPPERS[kind](opt)
    train(kind, wrapper, opt, [grads()])
    good = state_of(wrapper)
    state = wrapper.state_dict()
    changes = [
        (
            {**state, "count": -1},
            ValueError,
            r"^state\['count'\]: expected an integer >= 0, got -1",
        ),
        ({**state, "count": "1"}, TypeError, r"^state\['count'\]: expected an integer >= 0"),
        ({**state, "more": 1}, ValueError, r"'more' too"),
        ({k: v for k, v in state.items() if k != "count"}, ValueError, r"none for 'count'"),
    ]
    if kind == "accumulation":
        other = {**state, "weight": 1.0 - bool(state["weight"])}
        changes.append((other, ValueError, r"^state\['weight'\]: expected 0 for no micro-batch"))
    name = next(iter(state))
    if isinstance(state[name], np.ndarray):
        changes.append(({**state, name: np.ones(2)}, ValueError, r"expected float64 \(7, 5\)"))
    for change, error, message in changes:
        with pytest.raises(error, match=message):
            wrapper.load_state_dict(change)
        assert_equal(state_of(wrapper), good)
