"""Parameters of bfloat16 and float16 in pyoptk.torch, and gradients of other dtypes than theirs."""

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from test_torch_states import parameter, through_a_file
from torch_rows import ours

import pyoptk
from pyoptk import _optim, reference

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
MASTERS = ("float32", "remainder", "stochastic")
NAMES = [name for name in ours.__all__ if name != "TorchOptimizer"]
ALLOWED = [(F16, "float32"), *((BF16, master) for master in MASTERS)]
ROWS = [(name, *dtype_and_master) for name in NAMES for dtype_and_master in ALLOWED]
SIZES = (4097, 8, 0, 300)


def tensors_of(dtype, sizes=SIZES, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(n, generator=made).to(dtype)) for n in sizes]


def give(tensors, dtype, seed):
    """Gradients of this dtype, whatever that of their parameters is."""
    made = torch.Generator().manual_seed(seed)
    for p in tensors:
        p.grad = None
        p.grad_dtype = dtype
        p.grad = torch.randn(p.shape, generator=made).to(dtype)


def train(opt, tensors, steps, seed=1):
    for i in range(steps):
        give(tensors, (F32, BF16, F16)[i % 3], seed + i)
        opt.step()


def as_array(tensor):
    """For pyoptk, which takes uint16 as bfloat16."""
    array = tensor.detach().view(torch.int16) if tensor.dtype == BF16 else tensor.detach()
    return array.numpy().view(np.uint16 if tensor.dtype == BF16 else array.numpy().dtype)


def numbers(opt, p):
    """What a parameter stands for, in float32."""
    if "master" in (state := opt.state[p]):
        return state["master"].numpy()
    return reference.join_float32(as_array(p), state["remainder"].numpy().view(np.uint16))


@pytest.mark.parametrize(("name", "dtype", "master"), ROWS)
def test_steps_have_the_bits_of_the_same_optimizer_for_numpy(name, dtype, master):
    narrow = _optim.ROWS[getattr(ours, name)._kernel].narrow_states
    for kind in ("float32", "bfloat16", "8bit") if narrow else ("float32",):
        tensors = tensors_of(dtype)
        arrays = [as_array(p).copy() for p in tensors]
        settings = {"master": master, "state_dtype": kind, "max_norm": 1.0, "lr": 0.01}
        settings |= {"momentum": 0.9} if name == "SGD" else {}
        for_numpy = getattr(pyoptk, name)(arrays, dtype="bfloat16", **settings)
        settings |= {"eps": for_numpy.eps} if hasattr(for_numpy, "eps") else {}
        opt = getattr(ours, name)(tensors, **settings)
        for i, of_grads in enumerate((BF16, F32, F16)):
            give(tensors, of_grads, i)
            for_numpy.step([as_array(p.grad) for p in tensors])
            opt.step()
        assert [as_array(p).tobytes() for p in tensors] == [array.tobytes() for array in arrays]
        assert opt.grad_norm == for_numpy.grad_norm


@pytest.mark.parametrize("kind", ["float32", "8bit"])
@pytest.mark.parametrize("master", MASTERS[:2])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion"])
def test_a_master_is_float32_training(name, master, kind):
    tensors = tensors_of(BF16)
    wide = [torch.nn.Parameter(p.detach().float()) for p in tensors]
    settings = {"state_dtype": kind, "max_norm": 1.0, "lr": 0.01}
    settings |= {"momentum": 0.9} if name == "SGD" else {}
    make = getattr(ours, name)
    opts = make(tensors, master=master, **settings), make(wide, **settings)
    for i in range(20):
        train(opts[0], tensors, 1, i)
        train(opts[1], wide, 1, i)
    for p, q in zip(tensors, wide, strict=True):
        np.testing.assert_array_equal(numbers(opts[0], p), q.detach().numpy())


# ---- states --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
@pytest.mark.parametrize("master", MASTERS)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_training_goes_on_alike_from_a_checkpoint_or_a_copy(name, master, way):
    tensors = tensors_of(BF16)
    settings = {"master": master, "state_dtype": "8bit"}
    opt = getattr(ours, name)(tensors, **settings | ({"momentum": 0.9} if name == "SGD" else {}))
    train(opt, tensors, 3)
    if way == "state_dict":
        others = copy.deepcopy(tensors)
        other = getattr(ours, name)(others, **settings | {"lr": 7} | (
            {"momentum": 0.9} if name == "SGD" else {}))  # fmt: skip
        other.load_state_dict(through_a_file(opt.state_dict()))
    elif way == "deepcopy":
        others, other = copy.deepcopy((tensors, opt))
    else:
        others, other = pickle.loads(pickle.dumps((tensors, opt)))
    for each, ps in ((opt, tensors), (other, others)):
        train(each, ps, 3, seed=9)
    for p, q in zip(tensors, others, strict=True):
        assert torch.equal(p, q)
        assert opt.state[p].keys() == other.state[q].keys()


def test_names_dtypes_and_shapes_of_states():
    first, large = ("step", "exp_avg", "exp_avg_sq"), (31, 17)
    p, q = (torch.nn.Parameter(torch.zeros(large, dtype=BF16).t()) for _ in range(2))
    for param, master in ((p, "float32"), (q, "remainder")):
        param.grad = torch.zeros_like(param)
        opt = ours.AdamW([param], master=master)
        opt.step()
        state = opt.state[param]
        beside = {"float32": "master", "remainder": "remainder"}[master]
        assert set(state) == {*first, beside}
        assert state[beside].dtype == {"master": F32, "remainder": torch.int16}[beside]
        for name in ("exp_avg", "exp_avg_sq", beside):
            assert (state[name].shape, state[name].stride()) == (param.shape, param.stride())
        assert state["exp_avg"].dtype == F32
    opt = ours.SGD([q], master="stochastic")
    opt.step()
    assert opt.state[q].keys() == {"step"}  # rounding depends on it
    assert opt.state[q]["step"] == 1


@pytest.mark.parametrize("kind", ["float32", "8bit"])
@pytest.mark.parametrize("dtype", [BF16, F16])
def test_checkpoints_of_pytorch_load_and_ours_load_there(dtype, kind):
    tensors = tensors_of(dtype)
    theirs = torch.optim.AdamW(tensors)
    for i in range(3):
        give(tensors, dtype, i)
        theirs.step()
    before = [p.detach().clone() for p in tensors]
    opt = ours.AdamW(tensors, master="float32", state_dtype=kind)
    opt.load_state_dict(through_a_file(theirs.state_dict()))
    opt.param_groups[0]["lr"] = 0.0
    train(opt, tensors, 1)
    assert all(map(torch.equal, tensors, before))
    large, small = opt.state[tensors[0]], opt.state[tensors[1]]
    assert (large["step"], small["exp_avg"].dtype) == (4, F32)
    assert large["exp_avg"].dtype == (F32 if kind == "float32" else torch.uint8)
    if kind == "float32":
        expected = 0.9 * theirs.state[tensors[0]]["exp_avg"].float() + 0.1 * tensors[0].grad
        torch.testing.assert_close(large["exp_avg"], expected)
        again = torch.optim.AdamW(tensors)
        again.load_state_dict(through_a_file(opt.state_dict()))
        give(tensors, dtype, 5)
        again.step()
        assert again.state[tensors[0]]["exp_avg"].dtype == dtype


@pytest.mark.parametrize("master", MASTERS)
def test_a_master_that_pytorch_has_carried_along_is_made_anew(master):
    """Its step moves the parameter alone."""
    tensors = tensors_of(BF16)
    opt = ours.AdamW(tensors, master=master)
    train(opt, tensors, 2)
    theirs = torch.optim.AdamW(tensors, lr=0.1)
    theirs.load_state_dict(through_a_file(opt.state_dict()))
    theirs.param_groups[0]["lr"] = 0.5
    give(tensors, BF16, 3)
    theirs.step()
    moved = [p.detach().clone() for p in tensors]
    opt.load_state_dict(through_a_file(theirs.state_dict()))
    opt.param_groups[0]["lr"] = 0.0
    train(opt, tensors, 1)
    assert all(map(torch.equal, tensors, moved))


@pytest.mark.parametrize("between", [(), ("stochastic",)])
def test_the_master_may_change_between_steps(between):
    ways = ["float32", "remainder", "float32", *between]
    p = tensors_of(BF16, (500,))[0]
    opt = ours.SGD([p], lr=2.0**-20, master="float32")
    train(opt, [p], 3)
    opt.state[p]["master"][:2] = torch.tensor([1 + 2.0**-8, -1 - 2.0**-8])  # ties
    expected = numbers(opt, p).copy()
    opt.param_groups[0]["lr"] = 0.0
    for master in ways * 2:
        opt.param_groups[0]["master"] = master
        train(opt, [p], 1)
        if master == "stochastic":
            assert not opt.state[p].keys() & {"master", "remainder"}
            expected = p.detach().float().numpy()
        else:
            assert len(opt.state[p].keys() & {"master", "remainder"}) == 1
            np.testing.assert_array_equal(numbers(opt, p), expected)


def test_a_parameter_may_become_wide_and_narrow_again():
    p = tensors_of(BF16, (500,))[0]
    opt = ours.Adam([p], master="float32")
    train(opt, [p], 2)
    for dtype in (F32, BF16):
        p.grad = None
        p.data = p.data.to(dtype)
        train(opt, [p], 2)
        assert ("master" in opt.state[p]) == (dtype == BF16)
        assert opt.state[p]["exp_avg"].dtype == F32
    assert torch.equal(p, opt.state[p]["master"].bfloat16())
    wide = torch.nn.Parameter(p.detach().float())
    loaded = ours.Adam([wide])
    loaded.load_state_dict(through_a_file(opt.state_dict()))
    assert loaded.state[wide].keys() == {"step", "exp_avg", "exp_avg_sq"}


# ---- with everything else ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("inf", [False, True], ids=["finite", "infinite"])
def test_grad_scaler_steps_narrow_tensors(dtype, inf):
    results = []
    for fused in (False, True):
        p = tensors_of(dtype, (100,))[0]
        opt = ours.AdamW([p], master="float32", lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for i in range(3):
            opt.zero_grad()
            loss = (p.float() ** 2).sum()
            (scaler.scale(loss) if fused else loss).backward()
            if inf and i == 1:
                p.grad[0] = float("inf")
            if fused:
                scaler.step(opt)
                scaler.update()
            elif not (inf and i == 1):
                opt.step()
        assert opt.state[p]["step"] == 3 - inf
        results.append(p)
    assert torch.equal(*results)


@pytest.mark.parametrize("master", MASTERS)
@pytest.mark.parametrize(
    "start",
    [lambda: torch.randn(4, 5).t(), lambda: torch.randn(4, 5, 2)[..., 0], lambda: torch.randn(())],
    ids=["transposed", "strided", "scalar"],
)
def test_layouts_and_versions(start, master):
    values = start().to(BF16)
    p, flat = torch.nn.Parameter(values), torch.nn.Parameter(values.contiguous().clone())
    p.data = torch.empty_strided(values.shape, start().stride(), dtype=BF16).copy_(values)
    opts = [ours.Adam([x], lr=0.1, master=master) for x in (p, flat)]
    for _ in range(3):
        grad = torch.randn(values.shape).to(BF16)
        for x, opt in zip((p, flat), opts, strict=True):
            x.grad, version = grad.clone(), x._version
            opt.step()
            assert x._version > version
    if master != "stochastic" or p.stride() == flat.stride():  # chance goes by order of memory
        assert torch.equal(p, flat)
    if master != "stochastic":
        name = "master" if master == "float32" else master
        opts[0].state[p][name] = opts[0].state[p][name].contiguous()  # as a file may bring it
        train(opts[0], [p], 1)
        train(opts[1], [flat], 1)
        assert torch.equal(p, flat)


# ---- what is refused -----------------------------------------------------------------------------

REFUSED = [
    (BF16, {}, ValueError, "master: expected 'float32', 'remainder' or 'stochastic' for param_gr"),
    (F16, {"master": "remainder"}, ValueError, "master: expected 'float32' for param_groups"),
    (F16, {"master": "stochastic"}, ValueError, "master: expected 'float32' for param_groups"),
    (BF16, {"master": "kahan"}, ValueError, "master: expected one of float32, remainder, stoc"),
    (BF16, {"master": "float32", "state_dtype": "4bit"}, ValueError, "state_dtype: expected one"),
]


@pytest.mark.parametrize(("dtype", "settings", "error", "words"), REFUSED)
def test_constructors_and_steps_refuse(dtype, settings, error, words):
    with pytest.raises(error, match=f"^{words}"):
        ours.Adam([parameter(dtype=dtype)], **settings)
    p = parameter(dtype=dtype)
    opt = ours.Adam([p], master="float32")
    opt.param_groups[0].update({"master": None} | settings)
    with pytest.raises(error, match=f"^{words}"):
        opt.step()
    assert not p.any()
    assert not opt.state[p]


def of_float64(ps, opt):
    give(ps[1:], torch.float64, 0)


def no_shape(ps, opt):
    opt.state[ps[1]]["remainder"] = torch.zeros(3, dtype=torch.int16)


def in_the_remainder(ps, opt):
    ps[1].grad = opt.state[ps[0]]["remainder"].view(BF16)[:2]


def twice(ps, opt):
    ps[1].data = opt.state[ps[0]]["remainder"].view(BF16)[:2]


STEPS = [
    (of_float64, TypeError, r"\[1\].grad: expected torch.float32, torch.bfloat16 or torch.float16"),
    (no_shape, ValueError, r"the remainder of param_groups\[0\]\['params'\]\[1\]: expected shape"),
    (in_the_remainder, ValueError, r"\[1\].grad: expected memory of its own"),
    (twice, ValueError, "expected memory of its own, got .* overlaps"),
]


@pytest.mark.parametrize(("spoil", "error", "match"), STEPS, ids=[s.__name__ for s, *_ in STEPS])
def test_a_refused_step_changes_nothing(spoil, error, match):
    ps = [parameter(4, dtype=BF16), parameter(2, dtype=BF16)]
    opt = ours.Adam(ps, max_norm=1.0, master="remainder")
    opt.step()
    spoil(ps, opt)
    before = copy.deepcopy([ps[0].data, ps[1].data, opt.state[ps[0]]])
    with pytest.raises(error, match=match):
        opt.step()
    assert repr([ps[0].data, ps[1].data, opt.state[ps[0]]]) == repr(before)


# ---- memory that has another size now ------------------------------------------------------------


def test_a_gradient_at_the_same_address_is_looked_at_again_if_it_is_larger():
    memory = torch.zeros(12)
    p = torch.nn.Parameter(memory[4:])
    opt = ours.SGD([p], lr=1.0)
    p.grad_dtype = None
    p.grad = memory[:4].view(BF16)  # of 16 bytes, right before the parameter
    opt.step()
    p.grad = memory[:8]
    with pytest.raises(ValueError, match=r"\.grad: expected memory of its own"):
        opt.step()


def test_a_parameter_at_the_same_address_is_looked_at_again_if_it_is_larger():
    memory = torch.zeros(12)
    ps = [torch.nn.Parameter(x) for x in (memory[:4].view(BF16), memory[4:])]
    opt = ours.SGD(ps, lr=1.0, master="stochastic")
    for p in ps:
        p.grad = torch.ones_like(p)
    opt.step()
    ps[0].grad, ps[0].data = None, memory[:8]
    ps[0].grad = torch.ones(8)
    with pytest.raises(ValueError, match=r"expected memory of its own, got .* overlaps"):
        opt.step()
