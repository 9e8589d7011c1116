"""What a call costs: one tensor of 16 elements, where arithmetic takes no time."""

import numpy as np
import pytest

import pyoptk
from pyoptk import kernels


@pytest.mark.parametrize("name", ["SGD", "AdaGrad", "RMSprop", "Adam"])
def bench_step_call(benchmark, name):
    benchmark.group = "call"
    benchmark.name = f"pyoptk.{name}.step"
    param, grad = np.ones((2, 16), np.float32)
    benchmark(getattr(pyoptk, name)(param).step, grad)


def bench_kernel_call(benchmark):
    benchmark.group = "call"
    benchmark.name = "pyoptk.kernels.adam"
    param, grad, m, v = np.zeros((4, 16), np.float32)
    benchmark(kernels.adam, param, grad, m, v)


def bench_numpy_call(benchmark):
    benchmark.group = "call"
    benchmark.name = "numpy.add"
    a, b = np.ones((2, 16), np.float32)
    benchmark(np.add, a, b, out=a)
