"""Every optimizer against PyTorch and Optax, where they are installed."""

from functools import partial

import numpy as np
import pytest
from optim_rows import by_kernel, data

import pyoptk
from pyoptk.optim.like import LIKE


def same_name(module, cls):
    """What another library calls such an optimizer; skips the test where it has none."""
    names = {name.lower(): name for name in dir(module)}
    if cls.__name__.lower() not in names:
        pytest.skip(f"{module.__name__} has no {cls.__name__}")
    return names[cls.__name__.lower()]


@pytest.mark.parametrize("cls", by_kernel().values())
def test_the_defaults_are_those_of_pytorch(cls, rng, request):
    torch = pytest.importorskip("torch")
    test_fifty_steps_equal_pytorch_to_1e_12(cls, same_name(torch.optim, cls), {}, {}, rng, request)


# Of those with settings for Optax, tests/test_like.py has them.
@pytest.mark.parametrize("cls", [c for c in by_kernel().values() if c.__name__ not in LIKE])
def test_fifty_steps_equal_those_of_the_same_name_in_optax(cls, rng):
    optax = pytest.importorskip("optax")
    test_fifty_steps_equal_optax_to_1e_12(cls, same_name(optax, cls), {}, {}, rng)


@pytest.mark.parametrize(
    ("cls", "theirs", "settings", "renamed"),
    [
        (pyoptk.SGD, "SGD", {"lr": 0.1}, {}),
        (pyoptk.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}, {}),
        (pyoptk.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}, {}),
        (pyoptk.AdaGrad, "Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1}, {}),
        (pyoptk.RMSprop, "RMSprop", {"lr": 0.01, "rho": 0.9}, {"rho": "alpha"}),
        (pyoptk.RMSprop, "RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True}, {}),
        (pyoptk.Adam, "Adam", {"lr": 0.01, "weight_decay": 0.1}, {}),
        (pyoptk.Adam, "Adam", {"lr": 0.01, "amsgrad": True}, {}),
        (pyoptk.AdamW, "AdamW", {"lr": 0.01}, {}),
        (pyoptk.Adadelta, "Adadelta", {}, {}),
        (pyoptk.Adadelta, "Adadelta", {"lr": 0.5, "rho": 0.8, "weight_decay": 0.1}, {}),
        (pyoptk.NAdam, "NAdam", {}, {}),
        (pyoptk.NAdam, "NAdam", {"lr": 0.01, "momentum_decay": 0.1, "weight_decay": 0.1}, {}),
        (
            pyoptk.NAdam,
            "NAdam",
            {"weight_decay": 0.1, "decoupled": True},
            {"decoupled": "decoupled_weight_decay"},
        ),
        (pyoptk.RAdam, "RAdam", {"lr": 0.01}, {}),
        (pyoptk.RAdam, "RAdam", {"beta2": 0.9, "weight_decay": 0.1, "maximize": True}, {}),
        (
            pyoptk.RAdam,
            "RAdam",
            {"weight_decay": 0.1, "decoupled": True},
            {"decoupled": "decoupled_weight_decay"},
        ),
        (pyoptk.Adamax, "Adamax", {}, {}),
        (pyoptk.Adamax, "Adamax", {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}, {}),
    ],
    ids=repr,
)
def test_fifty_steps_equal_pytorch_to_1e_12(cls, theirs, settings, renamed, rng, request):
    torch = pytest.importorskip("torch")
    request.addfinalizer(partial(torch.set_default_dtype, torch.get_default_dtype()))
    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of mu in this dtype
    param, grads = data(rng, 500, np.dtype(np.float64), 50)
    their_param = torch.nn.Parameter(torch.from_numpy(param.copy()))
    their_settings = {renamed.get(key, key): value for key, value in settings.items()}
    if "beta2" in their_settings:
        their_settings["betas"] = (0.9, their_settings.pop("beta2"))
    opt = getattr(torch.optim, theirs)([their_param], foreach=False, **their_settings)
    ours = cls(param, **settings)
    for grad in grads:
        ours.step(grad)
        their_param.grad = torch.from_numpy(grad)
        opt.step()
    np.testing.assert_allclose(param, their_param.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("cls", "theirs", "settings", "their_settings"),
    [
        (pyoptk.Adadelta, "adadelta", {}, {}),
        (pyoptk.NAdam, "nadam", {"momentum_decay": 1e5}, {}),
        (pyoptk.RAdam, "radam", {"eps_hat": False}, {}),
        (pyoptk.Adamax, "adamax", {}, {}),
        (pyoptk.Lion, "lion", {"weight_decay": 1e-3}, {}),
        (
            pyoptk.Lion,
            "lion",
            {"beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1},
            {"b1": 0.8, "b2": 0.9, "weight_decay": 0.1},
        ),
        (pyoptk.LAMB, "lamb", {"weight_decay": 0.0}, {}),
        (pyoptk.LAMB, "lamb", {}, {"weight_decay": 1e-2}),
    ],
    ids=repr,
)
def test_fifty_steps_equal_optax_to_1e_12(cls, theirs, settings, their_settings, rng):
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    param, grads = data(rng, 500, np.dtype(np.float64), 50)
    ours = cls(param.copy(), lr=0.01, **settings)
    with jax.enable_x64(True):
        transform = getattr(optax, theirs)(learning_rate=0.01, **their_settings)
        their_param = jax.numpy.asarray(param)
        state = transform.init(their_param)
        for grad in grads:
            ours.step(grad)
            updates, state = transform.update(jax.numpy.asarray(grad), state, their_param)
            their_param = optax.apply_updates(their_param, updates)
        np.testing.assert_allclose(ours.params, their_param, rtol=1e-12, atol=1e-12)
