"""The packed micro-kernel against NumPy."""

import numpy as np
import pytest

from pyoptk import kernels

SHAPES = [
    (0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (1, 64, 64), (5, 63, 65), (6, 64, 128),
    (7, 65, 129), (32, 512, 128), (49, 100, 300), (131, 37, 11), (200, 256, 256),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_equals_numpy(shape, dtype, isa, threads, rng):
    M, N, K = shape
    a, b, c = (rng.standard_normal(s).astype(dtype) for s in ((M, K), (K, N), (M, N)))
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
    limit = 2 * np.sqrt(K + 1) * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b) + 1)
    added = c.copy()
    kernels.matmul(a, b, c)
    assert (np.abs(c - exact) <= limit).all()
    kernels.matmul(a, b, added, accumulate=True)
    kernels.matmul(a, b, added, accumulate=True)
    kernels.matmul(a, b, c, accumulate=True)
    assert (np.abs(c - 2 * exact) <= 2 * limit).all()


def test_a_row_does_not_depend_on_the_others(dtype, isa, rng):
    a, b = rng.standard_normal((50, 77)).astype(dtype), rng.standard_normal((77, 90)).astype(dtype)
    whole = np.empty((50, 90), dtype)
    kernels.matmul(a, b, whole)
    for rows in (slice(0, 1), slice(4, 9), slice(13, 50)):
        part = np.empty((len(range(50)[rows]), 90), dtype)
        kernels.matmul(a[rows], b, part)
        np.testing.assert_array_equal(part, whole[rows])


def test_a_product_without_elements_takes_no_time():
    kernels.matmul(*(np.empty(shape, np.float32) for shape in ((0, 2**60), (2**60, 0), (0, 0))))
