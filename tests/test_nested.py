"""Parameters in dicts and lists within each other: every step, message and checkpoint of them."""

from collections import UserDict

import numpy as np
import pytest

import pyoptk

NESTED = {
    "dicts": lambda a, b, c: {"lower": {"w": a, "b": {"all": b}}, "none": {}, "top": c},
    "tuples in a list": lambda a, b, c: [(a, b), (), (c,)],
    "dicts in a list": lambda a, b, c: [{"w": a, "b": b}, c],
}


def arrays(seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in ((3, 2), (2,), ())]


def take_steps(params, structure, wrap):
    opt = pyoptk.AdamW(params, lr=0.1, max_norm=0.5, ema_decay=0.5, zero_grad=True)
    wrapper = wrap(opt)
    for k in range(4):
        wrapper.step(structure(*arrays(k + 1)))
    return opt


@pytest.mark.parametrize("structure", NESTED.values(), ids=NESTED)
@pytest.mark.parametrize(
    "wrap", [lambda o: o, lambda o: pyoptk.Accumulation(o, k=2), pyoptk.Lookahead], ids=str
)
def test_nested_parameters_step_as_flat_ones(tmp_path, structure, wrap):
    flat, nested = arrays(0), arrays(0)
    given = structure(*nested)
    expected = take_steps(flat, lambda *a: list(a), wrap)
    opt = take_steps(given, structure, wrap)
    for found, wanted in zip(nested, flat, strict=True):
        np.testing.assert_array_equal(found, wanted)
    as_given = pyoptk.params.Params(given).like(expected.ema)
    assert repr(opt.ema) == repr(as_given)
    assert repr(opt.steps) == repr(pyoptk.params.Params(given).like(expected.steps))

    fresh = structure(*arrays(5))
    resumed = pyoptk.AdamW(fresh, lr=0.3, ema_decay=0.1)
    parts = {"params": given} if isinstance(given, dict) else {}  # lists hold no arrays there
    pyoptk.save(tmp_path / "run.npz", opt=opt, **parts)
    pyoptk.load(tmp_path / "run.npz", opt=resumed, **{name: fresh for name in parts})
    if parts:
        assert repr(fresh) == repr(given)
    assert repr(resumed.ema) == repr(opt.ema)
    assert pyoptk.clip_by_global_norm(given, 0.1) == pyoptk.global_norm(flat)
    assert pyoptk.global_norm(given) == pytest.approx(0.1, rel=1e-4)


def test_names_of_nested_parameters_are_joined_by_dots():
    a, b, c = arrays(0)
    params = {"lower": {"w": a, "b": b}, "top": [c, np.zeros(1)]}
    opt = pyoptk.SGD(params, lr=0.5, no_decay=["*.b"], groups={"top.0": {"lr": 2.0}})
    assert opt.value("lr", param="top.0") == 2.0
    sub = {"lower": None, "top": [np.ones(()), None]}
    opt.step(sub)
    assert opt.steps == {"lower": {"w": 0, "b": 0}, "top": [1, 0]}
    assert "groups.top.0.lr" in opt.state_dict()


LOWER = r"^params\['lower'\]"


@pytest.mark.parametrize(
    ("change", "grads", "message"),
    [
        (None, {"lower": {"w": 1}, "top": 2}, r"\['lower'\]: expected 2 keys, got none for 'b'"),
        (None, {"lower": {"w": 1, "b": 1, "c": 1}, "top": 2}, r"\['lower'\]: .* got 'c' too"),
        (None, {"lower": 3, "top": 2}, r"\['lower'\]: expected a dict like params, got int"),
        (None, {"lower": {"w": 1, "b": 3}, "top": 2}, r"\['lower'\]\['w'\]: expected"),
        (None, None, r": expected a dict like params, got NoneType"),
        (
            "w",
            None,
            LOWER + r"\['w'\]: .* got another: write into that one, params\['lower'\]\['w'",
        ),
        ("lower", None, LOWER + r"\['w'\]: expected the array that it was at first, got another"),
        ("b", None, LOWER + r": expected 2 keys, got none for 'b'$"),
    ],
)
def test_what_does_not_fit_nested_parameters_is_refused(change, grads, message):
    w, b, top = np.ones(2), np.ones(1), np.ones(3)
    params = {"lower": {"w": w, "b": b}, "top": top}
    opt = pyoptk.SGD(params, lr=0.1)
    if change == "lower":
        params["lower"] = {"w": w.copy(), "b": b}
    elif change == "w":
        params["lower"]["w"] = w.copy()
    elif change == "b":
        del params["lower"]["b"]
    if change:
        grads = {"lower": {"w": np.ones(2), "b": None}, "top": np.ones(3)}
    with pytest.raises((TypeError, ValueError), match=message if change else "^grads" + message):
        opt.step(grads)
    assert [*w, *b, *top] == [1] * 6


KINDS = {
    "tuple": (lambda w: ({"w": w}, [np.ones(3)]), lambda p, new: p[0].update(w=new)),
    "mapping": (lambda w: UserDict(w=w), lambda p, new: p.update(w=new)),
    "mapping of dicts": (lambda w: UserDict(a={"w": w}), lambda p, new: p["a"].update(w=new)),
    "beside nothing": (lambda w: {"w": w, "none": {}}, lambda p, new: p.update(w=new)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_that_is_replaced_is_refused_in_every_structure(kind):
    make, replace = KINDS[kind]
    w = np.ones(2)
    params, grads = make(w), make(np.ones(2))
    opt = pyoptk.SGD(params, lr=0.5)
    opt.step(grads)
    np.testing.assert_array_equal(w, 0.5)
    replace(params, w.copy())
    with pytest.raises(ValueError, match=r"^params\[.*'w'\]: .* got another: write into that one"):
        opt.step(grads)
    np.testing.assert_array_equal(w, 0.5)


def test_structures_without_an_end_are_refused():
    within, deep = {}, [np.ones(2)]
    within["self"] = within
    for _ in range(3000):
        deep = [deep]
    for params in (within, deep):
        with pytest.raises(ValueError, match=r"^params: expected fewer dicts and lists inside"):
            pyoptk.SGD(params)
    with pytest.raises(ValueError, match=r"^grads: expected fewer dicts and lists inside"):
        pyoptk.clip_by_value(deep, 1.0)
