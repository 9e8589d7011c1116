"""Fixtures that make a test run for every instruction set here, number of threads and dtype."""

import numpy as np
import pytest

import pyoptk

USABLE = [name for name, usable in pyoptk.isas().items() if usable]


@pytest.fixture(params=USABLE)
def isa(request):
    pyoptk.use_isa(request.param)
    yield request.param
    pyoptk.use_isa()


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request):
    pyoptk.set_num_threads(request.param)
    yield request.param
    pyoptk.set_num_threads()


@pytest.fixture(params=[np.float32, np.float64], ids=["f32", "f64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20)
