"""State dicts that were saved with another `master`: loaded to the bit, or refused by name."""

import numpy as np
import pytest

import pyoptk
from pyoptk import reference

F32, U16 = np.dtype(np.float32), np.dtype(np.uint16)
TIES = np.array([1 + 2**-8, -1 - 3 * 2**-8, 2**-9, 3.0], np.float32)  # their elements do not move


def with_master(master):
    """An optimizer whose numbers are the same, whatever `master` is; None: float32."""
    weights = np.random.default_rng(1).standard_normal(700).astype(np.float32)
    weights[:4] = TIES
    if master is None:
        return pyoptk.AdamW({"a": weights}, weight_decay=0)
    high, low = reference.split_float32(weights)
    opt = pyoptk.AdamW({"a": high}, master=master, dtype="bfloat16", weight_decay=0)
    if master == "float32":
        opt.state["master"]["a"][...] = weights
    elif master == "remainder":
        opt.state["remainder"]["a"][...] = low
    return opt


def step_all(opts, rng, count):
    for _ in range(count):
        grad = rng.standard_normal(700).astype(np.float32)
        grad[:4] = 0
        for opt in opts:
            opt.step({"a": grad})


def numbers(opt):
    narrow = opt.params["a"].dtype != F32
    return opt.state_values("master")["a"] if narrow else opt.params["a"]


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("to", [None, "float32", "remainder"])
@pytest.mark.parametrize("of", [None, "float32", "remainder"])
def test_a_checkpoint_loads_with_another_master(of, to, ending, tmp_path, rng):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    one, other = with_master(of), with_master(to)
    step_all([one], rng, 3)
    step_all([other], rng, 1)
    pyoptk.save(path := tmp_path / f"run.{ending}", opt=one, w=one.params)
    if of and to:
        pyoptk.load(path, opt=other, w=other.params)  # parameters first, whatever the order
    else:
        found = pyoptk.load(path)
        state, saved = found["opt"], found["w"]["a"]
        if of is None and to:
            state["master.a"] = saved
        elif of == "remainder" and not to:
            state["master.a"] = reference.join_float32(saved.view(U16), state.pop("remainder.a"))
        elif of is None:
            other.params["a"][...] = saved
        other.load_state_dict(state)
    step_all([one, other], rng, 2)
    np.testing.assert_array_equal(numbers(other), numbers(one))
    np.testing.assert_array_equal(numbers(other)[:4], TIES)
    np.testing.assert_array_equal(other.state["m"]["a"], one.state["m"]["a"])


@pytest.mark.parametrize("to", ["float32", "remainder"])
def test_masters_of_what_is_float32_here_are_parameters(to, rng):
    """Of two parameters in halves, one is in float32 in the optimizer that loads."""
    wide = rng.standard_normal((2, 700)).astype(np.float32)
    halves = dict(zip("ab", reference.split_float32(wide)[0], strict=True))
    one = pyoptk.Adam(halves, master="float32", dtype="bfloat16")
    for key, row in zip("ab", wide, strict=True):
        one.state["master"][key][...] = row
    params = {"a": np.zeros(700, U16), "b": np.zeros(700, F32)}
    other = pyoptk.Adam(params, master=to, dtype="bfloat16")
    other.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(list(other.state_values("master").values()), wide)
    np.testing.assert_array_equal(params["b"], wide[1])


@pytest.mark.parametrize(("of", "to"), [("float32", None), ("remainder", "float32")])
def test_what_has_to_do_with_parameters_is_refused_while_they_are_averages(of, to):
    opt, state = with_master(to), with_master(of).state_dict()
    opt = pyoptk.AdamW(opt.params, master=to, dtype=to and "bfloat16", ema_decay=0.9)
    state["ema.a"] = np.zeros(700, F32)
    before = {key: np.copy(value) for key, value in opt.state_dict().items()}
    with opt.averaged(), pytest.raises(RuntimeError, match=r"within averaged\(\)"):
        opt.load_state_dict(state)
    for key, value in opt.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


WIDE = pyoptk.Adam(np.zeros(6, np.float32)).state_dict()


def loading(into, **more):
    """Loading what float32 training has saved and `more`; None: into such training."""
    param = np.zeros(6, U16 if into else F32)
    opt = pyoptk.Adam(param, master=into, dtype="bfloat16" if into else None)
    return lambda: opt.load_state_dict({**WIDE, **more})


REFUSED = {
    "load nothing": (
        loading("remainder"),
        "state: expected 'master', the parameter in float32, got neither that nor 'remainder'; add",
    ),
    "load a master": (
        loading("stochastic", master=np.zeros(6, F32)),
        "state: expected no 'master', because 'stochastic' keeps nothing but the parameters",
    ),
    "load halves": (
        loading(None, remainder=np.zeros(6, U16)),
        "state: expected 'master' for params of float32, got 'remainder'; of the bfloat16 param",
    ),
    "load both": (
        loading("remainder", master=np.zeros(6, F32), remainder=np.zeros(6, U16)),
        "state: expected .* names, got 'master' too",
    ),
    "load a shape": (
        loading("remainder", master=np.zeros(5, F32)),
        r"state\['master'\]: expected float32 \(6,\), got float32 \(5,\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
