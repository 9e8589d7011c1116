"""The first values of an LSTM's weights, and weights from other libraries and back."""

import numpy as np
import pytest

import pyoptk

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def keras_like(dtype, seed=4):
    return pyoptk.LSTM(3, 16, 2, dtype=dtype, init="keras", rng=np.random.default_rng(seed))


def test_the_same_generator_gives_the_same_weights_in_pytorchs_range():
    one, two = (pyoptk.LSTM(3, 16, rng=np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one.flat_params, two.flat_params)
    assert 0.24 < np.abs(one.flat_params).max() <= 0.25


def test_keras_weights_are_glorot_orthogonal_and_open_the_forget_gate(dtype):
    lstm = keras_like(dtype)
    for layer, inputs in enumerate((3, 16)):
        w_ih, w_hh, b_ih, b_hh = (lstm.params[f"{kind}_l{layer}"] for kind in KINDS)
        limit = np.sqrt(6 / (inputs + 64))
        assert 0.9 * limit < np.abs(w_ih).max() <= limit
        assert abs(w_ih.mean()) < 5 * limit / np.sqrt(3 * w_ih.size)
        np.testing.assert_allclose(w_hh.T @ w_hh, np.eye(16), atol=10 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(b_ih.reshape(4, 16), [[0] * 16, [1] * 16, [0] * 16, [0] * 16])
        assert (b_hh == 0).all()
    np.testing.assert_array_equal(lstm.flat_params, keras_like(dtype).flat_params)
    assert (lstm.flat_params != keras_like(dtype, seed=5).flat_params).any()


def test_orthogonal_weights_favour_no_direction():
    """Without the signs of R, the QR of NumPy gives a matrix whose diagonal is never positive."""
    rng = np.random.default_rng(0)
    corners = [
        pyoptk.LSTM(1, 4, init="keras", rng=rng).params["weight_hh_l0"][0, 0] for _ in range(400)
    ]
    assert abs(np.mean(corners)) < 5 * np.std(corners) / 20


def test_a_library_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"^init: expected one of torch, keras, got 'zeros'$"):
        pyoptk.LSTM(2, 3, init="zeros")
