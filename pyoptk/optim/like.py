"""Which settings make an optimizer that of another library: for `Optimizer.like`, and nobody else.

Sources: PyTorch 2.13, Keras 3.15, Optax 0.2.8, scikit-learn 1.9 (its MLP), and ONNX's
ai.onnx.preview.training, version 1.
What is not listed is as in PyTorch. Optax and ONNX have no default learning rate. ONNX's Momentum
has alpha for momentum and beta for 1 - dampening, without defaults; its Adam is this one when its
update count T begins at 1, and corrects no bias when T is 0.
"""

from __future__ import annotations

from typing import Any

from .. import _checks

_KERAS_ADAM = {"eps_hat": True, "eps": 1e-7}
_INSIDE = {"eps_inside_sqrt": True}

LIKE: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {
        "torch": {},
        "keras": {"lr": 0.01, "lr_in_momentum": True},
        "optax": {},
        "onnx": {},
        "sklearn": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "lr_in_momentum": True},
    },
    "AdaGrad": {
        "torch": {},
        "keras": {"lr": 1e-3, "eps": 1e-7, "initial_accumulator": 0.1, **_INSIDE},
        "optax": {"eps": 1e-7, "initial_accumulator": 0.1, **_INSIDE},
        "onnx": {"eps": 1e-6},
    },
    "RMSprop": {
        "torch": {},
        "keras": {"lr": 1e-3, "rho": 0.9, "eps": 1e-7, "lr_in_momentum": True, **_INSIDE},
        "optax": {"rho": 0.9, "eps": 1e-8, "lr_in_momentum": True, **_INSIDE},
    },
    "Adadelta": {
        "torch": {},
        "keras": {"lr": 1e-3, "rho": 0.95, "eps": 1e-7},
        "optax": {},
    },
    "Adam": {
        "torch": {},
        "keras": _KERAS_ADAM,
        "optax": {},
        "onnx": {"eps_hat": True, "eps": 1e-6},
        "sklearn": {"eps_hat": True},
    },
    "AdamW": {
        "torch": {},
        "keras": {**_KERAS_ADAM, "weight_decay": 4e-3},
        "optax": {"weight_decay": 1e-4},
    },
    "NAdam": {
        "torch": {},
        "keras": {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0},
        "optax": {"momentum_decay": 1e5},
    },
    "RAdam": {
        "torch": {},
        "optax": {"eps_hat": False},
    },
    "Adamax": {
        "torch": {},
        "keras": {"lr": 1e-3, "eps": 1e-7, "eps_outside_max": True},
        "optax": {},
    },
    "Lion": {
        "keras": {"lr": 1e-3},
        "optax": {"weight_decay": 1e-3},
    },
    "LAMB": {
        "keras": {"eps": 1e-7, "weight_decay": 0.0},
        "optax": {"weight_decay": 0.0},
    },
}


def settings_like(optimizer: type, library: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keywords for `optimizer` as in `library`, those that are given taking precedence."""
    known = next((LIKE[c.__name__] for c in optimizer.__mro__ if c.__name__ in LIKE), {})
    _checks.check_choice("library", library, known)
    settings = {**known[library], **given}
    if library == "optax" and settings.get("amsgrad"):
        settings.setdefault("amsgrad_on_corrected", True)
    return settings
