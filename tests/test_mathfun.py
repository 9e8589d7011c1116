"""exp, sigmoid and tanh over their whole range, against NumPy in higher precision."""

import numpy as np
import pytest

from pyoptk import kernels

FUNCTIONS = {
    "exp": np.exp,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
# The bounds of pyoptk.h: 1 ulp for exp, 2.5 for sigmoid, 1.5 for tanh; in float64 2.5 for all.
LIMITS = {"exp": (1.0, 2.5), "sigmoid": (2.5, 2.5), "tanh": (1.5, 2.5)}


def sweep(dtype, rng):
    """Every exponent with random mantissas and both signs; and the ranges where formulas change."""
    info = np.finfo(dtype)
    exponents = np.arange(info.minexp - info.nmant, info.maxexp)  # denormal ones too
    x = np.ldexp(rng.uniform(1, 2, (80, exponents.size)), exponents).ravel()
    x = np.concatenate([x, rng.uniform(0, 1.1 * np.log(float(info.max)), 100_000)])
    x = np.concatenate([x, rng.uniform(0, 2, 100_000), [0.0]])
    return np.concatenate([x, -x]).astype(dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_is_within_the_stated_ulps(name, dtype, isa, rng):
    x = sweep(dtype, rng)
    y = np.empty_like(x)
    getattr(kernels, name)(x, y)
    with np.errstate(over="ignore", under="ignore"):
        exact = FUNCTIONS[name](x.astype(np.longdouble if dtype == np.float64 else np.float64))
        rounded = exact.astype(dtype)
    normal = np.abs(rounded) >= np.finfo(dtype).tiny
    finite = normal & np.isfinite(rounded)
    ulps = np.abs(y[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite]))
    assert ulps.max() <= LIMITS[name][dtype == np.float64]
    np.testing.assert_array_equal(np.isinf(y), np.isinf(rounded))
    assert (np.abs(y[~normal]) <= np.finfo(dtype).tiny).all()  # denormals may be 0
    if name != "exp":
        assert (np.abs(y) <= 1).all()


def test_special_values(dtype, isa):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0] * 5, dtype)  # more than a vector
    for name, expected in {
        "exp": [np.nan, np.inf, 0, 1, 1],
        "sigmoid": [np.nan, 1, 0, 0.5, 0.5],
        "tanh": [np.nan, 1, -1, 0.0, -0.0],
    }.items():
        y = np.empty_like(x)
        getattr(kernels, name)(x, y)
        np.testing.assert_array_equal(y, np.array(expected * 5, dtype))
        np.testing.assert_array_equal(np.signbit(y[4::5]), name == "tanh")


def test_tanh_is_odd_and_monotone(dtype, isa, rng):
    x = np.sort(np.abs(sweep(dtype, rng)))
    y, minus = np.empty_like(x), np.empty_like(x)
    kernels.tanh(x, y)
    kernels.tanh(-x, minus)
    np.testing.assert_array_equal(minus, -y)
    assert (np.diff(y) >= 0).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [0, 1, 7, 17, 1009])
def test_the_tail_has_the_bits_of_the_body_and_y_may_be_x(name, size, dtype, isa, rng):
    x = rng.standard_normal(2048).astype(dtype)
    whole, part = np.empty_like(x), x[:size].copy()
    getattr(kernels, name)(x, whole)
    getattr(kernels, name)(part, part)
    np.testing.assert_array_equal(part, whole[:size])
