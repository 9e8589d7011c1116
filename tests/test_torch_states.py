"""Checkpoints, copies and refusals of pyoptk.torch."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")
from torch_rows import ALONE, DTYPES, IDS, ROWS, Task, assert_close, mine, ours, theirs


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("to_ours", [True, False], ids=["theirs to ours", "ours to theirs"])
@pytest.mark.parametrize(("name", "settings"), ROWS, ids=IDS)
def test_training_goes_on_from_a_checkpoint_of_the_other(name, settings, to_ours, dtype):
    task = Task(dtype)
    first, second = (theirs(name), mine(name)) if to_ours else (mine(name), theirs(name))
    whole = theirs(name)(task.model.parameters(), **settings)
    task.train(task.model, whole, 12)

    begun = first(task.copy.parameters(), **settings)
    task.train(task.copy, begun, 6)
    resumed = second(task.copy.parameters())
    resumed.load_state_dict(through_a_file(begun.state_dict()))
    for key, value in begun.param_groups[0].items():
        if key not in ("params", "clip_value", "cautious"):
            assert resumed.param_groups[0][key] == value
    task.train(task.copy, resumed, 6)
    assert_close(task.model.parameters(), task.copy.parameters(), name)


@pytest.mark.parametrize(("name", "settings"), ROWS, ids=IDS)
def test_states_have_the_names_dtypes_and_shapes_of_pytorch(name, settings):
    task = Task()
    a, b = (c(task.model.parameters(), **settings) for c in (theirs(name), mine(name)))
    for opt in (a, b):
        task.train(task.model, opt, 1)
    left, right = (opt.state_dict()["state"] for opt in (a, b))
    assert left.keys() == right.keys()
    for key in left:
        described = [{n: (v.dtype, v.shape) for n, v in s[key].items()} for s in (left, right)]
        assert described[0] == described[1]


def stepped(cls, **settings):
    task = Task()
    opt = cls(task.model.named_parameters(), **settings)
    task.train(task.model, opt, 3)
    return task, opt


@pytest.mark.parametrize("name", ["SGD", "AdaGrad", *(name for name, _ in ALONE)])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
def test_copies_go_on_alike(name, way):
    settings = {"momentum": 0.9, "max_norm": 0.1} if name == "SGD" else {"clip_value": 0.01}
    task, opt = stepped(mine(name), **settings)
    if way == "state_dict":
        model = copy.deepcopy(task.model)
        other = mine(name)(model.named_parameters(), max_norm=settings.get("max_norm"))
        other.load_state_dict(copy.deepcopy(opt.state_dict()))
    elif way == "deepcopy":
        model, other = copy.deepcopy((task.model, opt))
    else:
        model, other = pickle.loads(pickle.dumps((task.model, opt)))
    task.train(task.model, opt, 3)
    task.train(model, other, 3)
    assert [p.tolist() for p in model.parameters()] == [p.tolist() for p in task.model.parameters()]
    assert other.max_norm == opt.max_norm
    assert repr(other) == repr(opt)


def test_dtypes_of_states_survive_loading():
    task, opt = stepped(ours.Adam)
    saved = opt.state_dict()
    for state in saved["state"].values():
        state["step"] = state["step"].double()
    opt.load_state_dict(saved)
    task.train(task.model, opt, 1)
    for p in task.model.parameters():
        assert {k: v.dtype for k, v in opt.state[p].items()} == {
            "step": torch.float64,
            "exp_avg": torch.float32,
            "exp_avg_sq": torch.float32,
        }
        assert opt.state[p]["step"] == 4


def test_states_of_another_layout_or_form_are_taken():
    results = []
    for odd in (False, True):
        p = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        opt = ours.Adam([p], lr=0.1)
        for i in range(4):
            p.grad = torch.full_like(p, i - 1.0)
            opt.step()
            state = opt.state[p]
            if odd and i == 1:  # as a program may leave it that saved lists or numbers
                state["step"] = 2
                state["exp_avg"] = state["exp_avg"].t().contiguous().t()
                state["exp_avg_sq"] = state["exp_avg_sq"].double()
        assert opt.state[p]["exp_avg"].stride() == p.stride()
        results.append(p.tolist())
    assert results[0] == results[1]


def test_a_switch_that_needs_another_state_may_be_turned_on():
    p = torch.nn.Parameter(torch.ones(3))
    opt = ours.SGD([p], lr=0.5)
    p.grad = torch.ones(3)
    opt.step()
    assert not opt.state
    opt.param_groups[0]["momentum"] = 0.5
    opt.step()
    opt.step()
    assert p.tolist() == [1 - 0.5 - 0.5 - 0.75] * 3


# ---- what is refused -----------------------------------------------------------------------------


def parameter(n=2, **kind):
    p = torch.nn.Parameter(torch.zeros(n, **kind))
    p.grad = torch.ones_like(p)
    return p


CONSTRUCTION = [
    (lambda: [parameter(dtype=torch.complex64)], {}, TypeError, "or torch.float16, got .*complex"),
    (lambda: [parameter(), parameter(device="meta")], {}, TypeError, r"\['params'\]\[1\].*meta"),
    (lambda: [("a.b", parameter(dtype=torch.complex64))], {}, TypeError, r"^a\.b: expected"),
    (lambda: [parameter()], {"differentiable": True}, ValueError, "differentiable"),
    (lambda: [parameter()], {"lr": -1.0}, ValueError, "lr: expected a finite number >= 0, got -1"),
    (lambda: [parameter()], {"betas": (0.9, 1.0)}, ValueError, "beta2"),
    (lambda: [parameter()], {"betas": 0.9}, TypeError, "betas: expected a pair"),
    (lambda: [parameter()], {"eps": 1e-60}, ValueError, "eps: expected a number that float32"),
    (lambda: [parameter()], {"amsgrad": 1}, TypeError, "amsgrad: expected True or False"),
    (lambda: [parameter()], {"max_norm": -1.0}, ValueError, "max_norm"),
    (lambda: [{"params": parameter(), "max_norm": 1.0}], {}, ValueError, "max_norm"),
    (lambda: [parameter()], {"beta1": 0.9}, TypeError, "beta1"),
    (list, {}, ValueError, "empty parameter list"),
    (lambda: parameter(), {}, TypeError, "iterable of Tensors"),
]


@pytest.mark.parametrize(("params", "settings", "error", "match"), CONSTRUCTION)
def test_constructors_refuse(params, settings, error, match):
    with pytest.raises(error, match=match):
        ours.Adam(params(), **settings)


def test_eps_may_be_small_where_all_is_float64():
    ours.Adam([parameter(dtype=torch.float64)], eps=1e-60).step()


def test_a_start_of_a_state_is_checked():
    with pytest.raises(ValueError, match="initial_accumulator: expected a finite number >= 0"):
        ours.AdaGrad([parameter()], initial_accumulator_value=-1.0)


def test_a_refused_group_is_not_added():
    opt = ours.Adam([parameter()])
    for bad in ({"lr": -1.0}, {"eps": "1"}, {"cautious": 2}):
        with pytest.raises((TypeError, ValueError)):
            opt.add_param_group({"params": [parameter()], **bad})
    assert len(opt.param_groups) == 1


def sparse(ps, opt):
    ps[1].grad = torch.ones(2).to_sparse()


def wide(ps, opt):
    ps[1].data = torch.zeros(3)


def on_meta(ps, opt):
    opt.state[ps[1]]["exp_avg"] = torch.zeros(2, device="meta")


def narrow(ps, opt):
    ps[1].data = ps[1].data.bfloat16()


def of_another_dtype(ps, opt):
    ps[1].grad = None
    ps[1].grad_dtype = torch.float64
    ps[1].grad = torch.ones(2, dtype=torch.float64)


def overlapping(ps, opt):
    ps[1].data = ps[0].data[:2]


def its_own_gradient(ps, opt):
    ps[1].grad = ps[1].data


def a_state_of_another_shape(ps, opt):
    opt.state[ps[1]]["exp_avg"] = torch.zeros(5)


def no_number_of_steps(ps, opt):
    opt.state[ps[1]]["step"] = torch.tensor(float("nan"))


def a_learning_rate(ps, opt):
    opt.param_groups[0]["lr"] = float("nan")


STEPS = [
    (sparse, TypeError, r"\['params'\]\[1\].grad: expected a dense tensor, got layout"),
    (wide, ValueError, r"\[1\].grad: expected shape \(3,\) like its parameter, got \(2,\)"),
    (on_meta, TypeError, "on the CPU, got one on meta"),
    (
        narrow,
        ValueError,
        r"master: expected .* for param_groups\[0\]\['params'\]\[1\] of torch.bfl",
    ),
    (of_another_dtype, TypeError, "grad: expected torch.float32, torch.bfloat16 or torch.float16"),
    (overlapping, ValueError, r"\[1\]: expected memory of its own, got .* overlaps param_groups"),
    (its_own_gradient, ValueError, r"\[1\].grad: expected memory of its own"),
    (a_state_of_another_shape, ValueError, "the exp_avg of param_groups.*: expected shape"),
    (no_number_of_steps, ValueError, "the step of param_groups.*number of steps, got nan"),
    (a_learning_rate, ValueError, "lr: expected a finite number"),
]


@pytest.mark.parametrize(("spoil", "error", "match"), STEPS, ids=[s.__name__ for s, *_ in STEPS])
def test_a_refused_step_changes_nothing(spoil, error, match):
    ps = [parameter(4), parameter()]
    opt = ours.Adam(ps, max_norm=1.0)
    opt.step()
    spoil(ps, opt)
    before = copy.deepcopy([ps[0].data, opt.state[ps[0]]])
    with pytest.raises(error, match=match):
        opt.step()
    assert repr([ps[0].data, opt.state[ps[0]]]) == repr(before)


def test_states_that_a_refused_first_step_made_are_gone():
    ps = [parameter(4), parameter()]
    opt = ours.SGD(ps, momentum=0.9)
    sparse(ps, opt)
    with pytest.raises(TypeError):
        opt.step()
    assert not any(opt.state.values())


def test_wrappers_of_tensors_are_refused():
    from torch.testing._internal.two_tensor import TwoTensor

    with pytest.raises(TypeError, match="plain tensor in the memory of the CPU, got TwoTensor"):
        ours.SGD([TwoTensor(torch.zeros(2), torch.zeros(2))])
