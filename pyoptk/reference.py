"""The kernels' arithmetic in plain NumPy: the specification, and what every test compares with.

Each function has the name, the arguments and the in-place effect of its compiled twin in
`pyoptk.kernels`, and states the operations in the order in which the kernel does them. Constants
are computed in double and rounded once to the arrays' dtype (`real`); the rest happens in that
dtype. Hyper-parameters have no defaults here: their home is `pyoptk.optim`. Slow and short on
purpose.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


# ---- optimizers ---------------------------------------------------------------------------------


def _prepare(
    param: Array,
    grad: Array,
    lr: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    grad_scale: float,
    clip_value: float | None,
) -> tuple[Array, Array]:
    """The parameter after decoupled decay, and the gradient after all that happens to it first."""
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
    return p, g


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
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    grad_scale: float,
    clip_value: float | None,
) -> None:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013).

    Changes `param`, and `velocity` unless `momentum` is 0.
    """
    real = param.dtype.type
    p, g = _prepare(param, grad, lr, weight_decay, decoupled, maximize, grad_scale, clip_value)
    if momentum == 0 or velocity is None:
        param[...] = p - real(lr) * g
        return
    damped = 1.0 if step == 1 else 1 - dampening
    sign_lr = -lr if lr_in_momentum else 1.0
    pushed = real(sign_lr * damped) * g
    velocity[...] = pushed if step == 1 else real(momentum) * velocity + pushed
    d = real(sign_lr) * g + real(momentum) * velocity if nesterov else velocity
    param[...] = p - real(-1 if lr_in_momentum else lr) * d


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
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    grad_scale: float,
    clip_value: float | None,
) -> None:
    """AdaGrad (Duchi et al. 2011). Changes `param` and `s`."""
    real = param.dtype.type
    p, g = _prepare(param, grad, lr, weight_decay, decoupled, maximize, grad_scale, clip_value)
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
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    grad_scale: float,
    clip_value: float | None,
) -> None:
    """RMSprop (Tieleman & Hinton 2012), centered: Graves 2013.

    Changes `param` and `v`; `avg` if `centered`; `velocity` unless `momentum` is 0.
    """
    real = param.dtype.type
    p, g = _prepare(param, grad, lr, weight_decay, decoupled, maximize, grad_scale, clip_value)
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
    param[...] = p - real(1 if lr_in_momentum else lr) * velocity


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
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    grad_scale: float,
    clip_value: float | None,
) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1), AMSGrad (Reddi et al. 2018).

    Changes `param`, `m` and `v`; `vmax` if `amsgrad`.
    """
    real = param.dtype.type
    p, g = _prepare(param, grad, lr, weight_decay, decoupled, maximize, grad_scale, clip_value)
    unbias1, unbias2 = 1 - beta1**step, 1 - beta2**step
    m[...] = real(beta1) * m + real(1 - beta1) * g
    v[...] = real(beta2) * v + real(1 - beta2) * g * g
    second = v
    if amsgrad and vmax is not None:
        second = real(1 / unbias2 if amsgrad_on_corrected else 1) * v
        vmax[...] = second = np.maximum(vmax, second)
    corrected = eps_hat or amsgrad_on_corrected
    root = real(1 if corrected else 1 / math.sqrt(unbias2))
    rate = real(lr * math.sqrt(unbias2) / unbias1 if eps_hat else lr / unbias1)
    param[...] = p - rate * m / (np.sqrt(second) * root + real(eps))


def global_norm(grads: list[Array]) -> float:
    """Square root of the sum of squares over all arrays, in double."""
    return math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads))


# ---- recurrent layers ---------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow for large negative x."""
    small = np.exp(-np.abs(x))
    y: Array = np.where(x < 0, small, x.dtype.type(1)) / (1 + small)
    return y


def lstm_forward(
    x: Array,
    h0: Array,
    c0: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    lengths: NDArray[np.integer] | None = None,
) -> tuple[Array, Array, Array]:
    """One LSTM layer over a sequence (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    Parameters
    ----------
    x : array [T, B, I]
    h0, c0 : arrays [B, H]
    w_ih, w_hh : arrays [4H, I], [4H, H]
        Gates in the order i, f, g, o.
    b_ih, b_hh : arrays [4H], optional
    lengths : integers [B], optional
        From step lengths[b] on, sequence b keeps its state.

    Returns
    -------
    h, c : arrays [T+1, B, H]
        States, the initial one first; `output` makes the layer's output of h.
    gates : array [T, B, 4, H]
    """
    T, B, _ = x.shape
    H = h0.shape[1]
    h, c = np.empty((2, T + 1, B, H), x.dtype)
    gates = np.empty((T, B, 4, H), x.dtype)
    h[0], c[0] = h0, c0
    inputs = x @ w_ih.T
    for bias in (b_ih, b_hh):
        if bias is not None:
            inputs += bias
    for t in range(T):
        a = (inputs[t] + h[t] @ w_hh.T).reshape(B, 4, H)
        i, f, g, o = (gates[t, :, k] for k in range(4))
        i[...], f[...], o[...] = sigmoid(a[:, 0]), sigmoid(a[:, 1]), sigmoid(a[:, 3])
        g[...] = np.tanh(a[:, 2])
        c[t + 1] = f * c[t] + i * g
        h[t + 1] = o * np.tanh(c[t + 1])
        if lengths is not None:
            ended = t >= lengths
            h[t + 1, ended], c[t + 1, ended] = h[t, ended], c[t, ended]
    return h, c, gates


def output(h: Array, lengths: NDArray[np.integer] | None = None) -> Array:
    """The output [T, B, H] of a layer with these states: 0 behind the end of a sequence."""
    if lengths is None:
        return h[1:]
    return np.where((np.arange(len(h) - 1)[:, None] < lengths)[:, :, None], h[1:], 0)


def lstm_backward(
    x: Array,
    h: Array,
    c: Array,
    gates: Array,
    w_ih: Array,
    w_hh: Array,
    dy: Array,
    dh: Array,
    dc: Array,
    lengths: NDArray[np.integer] | None = None,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The gradients of `lstm_forward`.

    Parameters
    ----------
    x, h, c, gates, w_ih, w_hh, lengths
        As given to and returned by `lstm_forward`.
    dy : array [T, B, H]
        Gradient of the output.
    dh, dc : arrays [B, H]
        Gradients of the last state.

    Returns
    -------
    dx, dh0, dc0, dw_ih, dw_hh, db : arrays
        `db` is the gradient of either bias.
    """
    T, B, H = dy.shape
    da = np.empty((T, B, 4, H), x.dtype)
    for t in reversed(range(T)):
        i, f, g, o = (gates[t, :, k] for k in range(4))
        dh_t = dy[t] + dh
        tanh_c = np.tanh(c[t + 1])
        dc_t = dc + dh_t * o * (1 - tanh_c**2)
        da[t, :, 0] = dc_t * g * i * (1 - i)
        da[t, :, 1] = dc_t * c[t] * f * (1 - f)
        da[t, :, 2] = dc_t * i * (1 - g**2)
        da[t, :, 3] = dh_t * tanh_c * o * (1 - o)
        dh_prev, dc_prev = da[t].reshape(B, 4 * H) @ w_hh, dc_t * f
        if lengths is not None:  # what has ended passes through
            ended = t >= lengths
            da[t, ended], dh_prev[ended], dc_prev[ended] = 0, dh[ended], dc[ended]
        dh, dc = dh_prev, dc_prev
    rows = da.reshape(T * B, 4 * H)
    dx = (rows @ w_ih).reshape(x.shape)
    dw_ih = rows.T @ x.reshape(T * B, -1)
    dw_hh = rows.T @ h[:-1].reshape(T * B, H)
    return dx, dh, dc, dw_ih, dw_hh, rows.sum(0)
