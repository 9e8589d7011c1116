"""The settings and keywords with which an optimizer computes what that of another library does.

`Optimizer.like` calls `settings_like`; everything above it is a table that may be extended.
tests/test_like.py compares every entry with the library, test_like_keras.py with Keras's own tests.
Sources: PyTorch 2.13, Keras 3.15, Optax 0.2.8, scikit-learn 1.9 (its MLP), and ONNX's
ai.onnx.preview.training, version 1.
What is not listed is as in PyTorch. Optax and ONNX have no default learning rate. ONNX's Momentum
has alpha for momentum and beta for 1 - dampening, without defaults; its Adam is this one when its
update count T begins at 1, and corrects no bias when T is 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .. import _checks
from .._arguments import Declared

_INSIDE = {"eps_inside_sqrt": True}
_IN_TORCH = ["*", "SGD", "AdaGrad", "RMSprop", "Adadelta", "Adam", "AdamW", "NAdam", "RAdam"]
_IN_TORCH += ["Adamax", "Rprop"]

# For every library the settings of each optimizer that it has; "*": of all of them.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "torch": {name: {} for name in _IN_TORCH},
    "keras": {
        "*": {"decoupled": True, "max_norm_eps": 0.0, "ema_from_first_step": True},
        "SGD": {"lr": 0.01, "lr_in_momentum": True},
        "AdaGrad": {"lr": 1e-3, "eps": 1e-7, "initial_accumulator": 0.1, **_INSIDE},
        "RMSprop": {"lr": 1e-3, "rho": 0.9, "eps": 1e-7, "lr_in_momentum": True, **_INSIDE},
        "Adadelta": {"lr": 1e-3, "rho": 0.95, "eps": 1e-7},
        "Adam": {"eps_hat": True, "eps": 1e-7},
        "AdamW": {"eps_hat": True, "eps": 1e-7, "weight_decay": 4e-3},
        "NAdam": {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0},
        "Adamax": {"lr": 1e-3, "eps": 1e-7, "eps_outside_max": True},
        "Lion": {"lr": 1e-3},
        "LAMB": {"eps": 1e-7, "weight_decay": 0.0, "decay_outside_norm": True},
    },
    "optax": {
        "*": {"max_norm_eps": 0.0},
        "SGD": {},
        "AdaGrad": {"eps": 1e-7, "initial_accumulator": 0.1, **_INSIDE},
        "RMSprop": {"rho": 0.9, "eps": 1e-8, "lr_in_momentum": True, **_INSIDE},
        "Adadelta": {},
        "Adam": {"decoupled": True},
        "AdamW": {"weight_decay": 1e-4},
        "NAdam": {"momentum_decay": 1e5, "decoupled": True},
        "RAdam": {"eps_hat": False},
        "Adamax": {"decoupled": True},
        "Lion": {"weight_decay": 1e-3},
        "AdaBelief": {},
        "LAMB": {"weight_decay": 0.0},
    },
    "onnx": {"*": {}, "SGD": {}, "AdaGrad": {"eps": 1e-6}, "Adam": {"eps_hat": True, "eps": 1e-6}},
    "sklearn": {
        "*": {},
        "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "lr_in_momentum": True},
        "Adam": {"eps_hat": True},
    },
}

# The same by optimizer, then by library.
LIKE: dict[str, dict[str, dict[str, Any]]] = {}
for _library, _rows in SETTINGS.items():
    for _name in list(_rows)[1:]:
        LIKE.setdefault(_name, {})[_library] = {**_rows["*"], **_rows[_name]}


# From the value of a keyword, and all keywords that are given, to ours.
Function = Callable[[Any, Mapping[str, Any]], dict[str, Any]]


def _pair(name: str, first: str, second: str) -> Function:
    def both(pair: Any, _: Any) -> dict[str, Any]:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{name}: expected a pair of numbers, got {pair!r}")
        return {first: pair[0], second: pair[1]}

    return both


def _limit(name: str, **others: bool) -> Function:
    """For Keras, which does not clip where the limit is None or 0."""
    return lambda limit, _: {name: limit, **others} if limit else {}


def _loss_scale(scale: Any, _: Any) -> dict[str, Any]:
    if scale is None:
        return {}
    expected = "None or a finite number > 0"
    return {"grad_scale": 1 / _checks.number("loss_scale_factor", scale, 5e-324, 2e308, expected)}


def _one_eps(root: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    eps = given.get("eps", 1e-16)
    if root != eps:
        raise ValueError(f"eps_root: expected {eps!r}, because there is one eps, got {root!r}")
    return {"eps": eps}


def _mode(mode: Any, _: Any) -> dict[str, Any]:
    _checks.check_choice("mode", mode, ("standard", "nesterov"))
    return {"nesterov": mode == "nesterov"}


# Our counterpart of a keyword of the library: the first of these names that the optimizer has; or a
# function; or, if there is none, the only value that is accepted (...: any, because it changes no
# result) and a reason. "Class.keyword" is for one optimizer.
KEYWORDS: dict[str, dict[str, str | Function | tuple[Any, str]]] = {
    "torch": {
        "alpha": "rho",
        "betas": _pair("betas", "beta1", "beta2"),
        "etas": _pair("etas", "eta_minus", "eta_plus"),
        "step_sizes": _pair("step_sizes", "min_size", "max_size"),
        "decoupled_weight_decay": "decoupled",
        "initial_accumulator_value": "initial_accumulator",
        **dict.fromkeys(["foreach", "fused", "capturable"], (..., "")),
        "differentiable": (False, "there is no autograd"),
    },
    "keras": {
        "learning_rate": "lr",
        "beta_1": "beta1",
        "beta_2": "beta2",
        "epsilon": "eps",
        "initial_accumulator_value": "initial_accumulator",
        "weight_decay": lambda decay, _: {} if decay is None else {"weight_decay": decay},
        "AdamW.weight_decay": "weight_decay",
        "clipnorm": _limit("max_norm", max_norm_per_array=True),
        "global_clipnorm": _limit("max_norm"),
        "clipvalue": _limit("clip_value"),
        "use_ema": lambda on, given: {"ema_decay": given.get("ema_momentum", 0.99) if on else None},
        "ema_momentum": lambda *_: {},
        "ema_overwrite_frequency": (None, "averaged() puts the averages in the parameters' place"),
        "loss_scale_factor": _loss_scale,
        "gradient_accumulation_steps": (None, "Accumulation(opt, k) does that"),
        "name": (..., ""),
    },
    "optax": {
        "learning_rate": "lr",
        "momentum": lambda momentum, _: {"momentum": 0.0 if momentum is None else momentum},
        "b1": "beta1",
        "b2": "beta2",
        "decay": "rho",
        "eps_in_sqrt": "eps_inside_sqrt",
        "initial_accumulator_value": "initial_accumulator",
        "eps_root": (0, "there is one eps"),
        "AdaBelief.eps": lambda _, given: _one_eps(given.get("eps_root", 1e-16), given),
        "AdaBelief.eps_root": lambda root, given: _one_eps(root, given) and {},
        "initial_scale": (0, "v begins at 0"),
        "bias_correction": (False, "v has none"),
        "threshold": (5, "the update is rectified where rho > 5"),
        "nesterov": (False, "NAdam is Adam with it"),
        "NAdam.nesterov": (True, "Adam is NAdam without it"),
        "mask": (None, "decay_mask and no_decay take patterns of names"),
        "weight_decay_mask": (None, "decay_mask and no_decay take patterns of names"),
        "mu_dtype": (None, "m has the dtype of the parameters"),
        "accumulator_dtype": (None, "velocity has the dtype of the parameters"),
    },
    "onnx": {
        "R": "lr",
        "alpha": "momentum beta1",
        "beta": "beta2",
        "SGD.beta": lambda beta, _: {"dampening": 1 - beta},
        "epsilon": "eps",
        "decay_factor": "lr_decay",
        "mode": _mode,
        "norm_coefficient": "weight_decay",
        "norm_coefficient_post": (0, "weight_decay is added to the gradient"),
    },
    "sklearn": {
        "learning_rate_init": "lr",
        "beta_1": "beta1",
        "beta_2": "beta2",
        "epsilon": "eps",
        "nesterovs_momentum": "nesterov",
        "alpha": (0, "weight_decay is neither divided by the number of samples nor without biases"),
        "learning_rate": ("constant", "lr may be a function of the step"),
        "lr_schedule": ("constant", "lr may be a function of the step"),
        "power_t": (..., ""),
    },
}


def _translated(
    cls: type[Declared], name: str, library: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The given keywords by our names; unknown ones remain, and the constructor refuses them.

    name: the row of `LIKE` for `cls`.
    """
    has = {*inspect.signature(cls).parameters, *cls._arguments}
    table = KEYWORDS[library]
    settings: dict[str, Any] = {}
    for key, value in given.items():
        meaning = table.get(f"{name}.{key}", table.get(key, key))
        if isinstance(meaning, tuple) and key in has:
            meaning = key
        if isinstance(meaning, tuple):
            neutral, reason = meaning
            if neutral is not ... and value != neutral:
                raise ValueError(f"{key}: expected {neutral!r}, because {reason}, got {value!r}")
            meant = {}
        elif isinstance(meaning, str):
            meant = {next((own for own in meaning.split() if own in has), key): value}
        else:
            meant = meaning(value, given)
        for own in settings.keys() & meant.keys():
            raise TypeError(f"{key}: expected {own} once, got it by two names")
        settings |= meant
    return settings


def settings_like(
    optimizer: type[Declared], library: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The keywords for `optimizer` as in `library`, those that are given taking precedence."""
    name = next((c.__name__ for c in optimizer.__mro__ if c.__name__ in LIKE), "")
    known = LIKE.get(name, {})
    _checks.check_choice("library", library, known)
    own = _translated(optimizer, name, library, given)
    settings = {**known[library], **own}
    if library == "optax" and settings.get("amsgrad"):
        settings.setdefault("amsgrad_on_corrected", True)
    if name == "SGD" and library != "torch" and settings.get("momentum", 0) == 0:
        settings.pop("nesterov", None)  # PyTorch refuses it without momentum, the others ignore it
    return settings
