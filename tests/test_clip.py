"""Clipping of gradients, within the step and by itself."""

import numpy as np
import pytest

import pyoptk


def test_each_gradient_is_clipped_by_its_own_norm(dtype):
    params = {"a": np.zeros(2, dtype), "b": np.zeros((4, 2), dtype), "c": np.zeros(2, dtype)}
    opt = pyoptk.SGD(params, lr=1.0, max_norm=1.0, max_norm_eps=0.0, max_norm_per_array=True)
    rows = pyoptk.SparseRows(np.array([3, 0, 3]), np.array([[0, 1], [2, 0], [0, 1]], dtype), (4, 2))
    opt.step({"a": np.array([3, 4], dtype), "b": rows, "c": None})
    np.testing.assert_allclose(params["a"], [-0.6, -0.8], rtol=1e-6)
    half = -(0.5**0.5)
    np.testing.assert_allclose(params["b"], [[half, 0], [0, 0], [0, 0], [0, half]], rtol=1e-6)
    assert opt.grad_norm == pytest.approx(33**0.5)
    opt.step({"a": np.array([0.3, 0.4], dtype), "b": None, "c": np.array([0, 9], dtype)})
    np.testing.assert_allclose(params["a"], [-0.9, -1.2], rtol=1e-6)
    np.testing.assert_allclose(params["c"], [0, -1])
    with pytest.raises(ValueError, match=r"^max_norm_per_array: expected True, as when"):
        opt.max_norm_per_array = False
    other = pyoptk.SGD({name: p.copy() for name, p in params.items()})
    with pytest.raises(ValueError, match=r"^max_norm_per_array: expected False, as when"):
        other.load_state_dict(opt.state_dict())
    with pytest.raises(TypeError, match=r"^max_norm_per_array: expected True or False"):
        pyoptk.SGD(np.ones(2), max_norm_per_array=1)


def test_clipping_without_eps(dtype):
    g = np.array([2e-6, 0], dtype)
    assert pyoptk.clip_by_global_norm(g, 1e-6, eps=0) == pytest.approx(2e-6)
    np.testing.assert_allclose(g, [1e-6, 0], rtol=1e-6)
    assert pyoptk.clip_by_global_norm(g, dtype.type(np.inf)) == pytest.approx(1e-6)
    zeros = np.zeros(2, dtype)
    assert pyoptk.clip_by_global_norm(zeros, 0.0, eps=0) == 0
    np.testing.assert_array_equal(zeros, 0)
    with pytest.raises(ValueError, match=r"^eps: expected a finite number >= 0, got -1"):
        pyoptk.clip_by_global_norm(g, 1.0, eps=-1)
    with pytest.raises(ValueError, match=r"^max_norm_eps: expected a finite number >= 0"):
        pyoptk.SGD(g, max_norm_eps=-1.0)


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
            lambda g: pyoptk.global_norm({"a": None, "b": g[:1].tolist()}),
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


def test_a_generator_that_is_used_up_is_refused():
    for call in (pyoptk.global_norm, lambda g: pyoptk.clip_by_value(g, 1.0)):
        gradients = (gradient for gradient in [np.ones(2)])
        call(gradients)
        with pytest.raises(ValueError, match=r"^grads: expected gradients, got none in generator"):
            call(gradients)
    assert pyoptk.clip_by_global_norm([], 1.0) == 0
