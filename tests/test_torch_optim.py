"""The optimizers of pyoptk.torch compute what those of torch.optim do, and what pyoptk's do."""

import gc

import numpy as np
import pytest

import pyoptk

torch = pytest.importorskip("torch")
from torch_rows import (
    ALONE,
    DTYPES,
    IDS,
    ROWS,
    Task,
    assert_close,
    mine,
    ours,
    theirs,
)

schedulers = torch.optim.lr_scheduler


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize(("name", "settings"), ROWS, ids=IDS)
def test_a_step_is_that_of_pytorch(name, settings, dtype):
    task = Task(dtype)
    task.train(task.model, theirs(name)(task.model.parameters(), **settings), 20)
    task.train(task.copy, mine(name)(task.copy.parameters(), **settings), 20)
    assert_close(task.model.parameters(), task.copy.parameters(), name)


def test_pytorchs_own_configurations():
    pytest.importorskip("expecttest")
    known = pytest.importorskip("torch.testing._internal.common_optimizers").optim_db
    taken = 0
    for info in known:
        name = info.optim_cls.__name__
        if not hasattr(ours, "AdaGrad" if name == "Adagrad" else name):
            continue
        for case in info.optim_inputs_func(device="cpu"):
            task = Task(torch.float64)
            task.train(task.model, info.optim_cls(task.model.parameters(), **case.kwargs), 4)
            task.train(task.copy, mine(name)(task.copy.parameters(), **case.kwargs), 4)
            assert_close(task.model.parameters(), task.copy.parameters(), name)
            taken += 1
        for case in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
            # What PyTorch cannot do and pyoptk can: a tensor for lr or for one of the betas.
            given = case.optimizer_error_input
            if ("Tensor" in given.desc and "1-element" not in given.desc) or "betas" in given.desc:
                continue
            params = given.params or [torch.nn.Parameter(torch.zeros(2))]
            with pytest.raises((ValueError, TypeError, UserWarning)):
                mine(name)(params, **given.kwargs)
    assert taken > 50


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("name", [name for name, _ in ALONE] + ["Adam", "SGD", "Rprop", "NAdam"])
def test_a_step_has_the_bits_of_the_same_optimizer_for_numpy(name, dtype, threads):
    settings = {"momentum": 0.9} if name == "SGD" else {}
    made = torch.Generator().manual_seed(1)
    tensors = [torch.randn(n, dtype=dtype, generator=made) for n in (3, 20000, 1)]
    arrays = [t.numpy().copy() for t in tensors]
    a = mine(name)(tensors, max_norm=1.0, clip_value=0.01, **settings)
    b = getattr(pyoptk, name)(arrays, max_norm=1.0, clip_value=0.01, **settings)
    for _ in range(3):
        for t in tensors:
            t.grad = torch.randn(t.shape, dtype=dtype, generator=made)
        a.step()
        b.step([t.grad.numpy() for t in tensors])
    assert [t.numpy().tobytes() for t in tensors] == [x.tobytes() for x in arrays]
    assert a.grad_norm == b.grad_norm


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_five_hundred_steps_have_the_losses_of_pytorch(name):
    task = Task()
    settings = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    before = task.train(task.model, theirs(name)(task.model.parameters(), **settings), 500)
    after = task.train(task.copy, mine(name)(task.copy.parameters(), **settings), 500)
    assert before[-1] < 0.5 * before[0]
    np.testing.assert_allclose(after, before, rtol=2e-4)  # roundings of float32 add up


SCHEDULES = {
    "StepLR": lambda opt: schedulers.StepLR(opt, 3, 0.5),
    "OneCycleLR": lambda opt: schedulers.OneCycleLR(opt, 0.1, 20),  # changes betas, too
    "LambdaLR": lambda opt: schedulers.LambdaLR(opt, [lambda t: 0.9**t, lambda t: 1.1**t]),
    "SequentialLR": lambda opt: schedulers.SequentialLR(
        opt, [schedulers.ConstantLR(opt), schedulers.ExponentialLR(opt, 0.9)], [5]
    ),
}


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers_of_pytorch_change_the_steps(schedule, tensor_lr):
    task = Task()
    for model, cls in ((task.model, torch.optim.AdamW), (task.copy, ours.AdamW)):
        weights, biases = model[0].parameters(), model[2].parameters()
        lr = torch.tensor(0.02) if tensor_lr else 0.02
        groups = [{"params": weights}, {"params": biases, "lr": 0.5 * lr, "weight_decay": 0.3}]
        opt = cls(groups, lr=lr)
        task.train(model, opt, 15, SCHEDULES[schedule](opt))
    assert_close(task.model.parameters(), task.copy.parameters())


def test_a_group_may_be_added_and_a_gradient_may_be_none():
    task = Task()
    for model, cls in ((task.model, torch.optim.Adam), (task.copy, ours.Adam)):
        opt = cls(model[0].parameters(), lr=0.05)
        task.train(model, opt, 3)
        opt.add_param_group({"params": model[2].weight, "lr": 0.5})
        task.train(model, opt, 3)
        model[0].bias.requires_grad_(False)
        task.train(model, opt, 3)
        opt.param_groups[0]["lr"] = 0.0
        model[0].bias.requires_grad_(True)
        task.train(model, opt, 3)
        steps = [int(opt.state[p]["step"]) for group in opt.param_groups for p in group["params"]]
        assert steps == [12, 9, 9]
    assert_close(task.model.parameters(), task.copy.parameters())


def test_the_closure_runs_with_gradients_and_hooks_run_around_the_step():
    task, seen = Task(), []
    opt = ours.SGD(task.model.parameters(), lr=0.1)
    opt.register_step_pre_hook(lambda *_: seen.append("before"))
    opt.register_step_post_hook(lambda *_: seen.append("after"))

    def closure():
        opt.zero_grad()
        loss = task.loss(task.model)
        loss.backward()
        seen.append("loss")
        return loss

    with torch.no_grad():
        losses = [opt.step(closure).item() for _ in range(2)]
    assert losses[1] < losses[0]
    assert seen == ["before", "loss", "after"] * 2
    assert isinstance(opt, torch.optim.Optimizer)


@pytest.mark.parametrize("inf", [False, True], ids=["finite", "infinite"])
@pytest.mark.parametrize("unscale", [False, True], ids=["fused", "unscaled"])
def test_grad_scaler_unscales_within_the_step_and_leaves_out_bad_ones(unscale, inf):
    results = []
    for cls in (torch.optim.Adam, ours.Adam):
        task = Task()
        opt, scaler = cls(task.model.parameters()), torch.amp.GradScaler("cpu", init_scale=1024.0)
        for i in range(3):
            opt.zero_grad()
            scaler.scale(task.loss(task.model)).backward()
            if inf and i == 1:
                task.model[0].weight.grad[0, 0] = float("inf")
            if unscale:
                scaler.unscale_(opt)
            scaler.step(opt)
            scaler.update()
        steps = [int(state["step"]) for state in opt.state.values()]
        assert steps == [3 - inf] * 4
        results.append([*task.model.parameters(), torch.tensor(scaler.get_scale())])
    assert_close(*results)


@pytest.mark.parametrize("most", [0.05, 1e6, None])
def test_max_norm_clips_as_pytorch_does(most):
    task = Task()
    a = torch.optim.SGD(task.model.parameters(), lr=0.1)
    b = ours.SGD(task.copy.parameters(), lr=0.1, max_norm=most)
    for model, opt in ((task.model, a), (task.copy, b)):
        task.loss(model).backward()
        if model is task.model and most is not None:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
        opt.step()
    assert_close(task.model.parameters(), task.copy.parameters())
    if most is None:
        assert b.grad_norm is None
        b.max_norm = 0.5
        b.step()
    else:
        assert b.grad_norm == pytest.approx(norm.item())


def test_the_norm_is_that_of_all_dtypes():
    tensors = [torch.zeros(2), torch.zeros(2, dtype=torch.float64)]
    for t in tensors:
        t.grad = torch.full_like(t, 3.0)
    opt = ours.SGD(tensors, lr=1.0, max_norm=3.0)
    opt.step()
    assert opt.grad_norm == pytest.approx(6.0)
    for t in tensors:
        assert t.tolist() == pytest.approx([-1.5, -1.5])


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_gradients_of_float32_may_be_narrow(narrow):
    made = torch.Generator().manual_seed(2)
    ps = [torch.zeros(1000), torch.zeros(1000)]
    ps[0].grad_dtype = narrow
    ps[0].grad = torch.randn(1000, generator=made).to(narrow)
    ps[1].grad = ps[0].grad.float()
    for p in ps:
        ours.Adam([p], max_norm=1.0).step()
    assert torch.equal(*ps)


LAYOUTS = {
    "channels_last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(4, 5).t(),
    "strided": lambda: torch.randn(4, 5, 2)[..., 0],
    "every other row": lambda: torch.randn(8, 5)[::2],
    "scalar": lambda: torch.randn(()),
    "one element": lambda: torch.randn(1, 1),
    "negative": lambda: torch.randn(1, dtype=torch.complex64).conj().imag,
    "empty": lambda: torch.randn(0, 3),
}


@pytest.mark.parametrize("like", [True, False], ids=["same order", "other order"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_of_any_layout(layout, like):
    start = LAYOUTS[layout]()
    ps = [torch.nn.Parameter(start.detach()) for _ in range(2)]
    ps[1].data = torch.nn.Parameter(start.detach().clone(memory_format=torch.contiguous_format))
    opts = [ours.Adam(ps[:1], lr=0.1), torch.optim.Adam(ps[1:], lr=0.1)]
    for _ in range(3):
        grad = torch.randn(start.shape)
        ps[1].grad = grad.clone()
        ps[0].grad = torch.empty_like(ps[0]).copy_(grad) if like else grad
        for opt in opts:
            opt.step()
    assert_close(ps[:1], ps[1:])


def test_a_step_uses_the_memory_that_tensors_have_now():
    task = Task()
    a, b = torch.optim.Adam(task.model.parameters()), ours.Adam(task.copy.parameters())
    for _ in range(3):
        task.train(task.model, a, 2)
        task.train(task.copy, b, 2)
        for p in task.copy.parameters():
            p.data = p.data.clone()
            for value in b.state[p].values():
                value.data = value.data.clone()
        gc.collect()
    assert_close(task.model.parameters(), task.copy.parameters())


def test_autograd_notices_a_step_between_forward_and_backward():
    task = Task()
    opt = ours.SGD(task.model.parameters(), lr=0.1, momentum=0.9)
    task.train(task.model, opt, 1)
    loss = task.loss(task.model)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    versions = [opt.state[p]["momentum_buffer"]._version for p in task.model.parameters()]
    opt.step()
    assert versions < [opt.state[p]["momentum_buffer"]._version for p in task.model.parameters()]


def test_cautious_is_that_of_pyoptk():
    p = torch.tensor([1.0, -2.0, 3.0])
    array = p.numpy().copy()
    a, b = ours.AdamW([p], cautious=True), pyoptk.AdamW(array, cautious=True)
    for grad in ([1.0, 1.0, -1.0], [-9.0, 1.0, 2.0]):
        p.grad = torch.tensor(grad)
        a.step()
        b.step(p.grad.numpy())
    assert p.numpy().tobytes() == array.tobytes()
    with pytest.raises(ValueError, match="cautious"):
        ours.LAMB([p], cautious=True)


def test_a_compiled_function_leaves_the_step_outside():
    task = Task()
    opts = torch.optim.SGD(task.model.parameters()), ours.SGD(task.copy.parameters())

    def train(model, opt):
        opt.zero_grad()
        task.loss(model).backward()
        opt.step()

    train(task.model, opts[0])
    with torch.random.fork_rng():
        torch.compile(train, backend="eager")(task.copy, opts[1])
    assert_close(task.model.parameters(), task.copy.parameters())
