"""What a call costs: one tensor of 16 elements, where arithmetic takes no time."""

import functools

import numpy as np
import pytest

import pyoptk
from pyoptk import kernels

PARAM, GRAD, M, V = np.zeros((4, 16), np.float32)
CALLS = {
    **{
        name: functools.partial(getattr(pyoptk, name)(PARAM.copy()).step, GRAD)
        for name in ("SGD", "AdaGrad", "RMSprop", "Adam")
    },
    "kernel": functools.partial(kernels.adam, PARAM, GRAD, M, V),
    "numpy": functools.partial(np.add, PARAM, GRAD, out=PARAM),
}


@pytest.mark.parametrize("which", CALLS)
def bench_call(benchmark, name_of, which):
    benchmark.group, benchmark.name = "call", name_of(CALLS[which])
    benchmark(CALLS[which])
