"""Groups, schedules, moving averages, non-finite gradients and state of an optimizer."""

import numpy as np
import pytest
from conftest import everywhere

import pyoptk
from pyoptk import kernels, schedules

CLASSES = [*pyoptk.Optimizer.__subclasses__(), pyoptk.AdamW]


def model(dtype=np.float64):
    rng = np.random.default_rng(3)
    shapes = {"embed.weight": (7, 5), "layer.weight": (5, 4), "layer.bias": (4,), "norm.bias": (4,)}
    params = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}

    def grads():
        return {name: rng.standard_normal(p.shape).astype(dtype) for name, p in params.items()}

    return params, grads


# ---- groups and schedules ------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_groups_and_no_decay_give_parameters_their_own_numbers(cls):
    params, grads = model()
    alone = {name: p.copy() for name, p in params.items()}
    opt = cls(
        params, lr=1e-2, weight_decay=0.1, no_decay=["*.bias"], groups={"embed*": {"lr": 1e-3}}
    )
    own = {
        "embed.weight": cls(alone["embed.weight"], lr=1e-3, weight_decay=0.1),
        "layer.weight": cls(alone["layer.weight"], lr=1e-2, weight_decay=0.1),
        "layer.bias": cls(alone["layer.bias"], lr=1e-2, weight_decay=0.0),
        "norm.bias": cls(alone["norm.bias"], lr=1e-2, weight_decay=0.0),
    }
    for _ in range(3):
        g = grads()
        opt.step(g)
        for name, other in own.items():
            other.step(g[name])
    for name, p in params.items():
        np.testing.assert_array_equal(p, alone[name], err_msg=name)
    assert opt.value("lr", "embed.weight") == 1e-3
    assert opt.value("weight_decay", "norm.bias") == 0
    assert opt.value("lr") == opt.value("lr", "norm.bias") == 1e-2
    opt.lr = 0.5  # the group keeps its own
    assert [opt.value("lr", name) for name in params] == [1e-3, 0.5, 0.5, 0.5]


def test_later_groups_win_and_sequences_are_named_by_index():
    params = [np.ones(2), np.ones(2), np.ones(2)]
    opt = pyoptk.SGD(params, lr=1.0, groups={"*": {"lr": 2.0}, "[12]": {"lr": 3.0}, "2": {}})
    opt.step([np.ones(2)] * 3)
    assert [p[0] for p in params] == [-1, -2, -2]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"nobody": {"lr": 1.0}}, r"^groups\['nobody'\]: expected a pattern of b, a, got one"),
        ({"a": {"max_norm": 1.0}}, r"^groups\['a'\]: expected hyper-parameters .*got 'max_norm'"),
        ({"a": {"beta1": 0.5}}, r"^groups\['a'\]: expected hyper-parameters .*got 'beta1'"),
        ({"a": {"lr": -1.0}}, r"^lr: expected a finite number >= 0, got -1.0"),
        ({"a": {"momentum": 0.9}}, r"^momentum: expected to be off in every group .* got 0.9"),
        ([("a", {})], r"^groups: expected None or a dict of dicts, got \[\('a', {}\)\]"),
        ("", r"^groups: expected None or a dict of dicts, got ''"),
        ({"a": 0.1}, r"^groups\['a'\]: expected a dict for a pattern of type str, got 0.1"),
        ({1: {"lr": 0.1}}, r"^groups\[1\]: expected a dict for a pattern of type str"),
    ],
)
def test_bad_groups_are_refused(groups, message):
    params = {"b": np.ones(2), "a": np.ones(2)}
    with pytest.raises((TypeError, ValueError), match=message):
        pyoptk.SGD(params, groups=groups)
    opt = pyoptk.SGD(params, groups={"a": {"lr": 0.5}})
    with pytest.raises((TypeError, ValueError), match=r"^(groups|lr|momentum)"):
        opt.groups = groups
    assert opt.value("lr", "a") == 0.5


def test_the_numbers_of_groups_are_assigned_read_and_saved_like_others():
    params = {"a": np.zeros(2), "b.c": np.zeros(2)}
    opt = pyoptk.SGD(params, lr=1.0, groups={"a": {"lr": 2.0}, "*.c": {"maximize": True}})
    opt.groups = {"a": {"lr": lambda step: 3.0 + step}, "*.c": {"lr": 5.0, "maximize": True}}
    opt.step({name: np.ones(2) for name in params})
    opt.step({name: np.ones(2) for name in params})
    assert [p[0] for p in params.values()] == [-7, 10]
    assert [opt.value("lr"), opt.value("lr", "a"), opt.value("lr", "b.c")] == [1, 5, 5]
    with pytest.raises(TypeError, match="item assignment"):  # it would have no effect
        opt.groups["*.c"]["lr"] = 1.0
    with pytest.raises(ValueError, match=r"^groups: expected the patterns \['a', '\*\.c'\], got"):
        opt.groups = {"*.c": {"lr": 1.0}}
    state = opt.state_dict()
    assert {k: v for k, v in state.items() if k.startswith("groups.")} == {
        "groups.*.c.lr": 5.0,
        "groups.*.c.maximize": True,
    }
    opt.groups = {"a": {"lr": 0.5}, "*.c": {"lr": 0.25, "maximize": False}}
    opt.load_state_dict(state)
    assert [opt.value("lr", "a"), opt.value("lr", "b.c")] == [0.5, 5]
    assert opt.value("maximize", "b.c") is True
    with pytest.raises(ValueError, match=r"^lr: expected"):
        opt.load_state_dict({**state, "groups.*.c.lr": -1.0})
    assert opt.value("lr", "b.c") == 5


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda opt: opt.value("momenta"), r"^name: expected one of lr, momentum, .*'momenta'"),
        (lambda opt: opt.value(["lr"]), r"^name: expected one of lr, momentum, .*\['lr'\]"),
        (lambda opt: opt.value("lr", "c"), r"^param: expected one of a, b, got 'c'"),
        (lambda opt: pyoptk.SGD({1: opt.params["a"], "1": np.ones(2)}), r"^params: .* 1 and '1'"),
        (lambda opt: pyoptk.SGD.like(opt.params, "keras"), r"^library: expected one of torch, "),
    ],
)
def test_names_that_are_none_are_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(pyoptk.SGD({"a": np.ones(2), "b": np.ones(2)}))


def test_decay_mask_names_what_decays():
    params = {name: np.ones(2) for name in ("embed.weight", "layer.weight", "layer.bias")}
    opt = pyoptk.SGD(params, lr=1.0, weight_decay=0.5, decay_mask=["*weight"], no_decay=["embed*"])
    opt.step({name: np.zeros(2) for name in params})
    assert [p[0] for p in params.values()] == [1, 0.5, 1]
    assert opt.value("weight_decay", "layer.weight") == 0.5
    pyoptk.SGD(params["layer.bias"], lr=1.0, weight_decay=0.5, decay_mask=[]).step(np.zeros(2))
    assert params["layer.bias"][0] == 1


@pytest.mark.parametrize("name", ["no_decay", "decay_mask"])
@pytest.mark.parametrize("patterns", ["*.bias", [1], 3, {"bias": True}], ids=repr)
def test_patterns_are_a_list_of_str_and_not_one(name, patterns):
    with pytest.raises(TypeError, match=rf"^{name}: expected a list or tuple of str, got "):
        pyoptk.SGD(np.ones(2), **{name: patterns})


def test_an_unknown_keyword_is_refused_with_the_known_ones():
    with pytest.raises(TypeError, match=r"^learning_rate: .* did you mean lr\? Known: lr, beta1, "):
        pyoptk.Adam(np.ones(2), learning_rate=1.0)


def test_any_number_may_be_a_function_of_the_step():
    param = np.zeros(1)
    opt = pyoptk.SGD(param, lr=lambda step: 10.0**-step, groups={"": {}})
    for expected in (1.0, 1.1, 1.11, 1.111):
        opt.step(np.ones(1))
        assert -param[0] == pytest.approx(expected, rel=1e-12)
    opt.lr = schedules.cosine(1.0, 100)
    assert opt.value("lr") == schedules.cosine(1.0, 100)(4)
    opt.weight_decay = lambda step: 0.1 if step < 5 else float("nan")
    opt.step(np.ones(1))
    with pytest.raises(ValueError, match=r"^weight_decay: expected a finite number"):
        opt.step(np.ones(1))
    assert opt.steps == 5


# ---- within the sweep ----------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("size", [1, 7, 1009, 100_003])
@pytest.mark.parametrize(
    ("cls", "settings"),
    [*((cls, {}) for cls in CLASSES), (pyoptk.Adam, {"cautious": True})],
    ids=repr,
)
def test_average_and_zeroed_gradient_come_with_the_step(
    cls, settings, size, dtype, isa, threads, rng
):
    start = rng.standard_normal(size).astype(dtype)
    plain, fused = start.copy(), start.copy()
    expected = start.copy()
    opt, other = cls(fused, ema_decay=0.9, zero_grad=True, **settings), cls(plain, **settings)
    for _ in range(3):
        grad = rng.standard_normal(size).astype(dtype)
        other.step(grad)
        opt.step(grad)
        assert (grad == 0).all()
        expected = dtype.type(0.9) * expected + dtype.type(1 - 0.9) * plain
    np.testing.assert_array_equal(fused, plain)
    np.testing.assert_array_equal(opt.ema, expected)
    before = fused.copy()
    with opt.averaged():
        np.testing.assert_array_equal(fused, expected)
        np.testing.assert_array_equal(opt.ema, expected)
        for attempt in (opt.step, pyoptk.Accumulation(opt, 2).step):
            with pytest.raises(RuntimeError, match=r"^step: expected the parameters, got their av"):
                attempt(np.ones(size, dtype))
        with (
            pytest.raises(RuntimeError, match=r"^averaged: expected the parameters"),
            opt.averaged(),
        ):
            pass
        fused[...] = 7  # whatever happens within, the parameters come back
    np.testing.assert_array_equal(fused, before)
    np.testing.assert_array_equal(opt.ema, expected)
    with pytest.raises(RuntimeError, match=r"^ema: expected an optimizer made with ema_decay"):
        cls(fused, **settings).ema  # noqa: B018


def test_zeroed_gradients_must_be_writable_contiguous_and_apart():
    g = np.ones(4)
    opt = pyoptk.SGD([np.ones(4), np.ones(4)], zero_grad=True)
    with pytest.raises(ValueError, match=r"^grads\[1\]: .*zero_grad.*overlaps grads\[0\]"):
        opt.step([g, g])
    with pytest.raises(ValueError, match=r"^grads\[1\]: expected a C-contiguous"):
        opt.step([g, np.ones(8)[::2]])
    g.flags.writeable = False
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected a writable"):
        opt.step([g, np.ones(4)])
    assert opt.steps == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_non_finite_gradient_is_skipped_or_raised(bad, max_norm, dtype):
    params = [np.ones(5, dtype), np.ones((3, 2), dtype)]
    grads = [np.ones(5, dtype), np.full((3, 2), bad, dtype)]
    opt = pyoptk.SGD(params, lr=1.0, momentum=0.9, on_nonfinite="skip", max_norm=max_norm)
    opt.step(grads)
    assert (opt.skipped, opt.steps) == (1, [0, 0])
    assert all((p == 1).all() for p in params)
    assert all((v == 0).all() for v in opt.state["velocity"])
    opt.on_nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"^grads\[1\]: expected finite elements, got"):
        opt.step(grads)
    assert all((p == 1).all() for p in params)
    opt.max_norm = None
    opt.step([np.ones(5, dtype), np.ones((3, 2), dtype)])  # momentum begins here: velocity = g
    assert all((p == 0).all() for p in params)
    with pytest.raises(ValueError, match=r"^on_nonfinite: expected one of propagate, skip, raise"):
        opt.on_nonfinite = "ignore"


def test_the_norm_is_that_after_grad_scale():
    opt = pyoptk.SGD(np.zeros(2), lr=1.0, grad_scale=0.5, max_norm=100.0)
    opt.step(np.array([6.0, 8.0]))
    assert opt.grad_norm == 5
    np.testing.assert_array_equal(opt.params, [-3, -4])
    assert kernels.global_norm([np.array([6.0, 8.0])]) == 10


# ---- state ---------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda p: pyoptk.SGD(p, lr=0.1, momentum=0.9, dampening=0.1),
    "adagrad": lambda p: pyoptk.AdaGrad(p, lr_decay=0.1, initial_accumulator=0.1),
    "rmsprop": lambda p: pyoptk.RMSprop(p, centered=True, momentum=0.5),
    "adam": lambda p: pyoptk.Adam(p, amsgrad=True, ema_decay=0.9, max_norm=1.0),
    "adadelta": lambda p: pyoptk.Adadelta(p),
    "nadam": lambda p: pyoptk.NAdam(p, momentum_decay=0.1),
    "radam": lambda p: pyoptk.RAdam(p),
    "adamax": lambda p: pyoptk.Adamax(p, weight_decay=0.1),
    "lion": lambda p: pyoptk.Lion(p, ema_decay=0.9),
    "lamb": lambda p: pyoptk.LAMB(p, max_norm=1.0, no_decay=["*bias"]),
    "scheduled": lambda p: pyoptk.AdamW(p, lr=schedules.cosine(0.1, 20), no_decay=["*bias"]),
}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(kind, suffix, tmp_path, dtype):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    params, grads = model(dtype)
    opt = OPTIMIZERS[kind](params)
    gradients = [grads() for _ in range(8)]
    gradients[2]["norm.bias"] = None
    for g in gradients[:4]:
        opt.step(g)
    pyoptk.save(tmp_path / f"run{suffix}", params=params, opt=opt)
    for g in gradients[4:]:
        opt.step(g)

    again, _ = model(dtype)
    resumed = OPTIMIZERS[kind](again)
    resumed.step(gradients[0])  # whatever it did before does not matter
    pyoptk.load(tmp_path / f"run{suffix}", params=again, opt=resumed)
    assert resumed.steps == {**dict.fromkeys(params, 4), "norm.bias": 3}
    for g in gradients[4:]:
        resumed.step(g)
    for name in params:
        np.testing.assert_array_equal(again[name], params[name], err_msg=name)
    for name, array in opt.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], array, err_msg=name)


def test_a_whole_model_resumes(tmp_path, rng):
    x, dy = (rng.standard_normal((5, 4, n), dtype=np.float32) for n in (3, 6))

    def make(seed):
        lstm = pyoptk.LSTM(3, 6, 2, rng=np.random.default_rng(seed))
        return lstm, pyoptk.Adam(lstm.params, lr=0.01)

    def train(lstm, opt):
        for _ in range(3):
            lstm.forward(x)
            lstm.backward(dy)
            opt.step(lstm.grads)

    lstm, opt = make(1)
    train(lstm, opt)
    pyoptk.save(tmp_path / "model.npz", lstm=lstm, opt=opt)
    train(lstm, opt)
    other, other_opt = make(2)
    pyoptk.load(tmp_path / "model.npz", lstm=other, opt=other_opt)
    train(other, other_opt)
    np.testing.assert_array_equal(other.flat_params, lstm.flat_params)


def test_a_wrong_state_is_refused_and_nothing_is_changed():
    params, grads = model()
    opt = pyoptk.Adam(params, lr=0.01)
    opt.step(grads())
    good = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in opt.state_dict().items()}
    for change, error, message in [
        ({"m.layer.bias": np.zeros(5)}, ValueError, r"m\.layer\.bias"),
        ({"m.layer.bias": np.zeros(4, np.float32)}, TypeError, r"m\.layer\.bias"),
        ({"m.layer.bias": np.ma.ones(4)}, TypeError, r"m\.layer\.bias'\]: .* got MaskedArray"),
        ({"kernel": "sgd"}, ValueError, r"^state\['kernel'\]: expected 'adam', got 'sgd'"),
        ({"calls": -1}, ValueError, r"^state\['calls'\]: expected an integer in 0..*, got -1"),
        ({"calls": 1.5}, TypeError, r"^state\['calls'\]: expected an integer, got 1.5"),
        ({"calls": float("nan")}, TypeError, r"^state\['calls'\]: expected an integer, got nan"),
        ({"calls": None}, TypeError, r"^state\['calls'\]: expected an integer, got None"),
        ({"calls": 2**63}, ValueError, r"^state\['calls'\]: expected an integer in 0..*, got 9"),
        ({"skipped": "1"}, TypeError, r"^state\['skipped'\]: expected an integer, got '1'"),
        ({"skipped": 2**64}, ValueError, r"^state\['skipped'\]: expected an integer in"),
        ({"steps": np.array([1, 1, 1, -1])}, ValueError, r"^state\['steps'\]"),
        ({"steps": np.array([1, 1, 1])}, ValueError, r"steps"),
        ({"hyper.lr": float("nan")}, ValueError, r"^lr: expected"),
        ({"hyper.momentum": 0.9}, ValueError, r"hyper\.momentum"),
        ({"more": np.zeros(1)}, ValueError, r"more"),
        ({7: np.zeros(1)}, ValueError, r"^state: .* got 7 too"),
        (None, TypeError, r"^state: expected a dict, got NoneType"),
        ([], TypeError, r"^state: expected a dict, got list"),
    ]:
        with pytest.raises(error, match=message):
            opt.load_state_dict({**good, **change} if isinstance(change, dict) else change)
        with pytest.raises(ValueError, match=r"v\.norm\.bias"):
            opt.load_state_dict({k: v for k, v in good.items() if k != "v.norm.bias"})
        for name, value in opt.state_dict().items():
            np.testing.assert_array_equal(value, good[name], err_msg=name)
    lstm = pyoptk.LSTM(2, 3)
    with pytest.raises(ValueError, match="weight_hh_l0"):
        lstm.load_state_dict({**lstm.state_dict(), "weight_hh_l0": np.zeros((2, 2), np.float32)})


@pytest.mark.parametrize(
    ("name", "others"),
    [("weight_decay", {"no_decay": ["*"]}), ("lr", {"groups": {"*": {"lr": 0.1}}})],
)
def test_a_hyper_parameter_that_no_parameter_has_is_checked(name, others):
    for wrong in (-1.0, "x", np.zeros(3)):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
            pyoptk.Adam({"a": np.zeros(2)}, **{name: wrong}, **others)
    opt = pyoptk.Adam({"a": np.zeros(2)}, **others)
    with pytest.raises(ValueError, match=f"^{name}: "):
        setattr(opt, name, -1.0)
    opt.step({"a": np.ones(2)})
