"""Adam and its relatives for PyTorch; the formulas are those of pyoptk/optim/adam.py."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

import torch

from ..reference.moments import _mu_product
from .base import Number, TorchOptimizer

__all__ = ["LAMB", "AdaBelief", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam"]

Pair = tuple[Number, Number]
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam(TorchOptimizer):
    """`torch.optim.Adam` in one sweep; the formula is that of `pyoptk.Adam`.

    Parameters
    ----------
    lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay
        As in `torch.optim.Adam`.
    params, maximize, foreach, fused, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "adam"
    _states = (*_MOMENTS, "max_exp_avg_sq")
    lr: Number = 1e-3
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    _: KW_ONLY
    fused: bool | None = None
    decoupled_weight_decay: bool = False


class AdamW(TorchOptimizer):
    """`torch.optim.AdamW` in one sweep; the formula is that of `pyoptk.AdamW`.

    Parameters
    ----------
    lr, betas, eps, weight_decay, amsgrad
        As in `torch.optim.AdamW`.
    params, maximize, foreach, fused, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "adam"
    _states = Adam._states
    _fixed = {"decoupled_weight_decay": True}  # noqa: RUF012
    lr: Number = 1e-3
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    amsgrad: bool = False
    _: KW_ONLY
    fused: bool | None = None


class NAdam(TorchOptimizer):
    """`torch.optim.NAdam` in one sweep; the formula is that of `pyoptk.NAdam`.

    The product of mu is computed from the number of steps, with the betas of the time; a checkpoint
    has it as "mu_product", for PyTorch.

    Parameters
    ----------
    lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay
        As in `torch.optim.NAdam`.
    params, maximize, foreach, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "nadam"
    _states = _MOMENTS
    lr: Number = 2e-3
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False

    def state_dict(self) -> dict[str, Any]:
        """As that of every optimizer of PyTorch, with "mu_product" among the states."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p)
                if state:
                    numbers = self._numbers(group)
                    beta1, decay = float(numbers["beta1"]), float(numbers["momentum_decay"])
                    product = _mu_product(beta1, decay, int(state["step"]))
                    state["mu_product"] = torch.tensor(product)
        saved: dict[str, Any] = super().state_dict()
        return saved


class RAdam(TorchOptimizer):
    """`torch.optim.RAdam` in one sweep; the formula is that of `pyoptk.RAdam`.

    Parameters
    ----------
    lr, betas, eps, weight_decay, decoupled_weight_decay
        As in `torch.optim.RAdam`.
    params, maximize, foreach, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "radam"
    _states = _MOMENTS
    lr: Number = 1e-3
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False


class Adamax(TorchOptimizer):
    """`torch.optim.Adamax` in one sweep; the formula is that of `pyoptk.Adamax`.

    Parameters
    ----------
    lr, betas, eps, weight_decay
        As in `torch.optim.Adamax`.
    params, maximize, foreach, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "adamax"
    _states = ("exp_avg", "exp_inf")
    lr: Number = 2e-3
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


class AdaBelief(TorchOptimizer):
    """`pyoptk.AdaBelief` for PyTorch; states are named as in the authors' adabelief_pytorch.

    Parameters
    ----------
    lr, betas, eps, weight_decay
        As in `pyoptk.AdaBelief`, `betas` being (beta1, beta2).
    decoupled_weight_decay : bool
        As in `torch.optim.Adam`.
    params, maximize, foreach, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "adabelief"
    _states = ("exp_avg", "exp_avg_var")
    lr: Number = 1e-3
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-16
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False


class Lion(TorchOptimizer):
    """`pyoptk.Lion` for PyTorch, weight decay decoupled; its state is named as in lion-pytorch.

    Parameters
    ----------
    lr, betas, weight_decay
        As in `pyoptk.Lion`, `betas` being (beta1, beta2).
    params, maximize, foreach, cautious, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "lion"
    _states = ("exp_avg",)
    _counts = False
    _fixed = {"decoupled_weight_decay": True}  # noqa: RUF012
    lr: Number = 1e-4
    betas: Pair = (0.9, 0.99)
    weight_decay: float = 0.0


class LAMB(TorchOptimizer):
    """`pyoptk.LAMB` for PyTorch; each parameter is a tensor with norms of its own.

    Parameters
    ----------
    lr, betas, eps, weight_decay
        As in `pyoptk.LAMB`, `betas` being (beta1, beta2).
    params, maximize, foreach, clip_value, max_norm, ...
        See `TorchOptimizer`, also for dtypes and errors.
    """

    _kernel = "lamb"
    _states = _MOMENTS
    _fixed = {"decoupled_weight_decay": True}  # noqa: RUF012
    lr: Number = 1e-3
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 1e-2
