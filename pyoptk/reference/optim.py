"""Twins of the optimizer kernels: the same results bit for bit, for normal numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "global_norm",
    "lamb",
    "lion",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
    "touched_rows",
]

Array = NDArray[np.floating]


def _prepare(
    param: Array,
    grad: Array,
    lr: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    grad_scale: float,
    clip_value: float | None,
    cautious: bool,
) -> tuple[Array, Array, bool]:
    """The parameter after decoupled decay, and the gradient after all that happens to it first.

    Takes the keywords that all optimizers share, which their twins call `common`; hands on
    `cautious`, which is for `_applied`.
    """
    real = param.dtype.type
    p, g = param, real(grad_scale) * grad
    if clip_value is not None:
        g = np.clip(g, real(-clip_value), real(clip_value))
    if maximize:
        g = -g
    if decoupled:
        p = real(1 - lr * weight_decay) * p
    elif weight_decay:
        g = g + real(weight_decay) * p
    return p, g, cautious


def _applied(update: Array, g: Array, cautious: bool) -> Array:
    """What is subtracted from the parameter: all of the update, or what has the gradient's sign."""
    if not cautious:
        return update
    agree = ((update > 0) & (g > 0)) | ((update < 0) & (g < 0))
    share = np.count_nonzero(agree) / max(agree.size, 1)
    return update * np.where(agree, update.dtype.type(1 / max(share, 1e-3)), update.dtype.type(0))


def sgd(
    param: Array,
    grad: Array,
    velocity: Array | None = None,
    *,
    step: int,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    lr_in_momentum: bool,
    **common: Any,
) -> None:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013).

    Changes `param`, and `velocity` unless `momentum` is 0.
    """
    real = param.dtype.type
    p, g, cautious = _prepare(param, grad, lr, **common)
    if momentum == 0 or velocity is None:
        param[...] = p - real(lr) * g
        return
    damped = 1.0 if step == 1 else 1 - dampening
    sign_lr = -lr if lr_in_momentum else 1.0
    pushed = real(sign_lr * damped) * g
    velocity[...] = pushed if step == 1 else real(momentum) * velocity + pushed
    d = real(sign_lr) * g + real(momentum) * velocity if nesterov else velocity
    param[...] = p - _applied(real(-1 if lr_in_momentum else lr) * d, g, cautious)


def adagrad(
    param: Array,
    grad: Array,
    s: Array,
    *,
    step: int,
    lr: float,
    lr_decay: float,
    eps: float,
    eps_inside_sqrt: bool,
    **common: Any,
) -> None:
    """AdaGrad (Duchi et al. 2011). Changes `param` and `s`."""
    real = param.dtype.type
    p, g, _ = _prepare(param, grad, lr, **common)
    inside, outside = (eps, 0.0) if eps_inside_sqrt else (0.0, eps)
    s[...] = s + g * g
    rate = real(lr / (1 + (step - 1) * lr_decay))
    param[...] = p - rate * g / (np.sqrt(s + real(inside)) + real(outside))


def rmsprop(
    param: Array,
    grad: Array,
    v: Array,
    avg: Array | None = None,
    velocity: Array | None = None,
    *,
    step: int,
    lr: float,
    rho: float,
    eps: float,
    momentum: float,
    centered: bool,
    eps_inside_sqrt: bool,
    lr_in_momentum: bool,
    **common: Any,
) -> None:
    """RMSprop (Tieleman & Hinton 2012), centered: Graves 2013.

    Changes `param` and `v`; `avg` if `centered`; `velocity` unless `momentum` is 0.
    """
    real = param.dtype.type
    p, g, cautious = _prepare(param, grad, lr, **common)
    inside, outside = (eps, 0.0) if eps_inside_sqrt else (0.0, eps)
    v[...] = real(rho) * v + real(1 - rho) * g * g
    spread = v
    if centered and avg is not None:
        avg[...] = real(rho) * avg + real(1 - rho) * g
        spread = np.maximum(v - avg * avg, real(0))
    den = np.sqrt(spread + real(inside)) + real(outside)
    if momentum == 0 or velocity is None:
        param[...] = p - real(lr) * g / den
        return
    velocity[...] = real(momentum) * velocity + real(lr if lr_in_momentum else 1) * g / den
    param[...] = p - _applied(real(1 if lr_in_momentum else lr) * velocity, g, cautious)


def adadelta(
    param: Array,
    grad: Array,
    v: Array,
    acc_delta: Array,
    *,
    step: int,
    lr: float,
    rho: float,
    eps: float,
    **common: Any,
) -> None:
    """Adadelta (Zeiler 2012). Changes `param`, `v` and `acc_delta`."""
    real = param.dtype.type
    p, g, _ = _prepare(param, grad, lr, **common)
    v[...] = real(rho) * v + real(1 - rho) * g * g
    delta = np.sqrt(acc_delta + real(eps)) / np.sqrt(v + real(eps)) * g
    acc_delta[...] = real(rho) * acc_delta + real(1 - rho) * delta * delta
    param[...] = p - real(lr) * delta


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
    real = param.dtype.type
    p, g, cautious = _prepare(param, grad, lr, **common)
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
    real = param.dtype.type
    p, g, cautious = _prepare(param, grad, lr, **common)
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
    real = param.dtype.type
    p, g, cautious = _prepare(param, grad, lr, **common)
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
    real = param.dtype.type
    p, g, cautious = _prepare(param, grad, lr, **common)
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
    real = param.dtype.type
    p, g, cautious = _prepare(param, grad, lr, **common)
    param[...] = p - _applied(
        real(lr) * np.sign(real(beta1) * m + real(1 - beta1) * g), g, cautious
    )
    m[...] = real(beta2) * m + real(1 - beta2) * g


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
    real = param.dtype.type
    inside = common["decoupled"] and not decay_outside_norm
    decay = common["weight_decay"] if inside else 0.0  # of the direction
    shrink = 1 - lr * common["weight_decay"] if common["decoupled"] and decay_outside_norm else 1.0
    p, g, _ = _prepare(param, grad, lr, **common | {"weight_decay": common["weight_decay"] - decay})
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


def touched_rows(indices: NDArray[np.integer], values: Array) -> tuple[list[int], Array]:
    """The rows that a row-sparse gradient touches, in the order in which they first come.

    With them the gradient of each: the sum of its values, added up in the order of `indices`.
    """
    sums: dict[int, Array] = {}
    for row, value in zip(indices.tolist(), values, strict=True):
        sums[row] = sums[row] + value if row in sums else value
    return list(sums), np.array(list(sums.values()), values.dtype).reshape(-1, *values.shape[1:])


def global_norm(grads: list[Array]) -> float:
    """Square root of the sum of squares over all arrays, in double."""
    return math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads))
