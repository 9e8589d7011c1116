"""The bare kernels, for users who keep their own state.

Each changes the arrays that its docstring names, in place, and returns None. Every function has a
twin of the same name in `pyoptk.reference`, which is its specification. Those of the optimizers
are a signature and a docstring here; the body is one compiled function for all, which reads the
order of the states and the bounds of the numbers in csrc/optimizers.c.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._dense import linear_backward, linear_forward
from ._losses import (
    bce_with_logits,
    huber,
    layer_norm_backward,
    layer_norm_forward,
    mae,
    mse,
    rms_norm_backward,
    rms_norm_forward,
    softmax_cross_entropy,
)
from ._optim import global_norm, kernel
from ._products import (
    dropout,
    exp,
    linear_scan_backward,
    linear_scan_forward,
    matmul,
    sigmoid,
    tanh,
)

Array = NDArray[np.floating[Any]]

__all__ = [
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "bce_with_logits",
    "dropout",
    "exp",
    "global_norm",
    "huber",
    "lamb",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_forward",
    "linear_scan_backward",
    "linear_scan_forward",
    "lion",
    "mae",
    "matmul",
    "mse",
    "nadam",
    "radam",
    "rms_norm_backward",
    "rms_norm_forward",
    "rmsprop",
    "rprop",
    "sgd",
    "sigmoid",
    "softmax_cross_entropy",
    "tanh",
]


@kernel
def sgd(
    param: Array,
    grad: Array,
    velocity: Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    lr_in_momentum: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One SGD step; changes `param`, and `velocity` unless `momentum` is 0.

    All arrays have one shape and one dtype, float32 or float64. See `pyoptk.SGD` for the formula,
    the hyper-parameters and the errors.
    """


@kernel
def adagrad(
    param: Array,
    grad: Array,
    s: Array,
    *,
    step: int = 1,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    eps_inside_sqrt: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One AdaGrad step; changes `param` and `s`. See `pyoptk.AdaGrad`."""


@kernel
def rmsprop(
    param: Array,
    grad: Array,
    v: Array,
    avg: Array | None = None,
    velocity: Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-2,
    rho: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    eps_inside_sqrt: bool = False,
    lr_in_momentum: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One RMSprop step; changes `param` and `v`, `avg` if `centered`, `velocity` with momentum.

    See `pyoptk.RMSprop`.
    """


@kernel
def adadelta(
    param: Array,
    grad: Array,
    v: Array,
    acc_delta: Array,
    *,
    step: int = 1,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One Adadelta step; changes `param`, `v` and `acc_delta`. See `pyoptk.Adadelta`."""


@kernel
def adam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    vmax: Array | None = None,
    *,
    step: int = 1,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    amsgrad: bool = False,
    amsgrad_on_corrected: bool = False,
    eps_hat: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One Adam step; changes `param`, `m` and `v`, and `vmax` if `amsgrad`.

    `step` counts from 1. See `pyoptk.Adam` for the formula, the hyper-parameters and the errors.
    """


@kernel
def nadam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    step: int = 1,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One NAdam step; changes `param`, `m` and `v`. See `pyoptk.NAdam`."""


@kernel
def radam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    step: int = 1,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_hat: bool = True,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One RAdam step; changes `param`, `m` and `v`. See `pyoptk.RAdam`."""


@kernel
def adamax(
    param: Array,
    grad: Array,
    m: Array,
    u: Array,
    *,
    step: int = 1,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_outside_max: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One Adamax step; changes `param`, `m` and `u`. See `pyoptk.Adamax`."""


@kernel
def lion(
    param: Array,
    grad: Array,
    m: Array,
    *,
    step: int = 1,
    lr: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    decoupled: bool = True,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One Lion step; changes `param` and `m`. Weight decay is decoupled. See `pyoptk.Lion`."""


@kernel
def lamb(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    step: int = 1,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-6,
    decay_outside_norm: bool = False,
    weight_decay: float = 1e-2,
    decoupled: bool = True,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One LAMB step; changes `param`, `m` and `v`. See `pyoptk.LAMB`."""


@kernel
def adabelief(
    param: Array,
    grad: Array,
    m: Array,
    s: Array,
    *,
    step: int = 1,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-16,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One AdaBelief step; changes `param`, `m` and `s`. See `pyoptk.AdaBelief`."""


@kernel
def rprop(
    param: Array,
    grad: Array,
    prev: Array,
    size: Array,
    *,
    step: int = 1,
    lr: float = 1e-2,
    eta_minus: float = 0.5,
    eta_plus: float = 1.2,
    min_size: float = 1e-6,
    max_size: float = 50.0,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    cautious: bool = False,
) -> None:
    """One Rprop step; changes `param`, `prev` and `size`; in step 1 `size` is `lr`.

    See `pyoptk.Rprop`.
    """
