"""`TorchOptimizer`, the base class of the optimizers for PyTorch.

A step reads the groups, lets the compiled `Stepper` find the memory of all tensors, and runs one
sweep over them. Hooks, `zero_grad`, `state_dict` and the like are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch

from .. import _checks
from .._arguments import Declared
from .._optim import ROWS
from .._tensors import Stepper
from ..optim.like import KEYWORDS
from ..optim.narrow import MASTERS, check_state_dtype
from . import tensors

Number = Any  # a float, or a tensor of one element
_IN_TORCH = KEYWORDS["torch"]


class _Clipping:
    """The argument that belongs to no group; among the defaults, it is copied and pickled."""

    defaults: dict[str, Any]

    @property
    def max_norm(self) -> float | None:
        """The largest norm of all gradients together, or None."""
        most: float | None = self.defaults["max_norm"]
        return most

    @max_norm.setter
    def max_norm(self, most: Number | None) -> None:
        if most is not None:
            most = _checks.number("max_norm", most, 0, float("inf"), "None or a number >= 0")
        self.defaults["max_norm"] = most


class TorchOptimizer(Declared, _Clipping, torch.optim.Optimizer):
    """Base class of the optimizers for PyTorch: use `SGD`, `Adam` and so on.

    What all of them take, besides the arguments of their namesakes in `torch.optim`:

    params : iterable of tensors, of pairs of a name and a tensor, or of dicts
        As for every optimizer of PyTorch. float32, float64, bfloat16 or float16, on the CPU; of any
        layout, but one that is not dense is copied in each step. A gradient of float64 has a
        parameter of float64; others may be float32, bfloat16 or float16, whatever their parameter
        is, as far as its `grad_dtype` lets them.
    cautious, clip_value
        As in `pyoptk.Optimizer`. May differ between groups.
    max_norm : float or None
        Scales the gradients of a step together so that their norm is at most this, as
        ``torch.nn.utils.clip_grad_norm_`` does to those of the same parameters; gradients stay as
        they are. For all groups; may be assigned. `grad_norm` tells the norm before.
    state_dtype, min_8bit_size
        As in `pyoptk.Optimizer`: how states are stored, "float32", "bfloat16" or "8bit". Only
        "float32", which leaves theirs float64, for a group that has parameters of float64. May
        differ between groups, and change: the next step converts. Narrow states are tensors of
        uint8, those of 8 bits with their scales beside them.
    master : {"float32", "remainder", "stochastic"}
        As in `pyoptk.Optimizer`: how parameters of bfloat16 and float16 are stepped; must be given
        where there are any, and is without effect on others. "float32": the state "master" has the
        numbers in float32. "remainder", for bfloat16: the state "remainder" has their lower halves
        in int16. "stochastic", for bfloat16: rounded by chance. May differ between groups, and
        change.
    maximize : bool
        Ascend the gradient.
    foreach, fused, capturable
        Without effect, because each step is one fused sweep.
    differentiable : bool
        False: no gradient flows through a step.

    Attributes
    ----------
    grad_norm : float or None
        The norm of all gradients in the last step, before clipping; None without `max_norm`.

    Raises
    ------
    TypeError, ValueError
        For a parameter or hyper-parameter that no step can take. A step raises the same for
        gradients, sparse ones included, and for tensors that overlap. Neither parameters nor
        states have changed then, nor after an interruption.
    """

    _kernel: ClassVar[str]
    _states: ClassVar[tuple[str, ...]]  # PyTorch's names for those of the kernel
    _counts: ClassVar[bool] = True  # whether there is a state "step"
    _fixed: ClassVar[dict[str, Any]] = {}  # what is no argument, but in every group
    _step_supports_amp_scaling = True  # read by torch.amp.GradScaler

    params: Any
    _: KW_ONLY
    maximize: bool = False
    foreach: bool | None = None
    capturable: bool = False
    differentiable: bool = False
    cautious: bool = False
    clip_value: Number | None = None
    state_dtype: str = "float32"
    min_8bit_size: int = 4096
    master: str | None = None
    max_norm: Number | None = None  # a property of _Clipping

    def _begin(self, given: dict[str, Any]) -> None:
        params, max_norm = given.pop("params"), given.pop("max_norm")
        self._prepare()
        torch.optim.Optimizer.__init__(self, params, {**given, **self._fixed})
        self.max_norm = max_norm

    def _prepare(self) -> None:
        self._stepper = Stepper(self._kernel, self._states, self._counts, tensors)
        self.grad_norm: float | None = None

    # ---- hyper-parameters ----

    def _numbers(self, group: dict[str, Any]) -> dict[str, Any]:
        """The hyper-parameters of a group, by their names in C."""
        numbers = dict(ROWS[self._kernel].fallbacks)
        for name in (*self._arguments, *self._fixed):
            meaning = _IN_TORCH.get(name, name)
            if isinstance(meaning, str):
                if name in group:
                    numbers[meaning] = group[name]
            elif callable(meaning):
                numbers |= meaning(group[name], group)
        if group["state_dtype"] != "float32":
            check_state_dtype(self._kernel, {**numbers, **group}, np.dtype(np.float32))
        if group["master"] is not None:
            _checks.check_choice("master", group["master"], MASTERS)
        return numbers

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, a dict with "params" and what is to differ from the defaults."""
        if isinstance(param_group, dict) and "max_norm" in param_group:
            raise ValueError("max_norm: expected one for all groups, as an argument, got a group's")
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.pop("max_norm", None)  # of the defaults
        try:
            self._check_group(len(self.param_groups) - 1)
        except BaseException:
            self.param_groups.pop()
            raise

    def _check_group(self, place: int) -> None:
        group = self.param_groups[place]
        if group["differentiable"]:
            raise ValueError("differentiable: expected False, because a step has no gradient")
        numbers = self._numbers(group)
        for i, p in enumerate(group["params"]):
            name = tensors.name_of(self.param_groups, place, i)
            tensors.check_parameter(p, name, group["master"])
        doubles = [p.dtype == torch.float64 for p in group["params"]]
        dtype = np.dtype(np.float64 if any(doubles) else np.float32)
        check_state_dtype(self._kernel, {**numbers, **group}, dtype)
        self._stepper.check([numbers], [all(doubles)])

    # ---- steps and states ----

    @torch._disable_dynamo
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and the gradients; what it returns is returned.

        A step that `torch.amp.GradScaler` takes is left out if a gradient is not finite; else
        gradients are divided by the scale within the sweep.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        inside = self.__dict__
        if inside.get("found_inf") is not None and float(inside["found_inf"]):
            return loss
        scale = inside.get("grad_scale")
        self.grad_norm = self._stepper.step(
            self,
            [self._numbers(group) for group in self.param_groups],
            1.0 if scale is None else 1 / float(scale),
            self.defaults["max_norm"],
        )
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, here or by the optimizer's namesake in `torch.optim`.

        Hyper-parameters become those of the checkpoint, but states stay stored as they are here:
        the next step converts them. A master of float32 that its parameter is not rounded from is
        made anew by the first step.
        """
        kept = ("state_dtype", "min_8bit_size", "master")
        before = [{name: group[name] for name in kept} for group in self.param_groups]
        given = [state_dict]  # and then what hooks make of it
        hooks = (
            self.register_load_state_dict_pre_hook(lambda _, last: given.append(last)),
            self.register_load_state_dict_post_hook(
                lambda _: self._keep(before, given[-1]), prepend=True
            ),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, before: list[dict[str, Any]], state_dict: dict[str, Any]) -> None:
        """Give states the dtype that they were saved with, and groups how states are stored here.

        PyTorch has given all states the dtype of their parameters.
        """
        for group, own in zip(self.param_groups, before, strict=True):
            group.update(own)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        loaded = WeakValueDictionary[int, torch.Tensor]()
        for i, p in zip(saved, params, strict=True):
            narrow = p.dtype in tensors.HALVES
            for name, value in state_dict["state"].get(i, {}).items():
                if name in tensors.BESIDE and not narrow:
                    self.state[p].pop(name, None)  # of a parameter that was narrow there
                elif tensors.keeps_dtype(name, value, narrow):
                    kept = self.state[p][name] = value.to(p.device, copy=True)
                    if name in tensors.BESIDE:
                        loaded[id(kept)] = kept
        self._stepper.loaded = loaded

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                if name != "max_norm":
                    group.setdefault(name, value)
            group.update(self._fixed)
        self._prepare()
