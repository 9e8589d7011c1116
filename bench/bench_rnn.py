"""LSTM forward and backward: kernels, NumPy twins, the FMA roof, and PyTorch when installed."""

import numpy as np
import pytest

import pyoptk
from pyoptk import _core, kernels, reference

# T, B, I, H
SIZES = [
    (10, 1, 64, 64), (10, 32, 64, 64), (50, 32, 64, 128), (100, 32, 128, 256), (30, 128, 256, 256),
    (50, 16, 256, 1024),
]  # fmt: skip


def data(size, dtype):
    T, B, I, H = size
    rng = np.random.default_rng(0)
    lstm = pyoptk.LSTM(I, H, dtype=dtype, rng=rng)
    return lstm, *(rng.standard_normal((T, B, n)).astype(dtype) for n in (I, H))


def group(benchmark, name, size, dtype, threads=1):
    T, B, I, H = size
    benchmark.group = f"lstm {dtype} T {T} B {B} I {I} H {H}, {threads} thread(s)"
    benchmark.name = name
    benchmark.extra_info["flop"] = 3 * 8 * T * B * H * (I + H)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def bench_lstm(benchmark, size, dtype, threads):
    group(benchmark, "pyoptk.LSTM forward + backward", size, dtype, threads)
    lstm, x, dy = data(size, dtype)

    def work():
        lstm.forward(x)
        lstm.backward(dy)

    benchmark(work)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def bench_twin(benchmark, size, dtype):
    group(benchmark, "pyoptk.reference.lstm_forward + lstm_backward", size, dtype)
    lstm, x, dy = data(size, dtype)
    w, zeros = list(lstm.params.values()), np.zeros_like(dy[0])

    def work():
        saved = reference.lstm_forward(x, zeros, zeros, *w)
        reference.lstm_backward(x, *saved, w[0], w[1], dy, zeros, zeros)

    benchmark(work)


def bench_torch(benchmark, size, threads):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(threads)
    group(benchmark, "torch.nn.LSTM forward + backward", size, "float32", threads)
    _, x, dy = (
        torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in data(size, "float32")
    )
    lstm = torch.nn.LSTM(*size[2:])
    x.requires_grad_()

    def work():
        lstm.zero_grad(set_to_none=True)
        x.grad = None
        lstm(x)[0].backward(dy)

    benchmark(work)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def bench_roof(benchmark, size, dtype):
    """As many multiply-adds in registers alone."""
    group(benchmark, "roof of multiply-adds", size, dtype)
    rounds = 1 + int(benchmark.extra_info["flop"] / _core.fma_roof(dtype, 1))
    benchmark(_core.fma_roof, dtype, rounds)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("who", ["pyoptk", "numpy"])
def bench_recurrent_product(benchmark, size, dtype, who, threads):
    """h [B, H] times w_hh^T [H, 4H]: what an LSTM does at every step."""
    _, B, _, H = size
    benchmark.group = f"matmul {dtype} [{B}, {H}] x [{H}, {4 * H}], {threads} thread(s)"
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((B, H), (H, 4 * H)))
    c = np.empty((B, 4 * H), dtype)
    benchmark.extra_info["flop"] = 2 * B * H * 4 * H
    benchmark.name = "pyoptk.kernels.matmul" if who == "pyoptk" else "numpy.matmul"
    benchmark(kernels.matmul, a, b, c) if who == "pyoptk" else benchmark(np.matmul, a, b, out=c)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid"])
@pytest.mark.parametrize("who", ["pyoptk", "numpy"])
def bench_function(benchmark, name, dtype, who):
    """In the L1 cache: a thousand elements."""
    benchmark.group = f"{name} {dtype} 1,000 elements"
    x = np.random.default_rng(0).uniform(-5, 5, 1_000).astype(dtype)
    y = np.empty_like(x)
    function = getattr(kernels if who == "pyoptk" else reference, name)
    benchmark.name = f"{function.__module__}.{name}"
    benchmark(function, x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("who", ["pyoptk", "numpy", "torch"])
@pytest.mark.parametrize("hidden", [64, 128, 512])
def bench_step(benchmark, hidden, dtype, who, threads):
    """One step of a stream: a row, as many inputs as units."""
    benchmark.group = f"step {dtype} B 1 I {hidden} H {hidden}, {threads} thread(s)"
    lstm, x, _ = data((1, 1, hidden, hidden), dtype)
    y, (h, c) = lstm.step(x[0])
    if who == "pyoptk":
        benchmark.name = "pyoptk.LSTM.step"
        benchmark(lstm.step, x[0], (h, c))
    elif who == "numpy":
        benchmark.name = "pyoptk.reference.lstm_step"
        benchmark(reference.lstm_step, x[0], y, c[0], *lstm.params.values())
    else:
        torch = pytest.importorskip("torch")
        torch.set_num_threads(threads)
        benchmark.name = "torch.nn.LSTMCell"
        cell = torch.nn.LSTMCell(hidden, hidden, dtype=getattr(torch, dtype))
        arguments = (torch.from_numpy(x[0]), (torch.from_numpy(y), torch.from_numpy(c[0])))
        with torch.inference_mode():
            benchmark(cell, *arguments)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("who", ["pyoptk", "numpy"])
def bench_dropout(benchmark, size, dtype, who, threads):
    """Between two layers."""
    T, B, _, H = size
    benchmark.group = f"dropout {dtype} [{T}, {B}, {H}], {threads} thread(s)"
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, B, H)).astype(dtype)
    y = np.empty_like(x)
    if who == "pyoptk":
        benchmark.name = "pyoptk.kernels.dropout"
        benchmark(kernels.dropout, x, y, 0.2, seed=1)
    else:
        benchmark.name = "numpy.random, multiply"
        benchmark(
            lambda: np.multiply(x, (rng.random(x.shape, dtype) >= 0.2) * x.dtype.type(1.25), y)
        )
