"""SGD, Rprop and others for PyTorch; the formulas are those of pyoptk/optim/classic.py."""

from __future__ import annotations

from dataclasses import KW_ONLY

from .base import Number, TorchOptimizer

__all__ = ["SGD", "AdaGrad", "Adadelta", "RMSprop", "Rprop"]


class SGD(TorchOptimizer):
    """`torch.optim.SGD` in one sweep; the formula is that of `pyoptk.SGD`.

    Parameters
    ----------
    lr, momentum, dampening, weight_decay, nesterov
        As in `torch.optim.SGD`; momentum in [0, 1).
    params, maximize, foreach, fused, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "sgd"
    _states = ("momentum_buffer",)
    _counts = False
    lr: Number = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: Number = 0.0
    nesterov: bool = False
    _: KW_ONLY
    fused: bool | None = None


class AdaGrad(TorchOptimizer):
    """`torch.optim.Adagrad` in one sweep; the formula is that of `pyoptk.AdaGrad`.

    Parameters
    ----------
    lr, lr_decay, weight_decay, initial_accumulator_value, eps
        As in `torch.optim.Adagrad`.
    params, maximize, foreach, fused, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "adagrad"
    _states = ("sum",)
    lr: Number = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    _: KW_ONLY
    fused: bool | None = None


class RMSprop(TorchOptimizer):
    """`torch.optim.RMSprop` in one sweep; the formula is that of `pyoptk.RMSprop`.

    Parameters
    ----------
    lr, alpha, eps, weight_decay, momentum, centered
        As in `torch.optim.RMSprop`; alpha and momentum in [0, 1).
    params, maximize, foreach, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "rmsprop"
    _states = ("square_avg", "grad_avg", "momentum_buffer")
    lr: Number = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False


class Adadelta(TorchOptimizer):
    """`torch.optim.Adadelta` in one sweep; the formula is that of `pyoptk.Adadelta`.

    Parameters
    ----------
    lr, rho, eps, weight_decay
        As in `torch.optim.Adadelta`; rho in [0, 1).
    params, maximize, foreach, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "adadelta"
    _states = ("square_avg", "acc_delta")
    lr: Number = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0


class Rprop(TorchOptimizer):
    """`torch.optim.Rprop` in one sweep; the formula is that of `pyoptk.Rprop`.

    Parameters
    ----------
    lr, etas, step_sizes
        As in `torch.optim.Rprop`.
    params, maximize, foreach, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "rprop"
    _states = ("prev", "step_size")
    lr: Number = 1e-2
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)
