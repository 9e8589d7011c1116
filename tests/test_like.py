"""`Optimizer.like` against the libraries themselves, where installed; and clipping alone."""

import numpy as np
import pytest

import pyoptk
from pyoptk.optim.like import LIKE


def data(rng, steps=50):
    """Half of the gradients as small as eps, so that it matters where that is added."""
    param, size = rng.standard_normal(200), np.repeat([0.1, 1e-7], 100)
    return param, [size * rng.standard_normal(200) for _ in range(steps)]


NESTEROV = {"momentum": 0.9, "nesterov": True}
CENTERED = {"momentum": 0.9, "centered": True}

# class, what is given, Optax's function and its arguments
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


# class, what is given, Keras's class and its arguments
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
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "theirs", "arguments"), KERAS, ids=repr)
def test_like_keras_equals_keras(name, given, theirs, arguments, rng, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    keras = pytest.importorskip("keras")
    param, grads = data(rng)
    keras.config.set_floatx("float64")
    weight = keras.Variable(param)
    other = getattr(keras.optimizers, theirs)(**arguments)
    opt = getattr(pyoptk, name).like("keras", param, **given)
    for grad in grads:
        opt.step(grad)
        other.apply([grad], [weight])
    # Keras computes in float32 on the way: fifty times half an ulp
    np.testing.assert_allclose(param, np.asarray(weight), rtol=5e-6, atol=2e-6)


@pytest.mark.parametrize("name", LIKE)
def test_every_library_makes_a_working_optimizer_that_the_caller_can_change(name):
    for library in LIKE[name]:
        opt = getattr(pyoptk, name).like(library, np.ones(3), lr=0.5)
        assert opt.lr == 0.5
        opt.step(np.ones(3))
        assert np.isfinite(opt.params).all()
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
    ],
)
def test_clipping_refuses_bad_arguments_and_writes_nothing(call, error, message):
    g = np.full(3, 7.0)
    with pytest.raises(error, match=message):
        call(g)
    assert (g == 7).all()
