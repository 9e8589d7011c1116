"""Twins of the masks of recurrent layers in training: dropout of h or of the candidate, zoneout.

The twins of the layers take masks as arguments; `masks` makes those that the kernels draw.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .arrays import random_numbers

__all__ = ["masks"]

Array = NDArray[np.floating]
Mask = NDArray[Any]  # of bool, or of factors


class Masks(TypedDict, total=False):
    """Those that act. Sequences are in the order of time."""

    h_mask: Array  # [B, R]: what multiplies h before it enters products
    g_mask: Array  # [T, B, H]: what multiplies the candidate
    zoned_h: NDArray[np.bool_]  # [T, B, R]: where zoneout keeps h
    zoned_c: NDArray[np.bool_]  # [T, B, H]: where it keeps c


def masks(
    T: int,
    B: int,
    R: int,
    H: int,
    *,
    seed: int,
    stream: int = 0,
    recurrent_dropout: float = 0.0,
    drop_candidate: bool = False,
    zoneout: tuple[float, float] = (0.0, 0.0),
) -> Masks:
    """The masks of one direction of a layer with R features of h and H units.

    `zoneout` are the probabilities of c and of h. Each mask is that of `dropout` for an array of
    its shape: of h with the stream `stream` + 2**62, of c + 2 * 2**62, of dropout + 3 * 2**62.
    """
    found: Masks = {}
    of_c, of_h = zoneout
    if of_h > 0:
        found["zoned_h"] = _events((T, B, R), of_h, seed, stream + 2**62)
    if of_c > 0:
        found["zoned_c"] = _events((T, B, H), of_c, seed, stream + 2 * 2**62)
    if recurrent_dropout > 0:
        shape = (T, B, H) if drop_candidate else (B, R)
        dropped = _events(shape, recurrent_dropout, seed, stream + 3 * 2**62)
        least = int(recurrent_dropout * 2**16 + 0.5)
        kept = np.where(dropped, 0.0, 2**16 / (2**16 - least))
        found["g_mask" if drop_candidate else "h_mask"] = kept
    return found


def _events(shape: tuple[int, ...], p: float, seed: int, stream: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = random_numbers(shape, seed, stream) < int(p * 2**16 + 0.5)
    return found


def masked(values: Array, mask: Array | None) -> Array:
    """The values times the mask, if there is one."""
    return values if mask is None else values * mask


def kept(after: Array, before: Array, zoned: Mask | None) -> Array:
    """A state after a step: the one before where zoneout keeps it."""
    return after if zoned is None else np.where(zoned, before, after)


def parted(d: Array, zoned: Mask | None) -> tuple[Array, Array]:
    """The gradient of such a state: that of the new one, and what passes to the one before."""
    if zoned is None:
        return d, np.zeros_like(d)
    return np.where(zoned, 0, d), np.where(zoned, d, 0)


def at(mask: Mask | None, t: int, reverse: bool) -> Mask | None:
    """The mask of the t-th step taken."""
    return None if mask is None else mask[len(mask) - 1 - t if reverse else t]
