"""States of 8 and 16 bits in pyoptk.torch."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from test_torch_states import through_a_file
from torch_rows import ours

import pyoptk

KINDS = ("bfloat16", "8bit")
NARROW = [(name, {"momentum": 0.9} if name == "SGD" else {})
          for name in ("SGD", "AdaGrad", "RMSprop", "Adam", "NAdam", "Lion")]  # fmt: skip
SIZES = (4097, 8, 5000)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(n).astype(np.float32) for n in SIZES]
    return arrays, [torch.nn.Parameter(torch.tensor(a)) for a in arrays]


def steps(opt, tensors, count, seed=1):
    """Steps of a torch optimizer; the gradients, for another."""
    rng = np.random.default_rng(seed)
    given = [[rng.standard_normal(p.shape).astype(np.float32) for p in tensors]
             for _ in range(count)]  # fmt: skip
    for grads in given:
        for p, grad in zip(tensors, grads, strict=True):
            p.grad = torch.tensor(grad)
        opt.step()
    return given


def same(tensors, arrays):
    return all((p.detach().numpy() == a).all() for p, a in zip(tensors, arrays, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "settings"), NARROW, ids=[name for name, _ in NARROW])
def test_narrow_states_have_the_bits_of_those_for_numpy_through_a_checkpoint(name, settings, kind):
    arrays, tensors = parameters()
    settings |= {"state_dtype": kind, "lr": 0.01}
    for_numpy = getattr(pyoptk, name)(arrays, **settings)
    settings |= {"eps": for_numpy.eps} if hasattr(for_numpy, "eps") else {}
    opt = getattr(ours, name)(tensors, **settings)
    given = steps(opt, tensors, 4)
    saved = through_a_file(opt.state_dict())
    opt = getattr(ours, name)(tensors, **settings)
    opt.load_state_dict(saved)
    given += steps(opt, tensors, 4, seed=2)
    for grads in given:
        for_numpy.step(grads)
    assert same(tensors, arrays)


def test_states_are_bytes_and_small_ones_stay_wide():
    _, tensors = parameters()
    opt = ours.Adam(tensors, state_dtype="8bit")
    steps(opt, tensors, 1)
    large, small, _ = (opt.state[p] for p in tensors)
    assert (large["exp_avg"].dtype, large["exp_avg"].shape) == (torch.uint8, (4160,))
    assert (large["exp_avg_sq_scale"].dtype, large["exp_avg_sq_scale"].shape) == (
        torch.float32,
        (17,),
    )
    assert small.keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert small["exp_avg"].dtype == torch.float32
    assert ours.Adam(copy.deepcopy(tensors)).param_groups[0]["state_dtype"] == "float32"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_checkpoints_of_float32_become_narrow_and_back(name, kind):
    """From torch.optim into narrow states, which then become float32 for torch.optim again."""
    settings = {"lr": 0.01} | ({"momentum": 0.9} if name == "SGD" else {})
    _, tensors = parameters()
    _, others = parameters()
    wide = getattr(torch.optim, name)(tensors, **settings)
    steps(wide, tensors, 5)
    for p, q in zip(tensors, others, strict=True):
        q.data.copy_(p.data)
    key = "momentum_buffer" if name == "SGD" else "exp_avg_sq"
    narrow = getattr(ours, name)(others, state_dtype=kind, **settings)
    narrow.load_state_dict(through_a_file(wide.state_dict()))
    assert narrow.param_groups[0]["state_dtype"] == kind
    steps(narrow, others, 1, seed=3)
    assert narrow.state[others[0]][key].dtype == torch.uint8
    back = getattr(ours, name)(others, **settings)
    back.load_state_dict(through_a_file(narrow.state_dict()))
    assert back.param_groups[0]["state_dtype"] == "float32"
    for opt, ps in ((wide, tensors), (back, others)):
        steps(opt, ps, 1, seed=3 if opt is wide else 4)
    steps(wide, tensors, 1, seed=4)
    again = getattr(torch.optim, name)(others, **settings)
    again.load_state_dict(through_a_file(back.state_dict()))
    found, expected = again.state[others[0]][key], wide.state[tensors[0]][key]
    assert found.dtype == torch.float32
    # Two roundings, each to one of the two nearest numbers of 4 or 8 significant bits.
    apart = {"bfloat16": 2**-6, "8bit": 2**-2}[kind] * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=apart)


def test_the_format_may_change_between_steps():
    _, tensors = parameters()
    opt = ours.Adam(tensors)
    steps(opt, tensors, 2)
    before = opt.state[tensors[0]]["exp_avg"].clone()
    for kind, dtype in (("8bit", torch.uint8), ("bfloat16", torch.uint8), ("float32", None)):
        opt.param_groups[0]["state_dtype"] = kind
        for p in tensors:
            p.grad = torch.zeros_like(p)
        opt.step()
        assert opt.state[tensors[0]]["exp_avg"].dtype == (dtype or torch.float32)
    assert opt.state[tensors[0]].keys() == {"step", "exp_avg", "exp_avg_sq"}
    expected = before * 0.9**3
    apart = 2**-2 * float(before.abs().max())  # one rounding to 8 bits, two to bfloat16
    torch.testing.assert_close(opt.state[tensors[0]]["exp_avg"], expected, rtol=0, atol=apart)


def misplaced(opt, p):
    opt.state[p]["exp_avg_scale"] = torch.zeros(3)
    return "exp_avg_scale", "expected 17 numbers of float32 in order"


def cut(opt, p):
    opt.state[p]["exp_avg"] = torch.zeros(5, dtype=torch.uint8)
    return "exp_avg", "expected 4160 bytes and 17 scales in 8 bits"


def unknown(opt, p):
    opt.param_groups[0]["state_dtype"] = "4bit"
    return "state_dtype", "expected one of float32, bfloat16, 8bit"


@pytest.mark.parametrize("spoil", [misplaced, cut, unknown])
def test_a_refused_step_says_why(spoil):
    _, tensors = parameters()
    opt = ours.Adam(tensors, state_dtype="8bit")
    steps(opt, tensors, 1)
    before = [p.tolist() for p in tensors]
    name, words = spoil(opt, tensors[0])
    with pytest.raises(ValueError, match=f"(?s){name}.*{words}"):
        opt.step()
    assert [p.tolist() for p in tensors] == before


CONSTRUCTION = [
    ("Adadelta", {}, torch.float32, "have narrow states"),
    ("Adam", {}, torch.float64, "for parameters of float64"),
    ("SGD", {}, torch.float32, "without momentum"),
    ("RMSprop", {"centered": True}, torch.float32, "with centered"),
]


@pytest.mark.parametrize(("name", "settings", "dtype", "words"), CONSTRUCTION)
def test_what_cannot_be_narrow_is_refused_by_name(name, settings, dtype, words):
    p = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
    with pytest.raises(ValueError, match=f"state_dtype: expected 'float32' .*{words}"):
        getattr(ours, name)([p], state_dtype="8bit", **settings)
