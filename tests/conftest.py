"""Fixtures that run a test for every instruction set of this machine, thread count and dtype."""

import signal

import numpy as np
import pytest

import pyoptk
from pyoptk.demo import forecast, series

collect_ignore = ["fuzz"]  # a program with a test of its own, test_fuzz.py
CELLS = ["LSTM", "RNN tanh", "RNN relu", "GRU", "GRU before", "LSTM all"]
NORMED = ["LSTM normed", "GRU normed"]  # which have no noise within the layers
# Most kernels of amx and avx512bf16 are those of avx512: only test_bfloat16 tells them apart.
USABLE = [
    name for name, usable in pyoptk.isas().items() if usable and name not in ("amx", "avx512bf16")
]

# Each of them, and each number of threads on the widest: of a product that tests the same paths.
PLACES = [(name, n) for k, name in enumerate(USABLE) for n in ((1, 2) if k == 0 else (1 + k % 2,))]
everywhere = pytest.mark.parametrize(  # on top of others, so that it changes first
    ("isa", "threads"),
    PLACES,
    indirect=True,
    ids=[f"{name}-{n}thread{'s' * (n > 1)}" for name, n in PLACES],
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a shell's background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(params=[*CELLS, NORMED[0]])  # they share their passes
def cell(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _no_duel(monkeypatch):
    """Skips the slowest part of the demo, the comparison with NumPy."""
    monkeypatch.setattr("pyoptk.demo.forecast.time_steps", lambda *_: (1.0, 1.0))


@pytest.fixture(scope="module")
def co2():
    """The shipped series, split into training and test data as by default."""
    return forecast.prepare(series.shipped(), None)
