"""The work of every contender: ``<library>_<task>(**case)`` returns a callable that does it once.

Everybody gets the same data and does the same work: dx included, gradients overwritten. PyTorch is
given its fused optimizers, ``set_num_threads`` and contiguous tensors; NumPy code is written as its
users write it. Imports are inside, because each function runs in an environment of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Work = Callable[[], Any]


def _tensors(count: int, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(n).astype("f4") for _ in range(count)]
    return params, [(0.01 * rng.standard_normal(n)).astype("f4") for _ in range(count)]


def _sequence(T: int, B: int, I: int, H: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((T, B, I)).astype("f4"), rng.standard_normal((T, B, H)).astype("f4")


# ---- one optimizer step over `count` tensors of n elements --------------------------------------


def pyoptk_step(optimizer: str, count: int, n: int, threads: int, **settings: float) -> Work:
    import pyoptk

    pyoptk.set_num_threads(threads)
    params, grads = _tensors(count, n)
    opt = getattr(pyoptk, optimizer)(params, **settings)
    return lambda: opt.step(grads)


def torch_step(optimizer: str, count: int, n: int, threads: int, **settings: Any) -> Work:
    import torch

    torch.set_num_threads(threads)
    params, grads = _tensors(count, n)
    tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    max_norm, ema_decay = settings.pop("max_norm", None), settings.pop("ema_decay", None)
    zero_grad = settings.pop("zero_grad", False)
    cls = getattr(torch.optim, {"AdaGrad": "Adagrad"}.get(optimizer, optimizer))
    fused = optimizer in ("Adam", "AdamW", "SGD", "AdaGrad")  # the others have no such kernel
    fastest = {"fused": True} if fused else {"foreach": True}
    opt = cls(tensors, **{"lr": 1e-3, **settings}, **fastest)
    averages = [tensor.detach().clone() for tensor in tensors]

    def work() -> None:
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, max_norm)
        opt.step()
        if ema_decay is not None:
            torch._foreach_lerp_(averages, [t.detach() for t in tensors], 1 - ema_decay)
        if zero_grad:
            opt.zero_grad(set_to_none=False)

    return work


def deepspeed_step(optimizer: str, count: int, n: int, threads: int) -> Work:
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    assert optimizer == "Adam"
    torch.set_num_threads(threads)
    params, grads = _tensors(count, n)
    tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    return DeepSpeedCPUAdam(tensors, lr=1e-3).step  # type: ignore[no-any-return]


def numpy_step(optimizer: str, count: int, n: int, threads: int, **settings: Any) -> Work:
    """Adam as NumPy users write it: whole-array expressions, temporaries and all."""
    assert (optimizer, settings) == ("Adam", {})
    params, grads = _tensors(count, n)
    ms, vs = ([np.zeros_like(p) for p in params] for _ in range(2))
    lr, beta1, beta2, eps, t = 1e-3, 0.9, 0.999, 1e-8, 0

    def step() -> None:
        nonlocal t
        t += 1
        for p, g, m, v in zip(params, grads, ms, vs, strict=True):
            m[:] = beta1 * m + (1 - beta1) * g
            v[:] = beta2 * v + (1 - beta2) * g**2
            m_hat = m / (1 - beta1**t)
            v_hat = v / (1 - beta2**t)
            p -= lr * m_hat / (np.sqrt(v_hat) + eps)

    return step


# ---- LSTM forward and backward ------------------------------------------------------------------


def pyoptk_lstm(T: int, B: int, I: int, H: int, threads: int) -> Work:
    import pyoptk

    pyoptk.set_num_threads(threads)
    x, dy = _sequence(T, B, I, H)
    lstm = pyoptk.LSTM(I, H, rng=np.random.default_rng(1))

    def work() -> None:
        lstm.forward(x)
        lstm.backward(dy)

    return work


def torch_lstm(T: int, B: int, I: int, H: int, threads: int) -> Work:
    import torch

    torch.set_num_threads(threads)
    x, dy = (torch.from_numpy(a) for a in _sequence(T, B, I, H))
    x.requires_grad_()
    lstm = torch.nn.LSTM(I, H)

    def work() -> None:
        lstm.zero_grad(set_to_none=True)
        x.grad = None
        lstm(x)[0].backward(dy)

    return work


def numpy_lstm(T: int, B: int, I: int, H: int, threads: int) -> Work:
    from pyoptk import reference

    x, dy = _sequence(T, B, I, H)
    rng = np.random.default_rng(1)
    w_ih, w_hh = (rng.uniform(-0.1, 0.1, (4 * H, n)).astype("f4") for n in (I, H))
    b, zeros = np.zeros(4 * H, "f4"), np.zeros((B, H), "f4")

    def work() -> None:
        saved = reference.lstm_forward(x, zeros, zeros, w_ih, w_hh, b, b)
        reference.lstm_backward(x, *saved, w_ih, w_hh, dy, zeros, zeros)

    return work
