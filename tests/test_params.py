"""Parameters are the caller's arrays: what an optimizer sees of what is done to them later."""

import copy
import operator
import pickle
import warnings

import numpy as np
import pytest

import pyoptk
from pyoptk import _held, _plan

KEEP = {"ema_decay": 0.5}


def frozen(array):
    array.flags.writeable = False


def retyped(array):
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        array.dtype = np.int64


def reshaped(array):
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        array.shape = (2, 2)


# What is done to the entry "w" of a dict of two float64 (4,) after the optimizer was made; what the
# next step says.
CHANGES = {
    "rebound": (lambda p: p.update(w=p["w"] * 2), r"^params\['w'\]: expected .* at first"),
    "equal": (lambda p: p.update(w=p["w"].copy()), r"^params\['w'\]: .*\['w'\]\[...\] = new"),
    "part": (lambda p: p.update(w=p["w"][:3]), r"^params\['w'\]: expected the array"),
    "reversed": (lambda p: p.update(w=p["w"][::-1]), r"^params\['w'\]: expected the array"),
    "other memory": (lambda p: p.update(w=1.0), r"^params\['w'\]: expected the array"),
    "swapped": (lambda p: p.update(w=p["b"], b=p["w"]), r"^params\['w'\]: expected the array"),
    "deleted": (lambda p: p.pop("w"), r"^params: expected the 2 arrays .* got 1"),
    "added": (lambda p: p.update(z=np.ones(2)), r"^params: expected the 2 arrays .* got 3"),
    "read-only": (lambda p: frozen(p["w"]), r"^params\['w'\]: expected a writable"),
    "dtype": (lambda p: retyped(p["w"]), r"^params\['w'\]: expected float32 or float64"),
    "shape": (lambda p: reshaped(p["w"]), r"^params\['w'\]: .*float64 \(4,\) like it was at first"),
}  # fmt: skip
SAME = {
    "in place": lambda p: p.__setitem__("w", p["w"].__imul__(2)),
    "a view of all": lambda p: p.update(w=p["w"][:]),
    "another order of keys": lambda p: p.update(w=p.pop("w")),
    "read-only without a gradient": lambda p: frozen(p["b"]),
}


def pair():
    params = {"w": np.ones(4), "b": np.zeros(4)}
    return params, {"w": np.ones(4), "b": None}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: pyoptk.Accumulation(o, 2)])
def test_what_is_no_longer_the_parameter_is_not_stepped(wrap, change):
    params, grads = pair()
    first = params["w"]
    opt = pyoptk.Adam(params, lr=0.1, **KEEP)
    stepper = wrap(opt)
    stepper.step(grads)
    before, state = first.tobytes(), pickle.dumps(stepper.state_dict())
    act, message = CHANGES[change]
    act(params)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=message):
            stepper.step({key: grads.get(key) for key in ("w", "b")})
    assert (first.tobytes(), pickle.dumps(stepper.state_dict())) == (before, state)


def averaging(top):
    with top.averaged():
        pass


AVERAGES = {
    "averaged": (lambda opt: opt, averaging),
    "SWA.update": (lambda opt: pyoptk.SWA(opt.params), lambda swa: swa.update()),
    "Lookahead.averaged": (lambda opt: pyoptk.Lookahead(opt), averaging),
    "Accumulation.flush": (lambda opt: pyoptk.Accumulation(opt, 3), lambda top: top.flush()),
}


@pytest.mark.parametrize("change", [c for c in CHANGES if "read-only" not in c])
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_of_what_is_no_longer_the_parameter_are_refused(name, change):
    (make, call), (act, message) = AVERAGES[name], CHANGES[change]
    params, grads = pair()
    opt = pyoptk.Adam(params, lr=0.1, **KEEP)
    top = make(opt)
    if name == "Accumulation.flush":
        top.step(grads)
    first, before = params["w"], params["w"].tobytes()
    act(params)
    with pytest.raises((TypeError, ValueError), match=message):
        call(top)
    assert first.tobytes() == before


@pytest.mark.parametrize("change", SAME)
def test_what_is_still_the_parameter_is_stepped(change):
    params, grads = pair()
    first = params["w"]
    opt = pyoptk.SGD(params, lr=1.0)
    SAME[change](params)
    start = first.copy()
    for _ in range(2):
        opt.step(grads)
    np.testing.assert_array_equal(first, start - 2)


def test_lists_are_watched_and_other_structures_are_not():
    params = [np.ones(2), np.ones(2)]
    opt = pyoptk.SGD(params, lr=1.0)
    params[1] = np.ones(2)
    with pytest.raises(ValueError, match=r"^params\[1\]: expected the array that it was at first"):
        opt.step([np.ones(2)] * 2)
    params.pop()
    with pytest.raises(ValueError, match=r"^params: expected the 2 arrays"):
        opt.step([np.ones(2)] * 2)

    class Fresh(dict):
        def __getitem__(self, key):
            return super().__getitem__(key)[:]

        def values(self):
            return [self[key] for key in self]

    fresh = Fresh(w=np.ones(2))
    pyoptk.SGD(fresh, lr=1.0).step({"w": np.ones(2)})
    assert fresh["w"][0] == 0


def test_averages_come_back_into_an_array_made_read_only_within():
    w = np.ones(4)
    opt = pyoptk.SGD([w], lr=1.0, ema_decay=0.5)
    opt.step([np.ones(4)])
    with opt.averaged():
        assert w[0] == 0.5
        w.flags.writeable = False
    assert w[0] == 0
    with pytest.raises(ValueError, match=r"^params\[0\]: expected a writable"), opt.averaged():
        pass
    w.flags.writeable = True
    opt.step([np.ones(4)])
    assert w[0] == -1


@pytest.mark.parametrize(
    "call",
    [
        lambda plan: plan.configure([]),
        lambda plan: plan.check([{}]),
        lambda plan: plan.set_lr([]),
        lambda plan: plan.run_step([], 1.0, False),
        lambda plan: plan.restore([], None, {"velocity": []}, np.zeros(0, int), 0, 0, []),
        lambda plan: _plan.Plan(plan.held, "sgd", [7, 0], [{}], None, {}),
        lambda plan: _plan.Plan(plan.held, "sgd", [], [{}], None, {}),
        lambda plan: _held.Averaged(plan.held, []),
        lambda plan: _held.Averaged(plan.held, [1, 2]),
        lambda plan: _held.Held([], [np.ones(2), np.ones(2)], None),
    ],
)
def test_calls_behind_the_public_ones_do_not_read_past_a_list(call):
    w = [np.ones(3), np.ones(3)]
    opt = pyoptk.SGD(w, lr=1.0, momentum=0.5)
    with pytest.raises((ValueError, TypeError, IndexError, KeyError, RuntimeError)):
        call(opt._plan)
    opt.step([np.ones(3), np.ones(3)])
    np.testing.assert_array_equal(w, 0)


# ---- what is taken as parameters -----------------------------------------------------------------


class Tensor:
    """Answers to what PyTorch's tensors, Keras's variables and pandas's frames answer to."""

    def __init__(self, *names):
        for name in names:
            setattr(self, name, lambda *_: None)

    def __iter__(self):
        return iter([1.0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], r"^params: expected at least one array, got none in list"),
        ({}, r"^params: expected at least one array"),
        ((p for p in ()), r"^params: .*generator can be used once"),
        (Tensor("detach", "numpy"), r"^params: .* got Tensor; its \.detach\(\)\.numpy\(\)"),
        ([Tensor("detach", "numpy")], r"^params\[0\]: .* got Tensor; its \.detach\(\)\.numpy\(\)"),
        (Tensor("named_parameters", "forward"), r"^params: .*module\.named_parameters\(\)"),
        (Tensor("to_numpy"), r"^params: .* got Tensor; its \.to_numpy\(copy=True\)"),
        ({"w": Tensor("numpy")}, r"^params\['w'\]: .*; its \.numpy\(\)"),
        ({"lower": {"w": Tensor("numpy")}}, r"^params\['lower'\]\['w'\]: .*; its \.numpy\(\)"),
        ({"lower": [0.5, 0.5]}, r"^params\['lower'\]: .* got list"),
        ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, r"differ as str, got 'a'\]\['b' and 'a\.b'"),
        ([("w", Tensor("detach"))], r"^params\[0\]: .* got tuple; \{n: p.detach\(\)"),
        ([{"params": [1], "lr": 0.1}], r"^params\[0\]: .* got dict; groups= sets what differs"),
        ({"lstm": pyoptk.LSTM(2, 3)}, r"^params\['lstm'\]: .* got LSTM; its \.params"),
    ],
    ids=repr,
)
def test_what_holds_no_arrays_is_refused_with_the_call_that_helps(params, message):
    for make in (pyoptk.SGD, pyoptk.SWA):
        with pytest.raises((TypeError, ValueError), match=message):
            make(params() if callable(params) else params)


@pytest.mark.parametrize("name", ["no_decay", "decay_mask"])
def test_a_pattern_that_matches_nothing_is_refused(name):
    params = {"lower.bias": np.ones(2), "lower.weight": np.ones(2)}
    with pytest.raises(ValueError, match=rf"^{name}\[1\] = 'bias\*': expected a pattern of lower"):
        pyoptk.SGD(params, **{name: ["*weight", "bias*"]})


@pytest.mark.parametrize(
    "spell", [lambda a: a, lambda a: a[::-1][::-1], frozen, lambda a: Buffer(a, "=f")], ids=str
)
def test_gradients_are_only_read(spell):
    grad = np.ones(3, np.float32)
    grad = grad if spell(grad) is None else spell(grad)
    for max_norm in (None, 1e9):
        w = np.zeros(3, np.float32)
        pyoptk.SGD(w, lr=1.0, max_norm=max_norm).step(grad)
        np.testing.assert_array_equal(w, -1)


def Buffer(array, spelling):
    """The array as a buffer of another object, in another spelling of its format (JAX has "=f")."""
    ctypes = pytest.importorskip("ctypes")
    kind = {"=f": ctypes.c_float.__ctype_le__ if np.little_endian else ctypes.c_float.__ctype_be__}
    return (kind[spelling] * array.size).from_buffer(array)


def test_the_norm_alone_changes_nothing():
    for norm in (np.inf, float("inf"), np.float64("inf")):
        w, plain = np.zeros(2), np.zeros(2)
        opt = pyoptk.SGD(w, lr=1.0, max_norm=norm)
        for grad in (np.array([3.0, 4.0]), np.array([np.inf, 1.0])):
            opt.step(grad)
            pyoptk.SGD(plain, lr=1.0).step(grad)
            assert opt.grad_norm == np.sqrt((grad * grad).sum())
            np.testing.assert_array_equal(w, plain)
        grad = np.array([3.0, np.inf])
        assert pyoptk.clip_by_global_norm(grad, norm) == np.inf
        np.testing.assert_array_equal(grad, [3, np.inf])


# ---- NumPy's and Python's idioms -----------------------------------------------------------------


def test_augmented_assignment_changes_and_does_not_raise():
    lstm = pyoptk.LSTM(2, 3)
    w, before = lstm.params["weight_ih_l0"], lstm.flat_params.copy()
    lstm.params["weight_ih_l0"] -= 1
    assert lstm.params["weight_ih_l0"] is w
    lstm.flat_params += 1
    lstm.flat_grads *= 0
    np.testing.assert_allclose(w, before[: w.size].reshape(w.shape), atol=1e-6)
    param = np.ones(3)
    opt = pyoptk.SGD(param, ema_decay=0.5)
    lookahead, swa = pyoptk.Lookahead(opt), pyoptk.SWA(param)
    for owner, name in [(opt, "params"), (opt, "ema"), (lookahead, "slow"), (swa, "weights")]:
        setattr(owner, name, operator.imul(getattr(owner, name), 2))  # owner.name *= 2
    assert (param[0], opt.ema[0], lookahead.slow[0], swa.weights[0]) == (2, 2, 2, 2)
    for owner, name in [(lstm, "flat_params"), (opt, "params"), (opt, "ema"), (swa, "weights")]:
        with pytest.raises(AttributeError):
            setattr(owner, name, np.ones(3))
    with pytest.raises(AttributeError):
        opt.unheard_of = None


@pytest.mark.parametrize("how", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_the_dicts_of_arrays_can_be_copied_and_pickled(how):
    lstm = pyoptk.LSTM(2, 3)
    opt = pyoptk.SGD(lstm.params, groups={"bias*": {"lr": 0.5}})
    for mapping in (lstm.params, lstm.grads):
        again = how(mapping)
        assert type(again) is dict
        for name, array in mapping.items():
            np.testing.assert_array_equal(again[name], array)
            assert not np.shares_memory(again[name], array)
    assert how(opt.hyper) == opt.hyper
    assert how(opt.groups) == {"bias*": {"lr": 0.5}}


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.update(weight_ih_l0=np.ones(1)),
        lambda p: p.__setitem__("weight_ih_l0", p["weight_ih_l0"].copy()),
        lambda p: p.__setitem__("more", np.ones(1)),
        lambda p: p.__delitem__("weight_ih_l0"),
        lambda p: p.__ior__({"more": 1}),
        lambda p: p.pop("weight_ih_l0"),
        lambda p: p.popitem(),
        lambda p: p.setdefault("more", 1),
        lambda p: p.clear(),
    ],
)
def test_the_entries_of_a_layers_dicts_stay(change):
    lstm = pyoptk.LSTM(2, 3)
    before = dict(lstm.params)
    with pytest.raises(TypeError, match="item assignment; write into the arrays"):
        change(lstm.params)
    assert list(lstm.params) == list(before)
    assert all(lstm.params[name] is array for name, array in before.items())


def test_reprs_show_what_differs_from_the_defaults():
    w = {"w": np.ones(2)}
    for opt, expected in [
        (pyoptk.Adam(w), "Adam()"),
        (pyoptk.Adam(w, 0.1, amsgrad=True), "Adam(lr=0.1, amsgrad=True)"),
        (pyoptk.AdamW(w, weight_decay=0.01), "AdamW()"),
        (pyoptk.AdamW(w, decoupled=False), "AdamW(decoupled=False)"),
        (pyoptk.Lion(w, max_norm=1), "Lion(max_norm=1.0)"),
        (pyoptk.SGD(w, groups={"*": {"lr": 2}}), "SGD(groups={'*': {'lr': 2.0}})"),
        (pyoptk.LossScaler(pyoptk.LAMB(w), interval=5), "LossScaler(LAMB(), interval=5)"),
        (pyoptk.Lookahead(pyoptk.SGD(w)), "Lookahead(SGD())"),
        (pyoptk.SWA(w), "SWA()"),
    ]:
        assert repr(opt) == expected


@pytest.mark.parametrize("kind", [_held.Held, _held.Averaged, _plan.Plan])
def test_a_compiled_class_cannot_be_made_in_part(kind):
    with pytest.raises(TypeError, match="argument"):
        kind.__new__(kind)
