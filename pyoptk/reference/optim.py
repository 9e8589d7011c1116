"""Twins of the optimizer kernels: the same results bit for bit, for normal numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "adadelta",
    "adagrad",
    "global_norm",
    "rmsprop",
    "rprop",
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
) -> tuple[Any, Array, Array, bool]:
    """The dtype, the parameter after decoupled decay, the gradient after all that happens to it.

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
    return real, p, g, cautious


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
    real, p, g, cautious = _prepare(param, grad, lr, **common)
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
    real, p, g, _ = _prepare(param, grad, lr, **common)
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
    real, p, g, cautious = _prepare(param, grad, lr, **common)
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
    real, p, g, _ = _prepare(param, grad, lr, **common)
    v[...] = real(rho) * v + real(1 - rho) * g * g
    delta = np.sqrt(acc_delta + real(eps)) / np.sqrt(v + real(eps)) * g
    acc_delta[...] = real(rho) * acc_delta + real(1 - rho) * delta * delta
    param[...] = p - real(lr) * delta


def rprop(
    param: Array,
    grad: Array,
    prev: Array,
    size: Array,
    *,
    step: int,
    lr: float,
    eta_minus: float,
    eta_plus: float,
    min_size: float,
    max_size: float,
    **common: Any,
) -> None:
    """Rprop (Riedmiller & Braun 1993). Changes `param`, `prev` and `size`."""
    real, p, g, _ = _prepare(param, grad, lr, **common)
    if step == 1:
        prev[...], size[...] = 0, real(lr)
    same = ((g > 0) & (prev > 0)) | ((g < 0) & (prev < 0))
    other = ((g > 0) & (prev < 0)) | ((g < 0) & (prev > 0))
    factor = np.where(same, real(eta_plus), np.where(other, real(eta_minus), real(1)))
    size[...] = np.minimum(np.maximum(size * factor, real(min_size)), real(max_size))
    prev[...] = np.where(other, real(0), g)
    param[...] = p - size * np.sign(prev)


def touched_rows(indices: NDArray[np.integer], values: Array) -> tuple[list[int], Array]:
    """The rows that a row-sparse gradient touches, in the order in which they first come.

    With them the gradient of each: the sum of its values, added up in the order of `indices`.
    """
    sums: dict[int, Array] = {}
    for row, value in zip(indices.tolist(), values, strict=True):
        sums[row] = sums[row] + value if row in sums else value
    return list(sums), np.array(list(sums.values()), values.dtype).reshape(
        len(sums), *values.shape[1:]
    )


def global_norm(grads: list[Array]) -> float:
    """Square root of the sum of squares over all arrays, in double."""
    return math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads))
