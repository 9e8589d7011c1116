"""Steps of pyoptk.torch that are refused or interrupted, and masters that are out of date."""

import copy
import sys

import pytest

torch = pytest.importorskip("torch")
from test_torch_master import BF16, F32, give, numbers, tensors_of, train
from test_torch_states import through_a_file
from torch_rows import ours

from pyoptk.torch import tensors

# ---- states and masters that come later ----------------------------------------------------------

LATER = [("SGD", "momentum", 0.9), ("Adam", "amsgrad", True), ("AdamW", "lr", 0.01)]


@pytest.mark.parametrize(("name", "key", "value"), LATER)
@pytest.mark.parametrize("master", ["float32", "remainder"])
@pytest.mark.parametrize("given", [False, True], ids=["begun", "given"])
def test_a_state_that_comes_later_leaves_the_master(name, key, value, master, given):
    (p,) = tensors_of(BF16, (500,))
    start = p.detach().float()
    opt = getattr(ours, name)([p], lr=0.01, master=master)
    if given:
        start = (start + 2.0**-12).where(start.abs() > 0.5, start)  # still rounded to p
        opt.state[p]["master"] = start.clone()
    wide = torch.nn.Parameter(start)
    as_wide = getattr(ours, name)([wide], lr=0.01)
    for i in range(6):
        for each, x in ((opt, p), (as_wide, wide)):
            if i == 3:
                each.param_groups[0][key] = value
            train(each, [x], 1, i)
    assert torch.equal(torch.from_numpy(numbers(opt, p)), wide)
    assert len(opt.state[p].keys() & set(tensors.BESIDE)) == 1


@pytest.mark.parametrize("master", ["float32", "stochastic"])
def test_momentum_that_comes_later_begins_at_the_gradient(master):
    (p,) = tensors_of(BF16, (50,))
    opt = ours.SGD([p], lr=0.1, dampening=0.5, master=master)
    p.grad = torch.ones_like(p)
    for momentum, steps in ((0.0, 2), (0.9, 1)):
        opt.param_groups[0]["momentum"] = momentum
        for _ in range(steps):
            opt.step()
    assert (opt.state[p]["momentum_buffer"] == 1).all()
    assert opt.state[p].get("step", 3) == 3


# ---- masters of numbers that are no longer there -------------------------------------------------


@pytest.mark.parametrize("now", ["float32", "remainder"])
def test_a_master_that_a_float32_model_has_carried_along_is_made_anew(now):
    """PyTorch's step moves the parameter alone, and leaves a master of float32 as it is."""
    (p,) = tensors_of(BF16, (50,))
    opt = ours.AdamW([p], master="float32")
    train(opt, [p], 2)
    wide = torch.nn.Parameter(p.detach().float())
    theirs = torch.optim.AdamW([wide])
    theirs.load_state_dict(through_a_file(opt.state_dict()))
    theirs.param_groups[0]["lr"] = 0.5
    give([wide], F32, 3)
    theirs.step()
    again = torch.nn.Parameter(wide.detach().to(BF16))
    moved = again.detach().clone()
    loaded = ours.AdamW([again], master=now)
    loaded.load_state_dict(through_a_file(theirs.state_dict()))
    loaded.param_groups[0]["lr"] = 0.0
    train(loaded, [again], 1)
    assert torch.equal(again, moved)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("master", ["remainder", "stochastic"])
def test_the_first_step_drops_what_belongs_to_another_master(name, master):
    (p,) = tensors_of(BF16, (50,))
    opt = getattr(ours, name)([p], master=master)
    opt.state[p]["master"] = p.detach().float()
    train(opt, [p], 1)
    assert "master" not in opt.state[p]


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_step_of_a_wide_parameter_drops_the_master(name):
    ps = tensors_of(BF16, (50, 3))
    opt = getattr(ours, name)(ps, lr=0.5, master="float32")
    train(opt, ps, 1)
    for dtype, master in ((F32, None), (BF16, "float32")):
        for p in ps:
            p.grad = None
            p.data = p.data.to(dtype)
        moved = [p.detach().clone() for p in ps]
        opt.param_groups[0].update(master=master, lr=0.5 if master is None else 0.0)
        train(opt, ps, 1)
        assert all("master" in opt.state[p] for p in ps) == (master is not None)
    assert all(map(torch.equal, ps, moved))


def by_names(opt, state_dict):
    """PyTorch's recipe: a hook that matches states by the names of parameters."""
    mine, theirs = copy.deepcopy(opt.state_dict()), state_dict["param_groups"][0]
    group = mine["param_groups"][0]
    for i, name in zip(group["params"], group["param_names"], strict=True):
        at = theirs["params"][theirs["param_names"].index(name)]
        mine["state"][i] = state_dict["state"][at]
    return mine


@pytest.mark.parametrize("master", ["float32", "remainder"])
def test_what_a_hook_makes_of_a_checkpoint_is_loaded(master):
    ps = tensors_of(BF16, (50, 50))
    opt = ours.AdamW(list(zip("ab", ps, strict=True)), master=master)
    train(opt, ps, 2)
    other = ours.AdamW(list(zip("ba", ps[::-1], strict=True)), master=master)
    other.register_load_state_dict_pre_hook(by_names)
    other.load_state_dict(through_a_file(opt.state_dict()))
    for p in ps:
        assert all(torch.equal(other.state[p][key], x) for key, x in opt.state[p].items())


# ---- what is refused has changed nothing ---------------------------------------------------------


def everything(opt):
    """Parameters, states and their numbers, to be compared."""
    ps = [p for group in opt.param_groups for p in group["params"]]
    return repr([(p.tolist(), opt.state[p], [x.tolist() for x in opt.state[p].values()])
                 for p in ps])  # fmt: skip


CHANGES = [
    ("float32", {"master": "remainder"}),
    ("remainder", {"master": "float32"}),
    ("float32", {"master": "stochastic"}),
    ("float32", {"state_dtype": "8bit", "min_8bit_size": 0}),
    ("remainder", {"state_dtype": "bfloat16"}),
]


@pytest.mark.parametrize(("master", "change"), CHANGES)
def test_a_refused_step_converts_nothing(master, change):
    ps = tensors_of(BF16, (300, 7))
    opt = ours.AdamW(ps, master=master)
    train(opt, ps, 2)
    before = everything(opt)
    opt.param_groups[0].update(change)
    give(ps[1:], torch.float64, 0)
    with pytest.raises(TypeError, match=r"\[1\]\.grad: expected torch.float32, torch.bfloat16 or"):
        opt.step()
    assert everything(opt) == before


BAD = [
    (torch.zeros(3), ValueError, r"expected shape \(4,\) like its parameter, got \(3,\)"),
    ([1.0] * 4, TypeError, "expected a tensor, got list"),
    (torch.zeros(4, device="meta"), TypeError, "expected a tensor on the CPU, got one on meta"),
    (torch.zeros(4).to_sparse(), TypeError, "expected a dense tensor, got layout torch.sparse_coo"),
]


@pytest.mark.parametrize("master", ["float32", "remainder"])
@pytest.mark.parametrize(("bad", "error", "words"), BAD, ids=["shape", "list", "meta", "sparse"])
def test_a_master_that_no_step_can_use_is_refused_by_name(master, bad, error, words):
    (p,) = tensors_of(BF16, (4,))
    opt = ours.AdamW([p], master=master)
    opt.state[p]["master"] = bad
    p.grad = torch.ones_like(p)
    with pytest.raises(error, match=rf"^the master of param_groups\[0\]\['params'\]\[0\]: {words}"):
        opt.step()
    assert opt.state[p].keys() == {"master"}


@pytest.mark.parametrize(("before", "now"), [("", "float32"), ("remainder", "float32"),
                                             ("float32", "remainder")])  # fmt: skip
def test_a_step_may_be_interrupted_anywhere(before, now):
    """Ctrl-C at each line of Python that makes states."""

    def begun():
        (p,) = tensors_of(BF16, (30,))
        opt = ours.AdamW([p], lr=0.01, master=before or now)
        p.grad = torch.ones_like(p)
        if before:
            opt.step()
            opt.param_groups[0]["master"] = now
        return opt

    good = begun()
    good.step()
    stop = done = 0
    while not done:
        opt, lines = begun(), 0

        def trace(frame, event, arg):
            nonlocal lines
            if frame.f_code.co_filename != tensors.__file__:
                return None
            lines += event == "line"
            if event == "line" and lines > stop:  # noqa: B023
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        held = everything(opt)
        traced = sys.gettrace()
        sys.settrace(trace)
        try:
            opt.step()
            done = True
        except KeyboardInterrupt:
            assert everything(opt) == held
            sys.settrace(None)
            opt.step()
        finally:
            sys.settrace(traced)
        assert everything(opt) == everything(good)
        stop += 1
    assert stop > 20


# ---- memory that is shared -----------------------------------------------------------------------


def halves_of(memory):
    return memory[:20], memory[10:]


def strided(memory):
    return memory[:20:2], memory[10::2]


def beside(memory):
    return memory[::2], memory[1::2]


def among(memory):
    return memory.view(5, 6)[:, ::2], memory[6:9]


def expanded(memory):
    return memory[:1].expand(4), memory[20:]


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("way", [halves_of, strided, beside, among, expanded])
def test_parameters_that_share_an_element_are_refused(way, dtype):
    ps = tensors_of(dtype, (30, 30))
    opt = ours.SGD(ps, lr=1.0, master="float32")
    train(opt, ps, 1)
    opt.param_groups[0]["master"] = "remainder"  # the first step with it
    for p, part in zip(ps, way(torch.zeros(30, dtype=dtype)), strict=True):
        opt.state.pop(p, None)
        p.grad = p.grad_dtype = None
        p.data = part
        p.grad = torch.ones(part.shape, dtype=dtype)
    if way is beside:
        opt.step()
        assert all((p == -1).all() for p in ps)
        return
    with pytest.raises(ValueError, match=r"\]: expected memory of its own, got an? .* overlaps"):
        opt.step()
    assert not any(p.any() for p in ps)


def test_memory_is_looked_at_in_the_step_that_changes_the_master():
    ps = tensors_of(BF16, (20, 20))
    opt = ours.SGD(ps, master="float32")
    train(opt, ps, 1)
    opt.param_groups[0]["master"] = "remainder"
    ps[1].grad_dtype = None
    ps[1].grad = ps[0].data
    with pytest.raises(ValueError, match=r"\[1\]\.grad: expected memory of its own"):
        opt.step()
    memory = torch.zeros(30, dtype=BF16)
    ps[0].data, ps[1].data = halves_of(memory)
    ps[1].grad = torch.ones(20, dtype=BF16)
    with pytest.raises(ValueError, match=r"expected memory of its own, got .* overlaps"):
        opt.step()
    assert not memory.any()
