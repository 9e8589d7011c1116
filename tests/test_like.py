"""`Optimizer.like` against the other libraries, where installed; clipping by itself."""

import numpy as np
import pytest

import pyoptk
from pyoptk.optim.like import LIKE


def data(rng, steps=50):
    """Half of the gradients are as small as eps, so that the place where eps is added matters."""
    param, size = rng.standard_normal(200), np.repeat([0.1, 1e-7], 100)
    return param, [size * rng.standard_normal(200) for _ in range(steps)]


NESTEROV = {"momentum": 0.9, "nesterov": True}
CENTERED = {"momentum": 0.9, "centered": True}

# class, its arguments, Optax's function and its arguments
OPTAX = [
    ("SGD", {"lr": 0.1, "momentum": 0.9}, "sgd", {"momentum": 0.9}),
    ("SGD", {"lr": 0.1, **NESTEROV}, "sgd", NESTEROV),
    ("AdaGrad", {"lr": 0.1}, "adagrad", {}),
    ("RMSprop", {"lr": 0.01}, "rmsprop", {}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9}, "rmsprop", {"momentum": 0.9}),
    ("Adam", {"lr": 0.01}, "adam", {}),
    ("Adam", {"lr": 0.01, "amsgrad": True}, "amsgrad", {}),
    ("AdamW", {"lr": 0.01}, "adamw", {}),
    ("NAdam", {"lr": 0.01}, "nadam", {}),
    ("RAdam", {"lr": 0.01}, "radam", {}),
    ("Adamax", {"lr": 0.01}, "adamax", {}),
    ("Adadelta", {"lr": 0.5}, "adadelta", {}),
    ("Lion", {"lr": 0.01}, "lion", {}),
    ("LAMB", {"lr": 0.01}, "lamb", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "theirs", "arguments"), OPTAX, ids=repr)
def test_like_optax_equals_optax(name, given, theirs, arguments, rng):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    param, grads = data(rng)
    tx = getattr(optax, theirs)(given["lr"], **arguments)
    expected = jax.numpy.array(param)
    state = tx.init(expected)
    opt = getattr(pyoptk, name).like("optax", param, **given)
    for grad in grads:
        opt.step(grad)
        updates, state = tx.update(jax.numpy.array(grad), state, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(param, np.asarray(expected), rtol=1e-12, atol=1e-12)


# class, its arguments, Keras's class and its arguments
KERAS = [
    ("SGD", {}, "SGD", {}),
    ("SGD", {"momentum": 0.9}, "SGD", {"momentum": 0.9}),
    ("SGD", NESTEROV, "SGD", NESTEROV),
    ("AdaGrad", {}, "Adagrad", {}),
    ("RMSprop", {}, "RMSprop", {}),
    ("RMSprop", CENTERED, "RMSprop", CENTERED),
    ("Adam", {}, "Adam", {}),
    ("Adam", {"amsgrad": True}, "Adam", {"amsgrad": True}),
    ("AdamW", {}, "AdamW", {}),
    ("NAdam", {}, "Nadam", {}),
    ("Adamax", {}, "Adamax", {}),
    ("Adadelta", {}, "Adadelta", {}),
    ("Lion", {}, "Lion", {}),
    ("LAMB", {}, "Lamb", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "theirs", "arguments"), KERAS, ids=repr)
def test_like_keras_equals_keras(name, given, theirs, arguments, rng, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    keras = pytest.importorskip("keras")
    dtypes = pytest.importorskip("keras.src.backend.common.dtypes")
    # only the TensorFlow backend computes in float64 by default; the formulas are the same in all
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    param, grads = data(rng)
    keras.config.set_floatx("float64")
    weight = keras.Variable(param)
    other = getattr(keras.optimizers, theirs)(**arguments)
    opt = getattr(pyoptk, name).like("keras", param, **given)
    for grad in grads:
        opt.step(grad)
        other.apply([grad], [weight])
    np.testing.assert_allclose(param, np.asarray(weight), rtol=1e-12, atol=1e-12)


# class and PyTorch's, both with their defaults
TORCH = [(name, "Adagrad" if name == "AdaGrad" else name) for name in LIKE if "torch" in LIKE[name]]


@pytest.mark.parametrize(("name", "theirs"), TORCH)
def test_like_torch_equals_torch(name, theirs, rng):
    torch = pytest.importorskip("torch")
    param, grads = data(rng)
    weight = torch.nn.Parameter(torch.from_numpy(param.copy()))
    other = getattr(torch.optim, theirs)([weight], foreach=False)
    opt = getattr(pyoptk, name).like("torch", param)
    for grad in grads:
        opt.step(grad)
        weight.grad = torch.from_numpy(grad)
        other.step()
    # NAdam keeps its product of mu in PyTorch's default dtype, float32
    tolerance = 1e-7 if name == "NAdam" else 1e-12
    np.testing.assert_allclose(param, weight.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "theirs", "given"),
    [("SGD", "SGD", {}), ("SGD", "SGD", {"nesterov": False}), ("Adam", "Adam", {})],
)
def test_like_sklearn_equals_sklearn(name, theirs, given, rng):
    optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    param, grads = data(rng)
    expected = param.copy()
    other = getattr(optimizers, f"{theirs}Optimizer")([expected], **given)
    opt = getattr(pyoptk, name).like("sklearn", param, **given)
    for grad in grads:
        opt.step(grad)
        other.update_params([expected], [grad])
    np.testing.assert_allclose(param, expected, rtol=1e-12, atol=1e-12)


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
        ("SGD", onnx_momentum, {"momentum": 0.9, "dampening": 0.2}),
        ("AdaGrad", onnx_adagrad, {"lr_decay": 0.2}),
        ("Adam", onnx_adam, {}),
    ],
)
def test_like_onnx_equals_the_operator(name, operator, given, rng):
    param, grads = data(rng)
    expected, states = param.copy(), {"v": 0.0, "h": 0.0}
    opt = getattr(pyoptk, name).like("onnx", param, lr=0.1, weight_decay=0.01, **given)
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


def test_clipping_alone_does_what_clipping_in_the_step_does(dtype, rng):
    grads = {
        "a": rng.standard_normal(1000).astype(dtype),
        "b": rng.standard_normal((3, 4)).astype(dtype),
    }
    params = {name: np.zeros_like(g) for name, g in grads.items()}
    opt = pyoptk.SGD(params, lr=1.0, max_norm=0.5)
    opt.step(grads)
    norm = pyoptk.global_norm(grads)
    assert pyoptk.clip_by_global_norm(grads, 0.5) == norm == opt.grad_norm
    for name, p in params.items():
        np.testing.assert_allclose(p, -grads[name], rtol=4 * np.finfo(dtype).eps)
    assert pyoptk.global_norm(grads) == pytest.approx(0.5, rel=1e-5)
    buffers = [memoryview(g) for g in (np.array([3.0], dtype), np.array([[8.0]], dtype)[:, ::2])]
    pyoptk.clip_by_value(buffers, 4.0)
    assert pyoptk.clip_by_global_norm(buffers, 2.5) == 5
    np.testing.assert_allclose([np.asarray(b).item() for b in buffers], [1.5, 2], rtol=1e-6)
    bad = {"a": np.array([np.inf, 1.0], dtype), "b": None}
    assert pyoptk.clip_by_global_norm(bad, 1.0) == np.inf  # as PyTorch
    np.testing.assert_array_equal(bad["a"], [np.nan, 0])
    g = np.array([-3.0, 0.5, np.nan, 3.0], dtype)
    pyoptk.clip_by_value([g, None], 1.0)
    np.testing.assert_array_equal(g, [-1, 0.5, np.nan, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g: pyoptk.clip_by_global_norm([g], -1), ValueError, r"^max_norm: expected"),
        (lambda g: pyoptk.clip_by_value([g], float("nan")), ValueError, r"^clip_value: expected"),
        (lambda g: pyoptk.clip_by_value([g, [1.0]], 1.0), TypeError, r"^grads\[1\]: expected"),
        (lambda g: pyoptk.clip_by_global_norm([g, g.astype("f4")], 1.0), TypeError, r"^grads\[1\]"),
        (lambda g: pyoptk.clip_by_global_norm([g], True), TypeError, r"^max_norm: .* got True"),
        (
            lambda g: pyoptk.clip_by_global_norm([g, g], 1.0),
            ValueError,
            r"^grads\[1\]: .* grads\[0\]",
        ),
        (
            lambda g: pyoptk.clip_by_value(g.astype(int), 1.0),
            TypeError,
            r"^grads: expected float32",
        ),
        (lambda g: pyoptk.clip_by_value({"a": g, "b": 1.0}, 1.0), TypeError, r"^grads\['b'\]: exp"),
        (
            lambda g: pyoptk.global_norm({"a": None, "b": g[:0].tolist()}),
            TypeError,
            r"^grads\['b'\]",
        ),
    ],
)
def test_clipping_refuses_bad_arguments_and_writes_nothing(call, error, message):
    g = np.full(3, 7.0)
    with pytest.raises(error, match=message):
        call(g)
    assert (g == 7).all()
