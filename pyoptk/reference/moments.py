"""Twins of Adam and its relatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .optim import Array, _applied, _prepare

__all__ = [
    "adabelief",
    "adam",
    "adamax",
    "lamb",
    "lion",
    "nadam",
    "radam",
]


def _scaled_eps(eps: float, r: float, real: Any) -> Any:
    """The eps of ``sqrt(v) + eps * r``, r times ``sqrt(v) / r + eps``; 0 only where eps is."""
    return real(max(eps * r, np.finfo(real).tiny) if eps else 0)


def adam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    vmax: Array | None = None,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    amsgrad: bool,
    amsgrad_on_corrected: bool,
    eps_hat: bool,
    **common: Any,
) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1), AMSGrad (Reddi et al. 2018).

    Changes `param`, `m` and `v`; `vmax` if `amsgrad`.
    """
    real, p, g, cautious = _prepare(param, grad, lr, **common)
    unbias1, unbias2 = 1 - beta1**step, 1 - beta2**step
    m[...] = real(beta1) * m + real(1 - beta1) * g
    v[...] = real(beta2) * v + real(1 - beta2) * g * g
    second = v
    if amsgrad and vmax is not None:
        second = real(1 / unbias2 if amsgrad_on_corrected else 1) * v
        vmax[...] = second = np.maximum(vmax, second)
    root_unbias2 = math.sqrt(unbias2)
    rate = real(lr * (1 if amsgrad_on_corrected and not eps_hat else root_unbias2) / unbias1)
    outside = _scaled_eps(eps, 1 if amsgrad_on_corrected or eps_hat else root_unbias2, real)
    param[...] = p - _applied(rate * m / (np.sqrt(second) + outside), g, cautious)


def _mu_product(beta1: float, momentum_decay: float, step: int) -> float:
    """The product of mu(1) ... mu(step) of `nadam`, to the last digits, without a loop over steps.

    With q = 0.96**momentum_decay, mu(i) is beta1 * (1 - q**i / 2), and log(1 - x) = -sum x**n / n;
    the powers of q add up to geometric series. What is below 2**-60 is 0 beside the 1 from which
    the product is subtracted.
    """
    without_q = beta1**step
    if without_q < 2.0**-60:
        return 0.0
    log_q = momentum_decay * math.log(0.96)
    short1, short_t = -math.expm1(log_q), -math.expm1(step * log_q)
    above, below, weight, total = 0.0, 0.0, 1.0, 0.0  # 1 - q**(n * step), 1 - q**n, 2**-n
    for n in range(1, 61):
        above += short_t * (1 - above)
        below += short1 * (1 - below)
        weight *= 0.5
        total += weight / n * (1 - below) * (above / below if below > 0 else step)
    return without_q * math.exp(-total)


def nadam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    momentum_decay: float,
    **common: Any,
) -> None:
    """NAdam (Dozat 2016). Changes `param`, `m` and `v`."""
    real, p, g, cautious = _prepare(param, grad, lr, **common)
    mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    product = _mu_product(beta1, momentum_decay, step)
    m[...] = real(beta1) * m + real(1 - beta1) * g
    v[...] = real(beta2) * v + real(1 - beta2) * g * g
    root_unbias2 = math.sqrt(1 - beta2**step)
    rate_m = real(root_unbias2 * lr * mu_next / (1 - product * mu_next))
    rate_g = real(root_unbias2 * lr * (1 - mu) / (1 - product))
    outside = _scaled_eps(eps, root_unbias2, real)
    update = (rate_m * m + rate_g * g) / (np.sqrt(v) + outside)
    param[...] = p - _applied(update, g, cautious)


def radam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    eps_hat: bool,
    **common: Any,
) -> None:
    """RAdam (Liu et al. 2020). Changes `param`, `m` and `v`."""
    real, p, g, cautious = _prepare(param, grad, lr, **common)
    unbias1, unbias2 = 1 - beta1**step, 1 - beta2**step
    last = 2 / (1 - beta2) - 1
    rho = last - 2 * step * beta2**step / unbias2
    m[...] = real(beta1) * m + real(1 - beta1) * g
    v[...] = real(beta2) * v + real(1 - beta2) * g * g
    if rho <= 5:
        param[...] = p - _applied(real(lr / unbias1) * m, g, cautious)
        return
    rect = math.sqrt((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho))
    rate = real(lr / unbias1 * rect * math.sqrt(unbias2))
    outside = _scaled_eps(eps, 1 if eps_hat else math.sqrt(unbias2), real)
    param[...] = p - _applied(rate * m / (np.sqrt(v) + outside), g, cautious)


def adamax(
    param: Array,
    grad: Array,
    m: Array,
    u: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    eps_outside_max: bool,
    **common: Any,
) -> None:
    """Adamax (Kingma & Ba 2015, algorithm 2). Changes `param`, `m` and `u`."""
    real, p, g, cautious = _prepare(param, grad, lr, **common)
    inside, outside = (0.0, eps) if eps_outside_max else (eps, 0.0)
    m[...] = real(beta1) * m + real(1 - beta1) * g
    u[...] = np.maximum(real(beta2) * u, np.abs(g) + real(inside))
    param[...] = p - _applied(real(lr / (1 - beta1**step)) * m / (u + real(outside)), g, cautious)


def lion(
    param: Array,
    grad: Array,
    m: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    **common: Any,
) -> None:
    """Lion (Chen et al. 2023). Changes `param` and `m`."""
    real, p, g, cautious = _prepare(param, grad, lr, **common)
    param[...] = p - _applied(
        real(lr) * np.sign(real(beta1) * m + real(1 - beta1) * g), g, cautious
    )
    m[...] = real(beta2) * m + real(1 - beta2) * g


def adabelief(
    param: Array,
    grad: Array,
    m: Array,
    s: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    **common: Any,
) -> None:
    """AdaBelief (Zhuang et al. 2020). Changes `param`, `m` and `s`."""
    real, p, g, cautious = _prepare(param, grad, lr, **common)
    m[...] = real(beta1) * m + real(1 - beta1) * g
    surprise = g - m
    s[...] = real(beta2) * s + real(1 - beta2) * surprise * surprise + real(eps)
    root_unbias2 = math.sqrt(1 - beta2**step)
    rate = real(lr * root_unbias2 / (1 - beta1**step))
    outside = _scaled_eps(eps, root_unbias2, real)
    param[...] = p - _applied(rate * m / (np.sqrt(s) + outside), g, cautious)


def _sum_of_squares(array: Array) -> float:
    """In double, in the order of the kernel: blocks of 4 pieces of 64 times 16 lanes."""
    blocks = -(-array.size // 4096)
    x = np.zeros(blocks * 4096)
    x[: array.size] = array.ravel()
    sums = np.square(x).reshape(blocks, 4, 64, 16)
    for axis in (2, 2, 1):  # np.sum has an order of its own
        sums = np.add.accumulate(sums, axis).take(-1, axis)
    return float(np.add.accumulate(sums)[-1]) if blocks else 0.0


def lamb(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay_outside_norm: bool,
    **common: Any,
) -> None:
    """LAMB (You et al. 2020, algorithm 2). Changes `param`, `m` and `v`."""
    decay = common["weight_decay"] if common["decoupled"] else 0.0  # of the direction
    shrink = 1.0
    if decay_outside_norm:
        decay, shrink = 0.0, 1 - lr * decay
    common["weight_decay"] -= decay
    real, p, g, _ = _prepare(param, grad, lr, **common)
    m[...] = real(beta1) * m + real(1 - beta1) * g
    v[...] = real(beta2) * v + real(1 - beta2) * g * g
    root_unbias2 = math.sqrt(1 - beta2**step)
    mean = real(root_unbias2 / (1 - beta1**step)) * m
    direction = mean / (np.sqrt(v) + _scaled_eps(eps, root_unbias2, real)) + real(decay) * p
    param_sum, direction_sum = _sum_of_squares(param), _sum_of_squares(direction)
    param_sum *= shrink * shrink
    ratio = 1.0
    if param_sum != 0 and direction_sum != 0:
        ratio = math.sqrt(param_sum) / math.sqrt(direction_sum)
    param[...] = p - real(lr * ratio) * direction
