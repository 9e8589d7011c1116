"""`Optimizer.like` against the other libraries, where installed."""

import inspect

import numpy as np
import pytest

import pyoptk
from pyoptk.optim.like import LIKE


def data(rng, steps=50):
    """Half of the gradients are as small as eps, so that the place where eps is added matters."""
    param, size = rng.standard_normal(200), np.repeat([0.1, 1e-7], 100)
    return param, [size * rng.standard_normal(200) for _ in range(steps)]


# By our name: the library's name and arguments. Every option occurs that there is here.
MOMENTUM, NESTEROV = {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}
DECAY, BETAS, BETAS_12 = (
    {"weight_decay": 0.1},
    {"betas": (0.8, 0.9)},
    {"beta_1": 0.8, "beta_2": 0.9},
)

TORCH = {
    "SGD": ("SGD", [MOMENTUM, NESTEROV, {"momentum": 0.9, "dampening": 0.2}]),
    "AdaGrad": ("Adagrad", [{"lr_decay": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-3}]),
    "RMSprop": ("RMSprop", [{"alpha": 0.8, "eps": 1e-3}, MOMENTUM, {"centered": True}]),
    "Adadelta": ("Adadelta", [{"rho": 0.8, "eps": 1e-3}]),
    "Adam": ("Adam", [{**BETAS, "eps": 1e-3}, {"amsgrad": True}]),
    "AdamW": ("AdamW", [{**BETAS, "eps": 1e-3}, {"amsgrad": True}]),
    "NAdam": ("NAdam", [{**BETAS, "eps": 1e-3, "momentum_decay": 0.1}]),
    "RAdam": ("RAdam", [{**BETAS, "eps": 1e-3}]),
    "Adamax": ("Adamax", [{**BETAS, "eps": 1e-3}]),
}
RPROP = ("Rprop", [{}, {"lr": 0.1, "etas": (0.4, 1.3), "step_sizes": (1e-4, 0.2)}])
TORCH_ALL = [{}, {"lr": 0.1}, DECAY, {"maximize": True}]
TORCH_DECOUPLED = ("Adam", "NAdam", "RAdam")

KERAS = {
    "SGD": ("SGD", [MOMENTUM, NESTEROV, {"nesterov": True}, {**NESTEROV, **DECAY}]),
    "AdaGrad": ("Adagrad", [{"initial_accumulator_value": 0.2, "epsilon": 1e-3}]),
    "RMSprop": (
        "RMSprop",
        [{"rho": 0.8, "epsilon": 1e-3}, MOMENTUM, {**MOMENTUM, "centered": True}],
    ),
    "Adadelta": ("Adadelta", [{"rho": 0.8, "epsilon": 1e-3}]),
    "Adam": ("Adam", [{**BETAS_12, "epsilon": 1e-3}, {"amsgrad": True}]),
    "AdamW": ("AdamW", [{**BETAS_12, "epsilon": 1e-3}, {"amsgrad": True}]),
    "NAdam": ("Nadam", [{**BETAS_12, "epsilon": 1e-3}]),
    "Adamax": ("Adamax", [{**BETAS_12, "epsilon": 1e-3}]),
    "Lion": ("Lion", [BETAS_12]),
    "LAMB": ("Lamb", [{**BETAS_12, "epsilon": 1e-3}]),
}
KERAS_ALL = [
    {},
    {"learning_rate": 0.1},
    {"learning_rate": 0.1, "weight_decay": 0.1},
    {"clipnorm": 0.5},
    {"clipvalue": 0.05},
    {"global_clipnorm": 0.5, **DECAY},
    {"global_clipnorm": 100.0},
    {"use_ema": True, "ema_momentum": 0.9},
    {"loss_scale_factor": 3.0},
]

B = {"b1": 0.8, "b2": 0.9}
OPTAX = {
    "SGD": ("sgd", [{}, MOMENTUM, NESTEROV, {"nesterov": True}]),
    "AdaGrad": ("adagrad", [{}, {"initial_accumulator_value": 0.2, "eps": 1e-3}]),
    "RMSprop": (
        "rmsprop",
        [{}, {"decay": 0.8, "eps": 1e-3, "eps_in_sqrt": False}, MOMENTUM, {"centered": True}],
    ),
    "Adam": ("adam", [{}, {**B, "eps": 1e-3}]),
    "AdamW": ("adamw", [{}, {**B, **DECAY, "eps": 1e-3}]),
    "NAdam": ("nadam", [{}, {**B, "eps": 1e-3}]),
    "RAdam": ("radam", [{}, {**B, "eps": 1e-3}]),
    "Adamax": ("adamax", [{}, {**B, "eps": 1e-3}]),
    "Adadelta": ("adadelta", [{}, {"rho": 0.8, "eps": 1e-3, **DECAY}]),
    "Lion": ("lion", [{}, {**B, **DECAY}]),
    "AdaBelief": ("adabelief", [{}, {**B, "eps": 1e-8, "eps_root": 1e-8}]),
    "LAMB": ("lamb", [{}, {**B, **DECAY, "eps": 1e-3}]),
}
OPTAX_MORE = [  # further functions of Optax's
    ("Adam", "amsgrad", {}),  # with our amsgrad=True
    ("Adam", "adamw", {**B, **DECAY}),
    ("NAdam", "nadamw", {**B, **DECAY}),
    ("Adamax", "adamaxw", {**B, **DECAY}),
    *(("SGD", "sgd", {"max_norm": limit}) for limit in (0.5, 1e-7, 100.0)),  # ours, in a chain
]

SKLEARN = {
    "SGD": (
        "SGD",
        [
            {},
            {"learning_rate_init": 0.2, "momentum": 0.5},
            {"nesterov": False},
            {"momentum": 0.0},
            {"momentum": 0.0, "nesterov": True},
        ],
    ),
    "Adam": ("Adam", [{}, {"learning_rate_init": 0.1, **BETAS_12, "epsilon": 1e-3}]),
}


def cases(table, every=()):
    """Our name, theirs and arguments, for all rows."""
    return [
        pytest.param(name, theirs, arguments, id=f"{name}-{arguments}")
        for name, (theirs, rows) in table.items()
        for arguments in [*every, *rows]
    ]


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [*cases(OPTAX), *(pytest.param(*row, id=f"{row[1]}-{row[2]}") for row in OPTAX_MORE)],
)
def test_like_optax_equals_optax(name, theirs, arguments, rng):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    param, grads = data(rng, 20)
    more = {"amsgrad": True} if theirs == "amsgrad" else {}
    opt = getattr(pyoptk, name).like("optax", param, learning_rate=0.1, **arguments, **more)
    with jax.enable_x64(True):
        clip = [optax.clip_by_global_norm(arguments[k]) for k in ("max_norm",) if k in arguments]
        own = {k: v for k, v in arguments.items() if k != "max_norm"}
        tx = optax.chain(*clip, getattr(optax, theirs)(0.1, **own))
        expected = jax.numpy.array(param)
        state = tx.init(expected)
        for grad in grads:
            opt.step(grad)
            updates, state = tx.update(jax.numpy.array(grad), state, expected)
            expected = optax.apply_updates(expected, updates)
        np.testing.assert_allclose(param, np.asarray(expected), rtol=1e-12, atol=1e-12)


@pytest.fixture
def keras64(monkeypatch):
    """Keras in double: only its TensorFlow backend has that, the formulas are the same in all."""
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    keras = pytest.importorskip("keras")
    dtypes = pytest.importorskip("keras.src.backend.common.dtypes")
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    keras.config.set_floatx("float64")
    yield keras
    keras.config.set_floatx("float32")


@pytest.mark.parametrize(("name", "theirs", "arguments"), cases(KERAS, KERAS_ALL))
def test_like_keras_equals_keras(name, theirs, arguments, rng, keras64):
    param, grads = data(rng, 20)
    params, weights = [param, param[:7].copy()], [keras64.Variable(p) for p in (param, param[:7])]
    other = getattr(keras64.optimizers, theirs)(**arguments)
    opt = getattr(pyoptk, name).like("keras", params, **arguments)
    for grad in grads:
        opt.step([grad, grad[3:10]])
        other.apply([grad, grad[3:10]], weights)
    averages = other._model_variables_moving_average if "use_ema" in arguments else weights
    ema = opt.ema if "use_ema" in arguments else params
    for ours, expected in zip([*params, *ema], [*weights, *averages], strict=True):
        np.testing.assert_allclose(ours, np.asarray(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [
        *cases(TORCH, TORCH_ALL),
        *cases({"Rprop": RPROP}),
        *cases({n: (n, [{**DECAY, "decoupled_weight_decay": True}]) for n in TORCH_DECOUPLED}),
    ],
)
@pytest.mark.parametrize("max_norm", [None, 0.5], ids=str)
def test_like_torch_equals_torch(name, theirs, arguments, max_norm, rng):
    torch = pytest.importorskip("torch")
    param, grads = data(rng)
    weight = torch.nn.Parameter(torch.from_numpy(param.copy()))
    other = getattr(torch.optim, theirs)([weight], foreach=False, **arguments)
    opt = getattr(pyoptk, name).like("torch", param, max_norm=max_norm, **arguments)
    for grad in grads:
        opt.step(grad)
        weight.grad = torch.from_numpy(grad.copy())
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_([weight], max_norm)
        other.step()
    # NAdam keeps its product of mu in PyTorch's default dtype, float32
    tolerance = 1e-6 if name == "NAdam" else 1e-12
    np.testing.assert_allclose(param, weight.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "theirs", "arguments"), cases(SKLEARN))
def test_like_sklearn_equals_sklearn(name, theirs, arguments, rng):
    optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    param, grads = data(rng)
    expected = param.copy()
    other = getattr(optimizers, f"{theirs}Optimizer")([expected], **arguments)
    opt = getattr(pyoptk, name).like("sklearn", param, **arguments)
    for grad in grads:
        opt.step(grad)
        other.update_params([expected], [grad])
    np.testing.assert_allclose(param, expected, rtol=1e-12, atol=1e-12)


def their_defaults(library, theirs):
    """All keywords of the library's optimizer with their defaults."""
    if library == "torch":  # some are inherited
        torch = pytest.importorskip("torch")
        return getattr(torch.optim, theirs)([torch.nn.Parameter(torch.zeros(1))]).defaults
    module, name = {
        "keras": ("keras.optimizers", theirs),
        "optax": ("optax", theirs),
        "sklearn": ("sklearn.neural_network._stochastic_optimizers", f"{theirs}Optimizer"),
    }[library]
    parameters = inspect.signature(getattr(pytest.importorskip(module), name)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {**defaults, "learning_rate": 0.1} if library == "optax" else defaults


TABLES = {"torch": {**TORCH, "Rprop": RPROP}, "keras": KERAS, "optax": OPTAX, "sklearn": SKLEARN}


@pytest.mark.parametrize(
    ("library", "name", "theirs"),
    [(lib, name, row[0]) for lib, table in TABLES.items() for name, row in table.items()],
)
def test_every_keyword_is_known_and_has_their_default(library, name, theirs, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    defaults = their_defaults(library, theirs)
    cls, param = getattr(pyoptk, name), np.zeros(1)
    lr = {"lr": 0.1} if library == "optax" else {}
    bare, full = cls.like(library, param, **lr), cls.like(library, param, **defaults)
    assert full.hyper == bare.hyper


# The operators of ai.onnx.preview.training, version 1, with R = 0.1 and norm_coefficient 0.01.  T
# is the number of steps before this one; for Adam it includes this one.


def onnx_momentum(x, g, s, t, alpha=0.9, beta=0.8):
    g = 0.01 * x + g
    s["v"] = alpha * s["v"] + (beta if t > 1 else 1) * g
    return x - 0.1 * s["v"]


def onnx_adagrad(x, g, s, t):
    g = 0.01 * x + g
    s["h"] = s["h"] + g * g
    return x - 0.1 / (1 + (t - 1) * 0.2) * g / (np.sqrt(s["h"]) + 1e-6)


def onnx_adam(x, g, s, t):
    g = 0.01 * x + g
    s["v"], s["h"] = 0.9 * s["v"] + 0.1 * g, 0.999 * s["h"] + 0.001 * g * g
    return x - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * s["v"] / (np.sqrt(s["h"]) + 1e-6)


@pytest.mark.parametrize(
    ("name", "operator", "given"),
    [
        ("SGD", onnx_momentum, {"alpha": 0.9, "beta": 0.8, "mode": "standard"}),
        ("AdaGrad", onnx_adagrad, {"decay_factor": 0.2, "epsilon": 1e-6}),
        ("Adam", onnx_adam, {"alpha": 0.9, "beta": 0.999, "norm_coefficient_post": 0.0}),
    ],
)
def test_like_onnx_equals_the_operator(name, operator, given, rng):
    param, grads = data(rng)
    expected, states = param.copy(), {"v": 0.0, "h": 0.0}
    opt = getattr(pyoptk, name).like("onnx", param, R=0.1, norm_coefficient=0.01, **given)
    for t, grad in enumerate(grads, 1):
        opt.step(grad)
        expected = operator(expected, grad, states, t)
    np.testing.assert_allclose(param, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LIKE)
def test_every_library_makes_a_working_optimizer_that_the_caller_can_change(name):
    for library in LIKE[name]:
        opt = getattr(pyoptk, name).like(library, np.ones(3), lr=0.5)
        assert opt.lr == 0.5
        opt.step(np.ones(3))
        assert np.isfinite(opt.params).all()
    subclass = type("Mine", (getattr(pyoptk, name),), {})
    assert subclass.like(library, np.ones(3)).hyper == type(opt).like(library, np.ones(3)).hyper
    with pytest.raises(ValueError, match=r"^library: expected one of .*got 'thano'$"):
        getattr(pyoptk, name).like("thano", np.ones(3))


@pytest.mark.parametrize(
    ("name", "library", "given", "error", "message"),
    [
        ("Adam", "optax", {"eps_root": 1e-8}, ValueError, "eps_root: expected 0, because"),
        ("Adam", "optax", {"nesterov": True}, ValueError, "nesterov: .* NAdam is Adam with it"),
        ("Adam", "optax", {"mask": {"w": True}}, ValueError, "mask: .* decay_mask"),
        ("AdaBelief", "optax", {"eps": 1e-8}, ValueError, "eps_root: expected 1e-08, because"),
        ("Adam", "torch", {"betas": 0.9}, TypeError, "betas: expected a pair"),
        ("Adam", "torch", {"differentiable": True}, ValueError, "differentiable: expected False"),
        ("Adam", "torch", {"alpha": 0.9}, TypeError, "alpha: unknown"),  # which RMSprop has
        ("SGD", "torch", {"nesterov": True}, ValueError, "nesterov: expected momentum"),
        ("SGD", "torch", {"learning_rate": 1.0}, TypeError, "learning_rate: unknown"),
        ("SGD", "keras", {"lr": 1.0, "learning_rate": 1.0}, TypeError, "learning_rate: .* lr once"),
        ("SGD", "keras", {"loss_scale_factor": 0}, ValueError, "loss_scale_factor: expected None"),
        ("SGD", "keras", {"learning_rte": 1.0}, TypeError, "learning_rte: unknown"),
        ("SGD", "onnx", {"mode": "fast"}, ValueError, "mode: expected one of standard, nesterov"),
        ("Adam", "onnx", {"norm_coefficient_post": 0.1}, ValueError, "norm_coefficient_post: "),
        ("Adam", "sklearn", {"alpha": 1e-4}, ValueError, "alpha: expected 0"),
        ("SGD", "sklearn", {"lr_schedule": "adaptive"}, ValueError, "lr_schedule: expected 'const"),
    ],
)
def test_what_is_not_like_is_refused_by_its_name(name, library, given, error, message):
    with pytest.raises(error, match=f"^{message}"):
        getattr(pyoptk, name).like(library, np.ones(3), **given)


def test_an_average_from_the_first_step_resumes(dtype):
    given = {"lr": 1.0, "ema_decay": 0.9, "ema_from_first_step": True}
    params = [np.ones(2, dtype), np.ones(3, dtype)]
    opt = pyoptk.SGD(params, **given)
    grads = [np.ones(2, dtype), np.ones(3, dtype)]
    opt.step([grads[0], None])  # the other's average begins with its own first step
    copies = [p.copy() for p in params]
    resumed = pyoptk.SGD(copies, **given)
    resumed.load_state_dict(opt.state_dict())
    for one, arrays in ((opt, params), (resumed, copies)):
        one.step(grads)
        np.testing.assert_allclose(one.ema[0], 0.9 * 0 + 0.1 * arrays[0])
        np.testing.assert_array_equal(one.ema[1], arrays[1])
