"""Gradient clipping by itself; an optimizer does it within its step (`max_norm`, `clip_value`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import _optim
from .._checks import described, number
from .._held import quietly
from ..params import Array, listed
from .hyper import Grads


def _named(grads: Grads) -> dict[str, Array]:
    """The gradients that there are, by the names that messages call them."""
    keys, arrays = listed(grads, "grads")
    if isinstance(grads, Iterator) and not arrays:
        raise ValueError(
            f"grads: expected gradients, got none in {described(grads)} (a generator can be used "
            "once)"
        )
    names = ["grads"] if keys is None else [f"grads[{key!r}]" for key in keys]
    return {name: grad for name, grad in zip(names, arrays, strict=True) if grad is not None}


def global_norm(grads: Grads) -> float:
    """The square root of the sum of squares over all gradients, summed in double.

    Parameters
    ----------
    grads : array, or sequence or dict of arrays, nested or not
        float32 or float64 (all the same); None counts as nothing.

    Returns
    -------
    float
        NaN or infinity if one of them has such an element, and infinity if the norm of float64 is
        too large for one.

    Raises
    ------
    TypeError
        For what is no such array; the message names it.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> pyoptk.global_norm({"weight": np.array([[3.0]]), "bias": np.array([4.0])})
    5.0
    """
    return _optim.norm_of(_named(grads))


def clip_by_global_norm(grads: Grads, max_norm: float, *, eps: float = 1e-6) -> float:
    """Scale all gradients in place so that their global norm is at most `max_norm`.

    The factor is ``min(1, max_norm / (norm + eps))``, as in PyTorch's ``clip_grad_norm_``; where
    the norm is NaN, so is every element then, and an infinite norm makes zeros, and NaNs of
    infinities.

    Parameters
    ----------
    grads : array, or sequence or dict of arrays, nested or not
        float32 or float64 (all the same), of any strides. Changed in place; None is left out.
    max_norm : float
        At least 0; infinity changes nothing, and only the norm is returned.
    eps : float
        At least 0, as it is in Optax and Keras.

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    TypeError, ValueError
        For what is no such array, is read-only or overlaps itself or another, and for a `max_norm`
        that is none; the message names it, and nothing has been changed.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> g = np.array([3.0, 4.0])
    >>> pyoptk.clip_by_global_norm(g, 1.0)
    5.0
    >>> bool(np.allclose(g, [0.6, 0.8]))
    True
    """
    named = _named(grads)
    if not (isinstance(max_norm, float | np.floating) and max_norm == np.inf):
        max_norm = number("max_norm", max_norm, 0, np.inf, "a number >= 0")
    eps = number("eps", eps, 0, np.inf, "a finite number >= 0")
    return _optim.clip(named, max_norm, eps)


def clip_by_value(grads: Grads, clip_value: float) -> None:
    """Clip every element of the gradients, in place, to [-clip_value, clip_value]; NaNs stay.

    Parameters
    ----------
    grads : array, or sequence or dict of arrays, nested or not
        float32 or float64, of any strides. Changed in place; None is left out.
    clip_value : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        As from `clip_by_global_norm`.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> g = np.array([-3.0, 0.5, np.nan])
    >>> pyoptk.clip_by_value(g, 1.0)
    >>> g
    array([-1. ,  0.5,  nan])
    """
    named = _named(grads)
    limit = number("clip_value", clip_value, 0, np.inf, "a finite number >= 0")
    _optim.check_apart(named)
    for grad in map(np.asarray, named.values()):  # an infinite limit changes nothing
        quietly(np.clip, grad, -limit, limit, grad)
