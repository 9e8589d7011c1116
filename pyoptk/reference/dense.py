"""Twins of linear layers, normalization and losses: the same results within rounding."""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from .arrays import product

Array = NDArray[np.floating]

__all__ = [
    "bce_with_logits",
    "huber",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_forward",
    "mae",
    "mse",
    "rms_norm_backward",
    "rms_norm_forward",
    "softmax_cross_entropy",
]


def _sigmoid(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    found: Array = np.where(z < 0, small, z.dtype.type(1)) / (1 + small)
    return found


def _normal(z: Array) -> tuple[Array, Array]:
    """The distribution function and the density of the normal distribution."""
    cdf = np.array([erfc(-float(v) / sqrt(2)) / 2 for v in z.ravel()], z.dtype)
    return cdf.reshape(z.shape), np.exp(-z * z / 2) / z.dtype.type(sqrt(2 * pi))


def _gelu_argument(z: Array) -> Array:
    """2 u of gelu_tanh(z) = z / 2 * (1 + tanh(u)) = z * sigmoid(2 u)."""
    return z.dtype.type(2 * sqrt(2 / pi)) * (z + z.dtype.type(0.044715) * z**3)


def _activated(activation: str, z: Array, slope: float) -> Array:
    functions: dict[str, Callable[[], Array]] = {
        "none": lambda: z,
        "relu": lambda: np.maximum(z, 0),
        "leaky_relu": lambda: np.where(z > 0, z, z * z.dtype.type(slope)),
        "tanh": lambda: np.tanh(z),
        "sigmoid": lambda: _sigmoid(z),
        "gelu": lambda: z * _normal(z)[0],
        "gelu_tanh": lambda: z * _sigmoid(_gelu_argument(z)),
        "silu": lambda: z * _sigmoid(z),
        "softplus": lambda: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))),
    }
    return functions[activation]()


def _slope(activation: str, y: Array | None, z: Array | None, slope: float) -> Array:
    """The derivative of the activation, from y or from z."""
    if z is not None:
        s, one = _sigmoid(z), z.dtype.type(1)
        if activation == "gelu":
            cdf, density = _normal(z)
            return cdf + z * density
        if activation == "gelu_tanh":
            s = _sigmoid(_gelu_argument(z))
            inner = z.dtype.type(2 * sqrt(2 / pi)) * (one + z.dtype.type(3 * 0.044715) * z * z)
            return s * (one + z * (one - s) * inner)
        if activation == "silu":
            return s * (one + z * (one - s))
        if activation == "softplus":
            return s
    assert y is not None
    if activation == "tanh":
        return 1 - y * y
    if activation == "sigmoid":
        return y * (1 - y)
    below = {"relu": 0.0, "leaky_relu": slope}.get(activation, 1.0)
    return np.where(y <= 0, y.dtype.type(below), y.dtype.type(1))


def linear_forward(
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    z: Array | None = None,
    *,
    activation: str = "none",
    slope: float = 0.01,
    compute: str | None = None,
) -> None:
    """y = f(x @ w.T + b); z takes the argument of f; `compute` as for `lstm_forward`."""
    argument = product(x, w.T, compute) + (0 if b is None else b)
    if z is not None:
        z[...] = argument
    y[...] = _activated(activation, argument, slope)


def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    y: Array | None = None,
    z: Array | None = None,
    *,
    dx: Array | None = None,
    dw: Array | None = None,
    db: Array | None = None,
    activation: str = "none",
    slope: float = 0.01,
    accumulate: bool = False,
    compute: str | None = None,
) -> None:
    """dx, dw and db of `linear_forward`, from dy."""
    dA = dy if activation == "none" else dy * _slope(activation, y, z, slope)
    if dx is not None:
        dx[...] = product(dA, w, compute)
    for grad, value in ((dw, product(dA.T, x, compute)), (db, dA.sum(axis=0))):
        if grad is not None:
            grad[...] = grad + value if accumulate else value


def layer_norm_forward(
    x: Array, gain: Array | None, bias: Array | None, y: Array, mean: Array, scale: Array, *,
    eps: float = 1e-5,
) -> None:  # fmt: skip
    """y = (x - mean) / sqrt(variance + eps) * gain + bias, row by row."""
    mean[...] = x.mean(axis=1)
    scale[...] = 1 / np.sqrt(x.var(axis=1) + x.dtype.type(eps))
    y[...] = (x - mean[:, None]) * scale[:, None] * (1 if gain is None else gain)
    y += 0 if bias is None else bias


def layer_norm_backward(
    dy: Array, x: Array, gain: Array | None, mean: Array, scale: Array, *,
    dx: Array | None = None, dgain: Array | None = None, dbias: Array | None = None,
    accumulate: bool = False,
) -> None:  # fmt: skip
    """dx, dgain and dbias of `layer_norm_forward`, from dy."""
    normed = (x - mean[:, None]) * scale[:, None]
    scaled = dy if gain is None else dy * gain
    for grad, value in ((dgain, (dy * normed).sum(axis=0)), (dbias, dy.sum(axis=0))):
        if grad is not None:
            grad[...] = grad + value if accumulate else value
    if dx is not None:
        slope = (scaled * normed).mean(axis=1, keepdims=True)
        dx[...] = (scaled - scaled.mean(axis=1, keepdims=True) - normed * slope) * scale[:, None]


def rms_norm_forward(
    x: Array, gain: Array | None, y: Array, scale: Array, *, eps: float = 1e-5
) -> None:
    """y = x / sqrt(mean(x**2) + eps) * gain, row by row."""
    scale[...] = 1 / np.sqrt((x * x).mean(axis=1) + x.dtype.type(eps))
    y[...] = x * scale[:, None] * (1 if gain is None else gain)


def rms_norm_backward(
    dy: Array, x: Array, gain: Array | None, scale: Array, *, dx: Array | None = None,
    dgain: Array | None = None, accumulate: bool = False,
) -> None:  # fmt: skip
    """dx and dgain of `rms_norm_forward`, from dy."""
    normed = x * scale[:, None]
    scaled = dy if gain is None else dy * gain
    if dgain is not None:
        value = (dy * normed).sum(axis=0)
        dgain[...] = dgain + value if accumulate else value
    if dx is not None:
        slope = (scaled * normed).mean(axis=1, keepdims=True)
        dx[...] = (scaled - normed * slope) * scale[:, None]


def _counted(weights: Array) -> Array:
    """The weights; denormal ones count as 0."""
    found: Array = np.where(weights < np.finfo(weights.dtype).tiny, 0, weights)
    return found.astype(weights.dtype)


def softmax_cross_entropy(
    x: Array,
    target: NDArray[np.integer] | Array,
    dx: Array | None = None,
    *,
    weights: Array | None = None,
    class_weights: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    scale: float = 1.0,
) -> float:
    """The mean of -sum(q * log(softmax(x))) over rows; dx takes its gradient times scale."""
    M, C = x.shape
    row = np.ones(M) if weights is None else _counted(weights).astype(float)
    u = np.ones(C, x.dtype) if class_weights is None else _counted(class_weights)
    share = row
    if target.ndim == 1:
        row = row * (target != ignore_index)
        labels = np.where(target == ignore_index, 0, target)
        share = row * u[labels]
        target = np.eye(C, dtype=x.dtype)[labels]
    q = u * ((1 - label_smoothing) * target + label_smoothing / C).astype(x.dtype)
    read = np.where(row[:, None] == 0, x.dtype.type(0), x)
    shifted = read - read.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    losses = -np.where(q == 0, 0, q * log_softmax).sum(axis=1)
    total = share.sum()
    if dx is not None:
        factor = 0 if total == 0 else scale / total
        gradient = np.exp(log_softmax) * q.sum(axis=1, keepdims=True) - q
        dx[...] = gradient * (row * factor)[:, None].astype(x.dtype)
    return 0.0 if total == 0 else float((row * losses).sum() / total)


def _elementwise(
    losses: Callable[[Array, Array], tuple[Array, Array]],
    x: Array,
    target: Array,
    dx: Array | None,
    weights: Array | None,
    scale: float,
) -> float:
    """The mean of the losses; `losses` returns them and their derivatives by x."""
    M = len(x) if x.ndim else 1
    row = (np.ones(M) if weights is None else _counted(weights).astype(float)).reshape(-1, 1)
    given = [
        np.where(row == 0, 0, a.reshape(M, x.size // max(M, 1))).astype(x.dtype)
        for a in (x, target)
    ]
    values, slopes = losses(*given)
    total = row.sum() * (x.size // max(M, 1))
    if dx is not None:
        factor = 0 if total == 0 else scale / total
        dx[...] = (slopes * (row * factor).astype(x.dtype)).reshape(x.shape)
    return 0.0 if total == 0 else float((row * values).sum() / total)


def mse(
    x: Array, target: Array, dx: Array | None = None, *, weights: Array | None = None,
    scale: float = 1.0,
) -> float:  # fmt: skip
    """The mean of (x - target)**2."""
    return _elementwise(lambda x, t: ((x - t) ** 2, 2 * (x - t)), x, target, dx, weights, scale)


def mae(
    x: Array, target: Array, dx: Array | None = None, *, weights: Array | None = None,
    scale: float = 1.0,
) -> float:  # fmt: skip
    """The mean of abs(x - target)."""
    return _elementwise(lambda x, t: (np.abs(x - t), np.sign(x - t)), x, target, dx, weights, scale)


def huber(
    x: Array, target: Array, dx: Array | None = None, *, delta: float = 1.0,
    weights: Array | None = None, scale: float = 1.0,
) -> float:  # fmt: skip
    """The mean of r**2 / 2, or delta * (abs(r) - delta / 2) where abs(r) > delta."""

    def losses(x: Array, t: Array) -> tuple[Array, Array]:
        r, limit = x - t, x.dtype.type(delta)
        linear = limit * (np.abs(r) - limit / 2)
        return np.where(np.abs(r) <= limit, r * r / 2, linear), np.clip(r, -limit, limit)

    return _elementwise(losses, x, target, dx, weights, scale)


def bce_with_logits(
    x: Array, target: Array, dx: Array | None = None, *, pos_weight: float = 1.0,
    weights: Array | None = None, scale: float = 1.0,
) -> float:  # fmt: skip
    """The mean of -(pos_weight * target * log(s) + (1 - target) * log(1 - s)), s = sigmoid(x)."""

    def losses(x: Array, t: Array) -> tuple[Array, Array]:
        weight = 1 + x.dtype.type(pos_weight - 1) * t
        log_term = np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)
        return (1 - t) * x + weight * log_term, weight * _sigmoid(x) - x.dtype.type(pos_weight) * t

    return _elementwise(losses, x, target, dx, weights, scale)
