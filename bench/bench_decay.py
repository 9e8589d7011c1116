"""Steps with zero gradients, as long as the moments decay: denormal numbers must not slow them."""

import inspect

import numpy as np
import pytest

import pyoptk
from pyoptk import kernels, reference


@pytest.mark.parametrize("age", [1, 10_000])
@pytest.mark.parametrize("who", ["pyoptk.Adam.step", "pyoptk.reference.adam"])
def bench_decayed_moments(benchmark, who, age):
    """A hundred steps with zero gradients, soon after the last one that was none and long after.

    By then both moments are denormal numbers, unless a kernel takes those for zero.
    """
    benchmark.group = "adam float32 10,000 elements, 100 steps with zero gradients, 1 thread"
    benchmark.name = f"{who} after {age:,} of them"
    param, grad = np.random.default_rng(0).standard_normal((2, 10_000), np.float32)
    opt = pyoptk.Adam(param, beta2=0.99)
    names = inspect.signature(kernels.adam).parameters
    hyper = {k: v for k, v in opt.hyper.items() if k in names}
    arrays = [param, *opt.state.values()]

    def step(grad):
        if who == "pyoptk.Adam.step":
            opt.step(grad)
        else:
            reference.adam(param, grad, *arrays[1:], step=10, **hyper)

    def steps(count=100):
        for _ in range(count):
            step(zeros)

    def restore():
        for array, old in zip(arrays, before, strict=True):
            array[...] = old

    zeros = np.zeros_like(grad)
    step(grad)
    steps(age)
    before = [array.copy() for array in arrays]
    benchmark.pedantic(steps, setup=restore, rounds=50)
