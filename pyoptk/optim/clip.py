"""Gradient clipping by itself; an optimizer does it within its step (`max_norm`, `clip_value`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .hyper import Array, Grads, listed


def _arrays(grads: Grads) -> list[Array]:
    every: Any = grads
    return [grad for grad in listed(every)[1] if grad is not None]


def global_norm(grads: Grads) -> float:
    """The square root of the sum of squares over all gradients, summed in double.

    Parameters
    ----------
    grads : array, sequence or dict of arrays
        float32 or float64 (all the same); None counts as nothing.
    """
    return _core.global_norm(_arrays(grads))


def clip_by_global_norm(grads: Grads, max_norm: float) -> float:
    """Scale all gradients in place so that their global norm is at most `max_norm`.

    The factor is ``min(1, max_norm / (norm + 1e-6))``, as in PyTorch's ``clip_grad_norm_``.

    Parameters
    ----------
    grads : array, sequence or dict of arrays
        Changed in place.
    max_norm : float
        At least 0.

    Returns
    -------
    float
        The norm before.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> g = np.array([3.0, 4.0])
    >>> pyoptk.clip_by_global_norm(g, 1.0)
    5.0
    >>> bool(np.allclose(g, [0.6, 0.8]))
    True
    """
    arrays = _arrays(grads)
    norm, factor = _core.clip_factor(arrays, max_norm)
    for grad in arrays:
        grad *= factor
    return norm


def clip_by_value(grads: Grads, clip_value: float) -> None:
    """Clip every element of the gradients, in place, to [-clip_value, clip_value]; NaNs stay.

    Parameters
    ----------
    grads : array, sequence or dict of arrays
        Changed in place.
    clip_value : float
        At least 0.
    """
    arrays: list[Any] = _arrays(grads)
    limit = _core.check_writable(arrays, clip_value)
    for grad in arrays:
        np.clip(grad, -limit, limit, out=grad)
