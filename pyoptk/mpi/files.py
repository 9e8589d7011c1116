"""`save`: a checkpoint of all ranks, as if by one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

import numpy as np

from .. import checkpoint
from .sharded import Sharded
from .states import whole_states

_CHUNK = 1 << 20  # bytes of a state that are gathered at once


def save(path: str | os.PathLike[str], /, **parts: Any) -> None:
    """Write what `pyoptk.save` writes for one process, byte for byte; rank 0 does. Collective.

    States are gathered by pieces of 1 MiB into a temporary file without a name, which needs their
    room on the disk. The file at `path` is replaced as a whole or, on failure, not at all.

    Parameters
    ----------
    path : str or PathLike
        As for `pyoptk.save`.
    **parts
        As for `pyoptk.save`, and `Sharded` optimizers of one communicator, at least one. The other
        parts are those of rank 0.

    Raises
    ------
    TypeError, ValueError, OSError
        As from `pyoptk.save`, on all ranks.
    RuntimeError
        If the communicator of a `Sharded` was freed.
    """
    sharded = {name: part for name, part in parts.items() if isinstance(part, Sharded)}
    if not sharded:
        raise ValueError("parts: expected a Sharded among them, got none; use pyoptk.save")
    exchange = next(iter(sharded.values()))._exchange
    for name, part in sharded.items():
        part._exchange.check_comm(f"{name}: expected a Sharded whose communicator can be used")
        if not exchange.is_like(part._exchange):
            first = next(iter(sharded))
            raise ValueError(f"{name}: expected the communicator of {first}, got another")
    if exchange.size == 1:
        checkpoint.save(path, **parts | {name: part.optimizer for name, part in sharded.items()})
        return
    writes = exchange.rank == 0
    folder = os.path.dirname(os.path.realpath(os.fsdecode(path)))
    error: Exception | None = None
    with contextlib.ExitStack() as stack:
        spool: Any = None
        for part in sharded.values():
            stack.enter_context(part._exchange)
        try:
            if writes:
                spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        except OSError as cause:
            error = cause  # the other ranks send all the same
        places: dict[str, dict[str, Any]] = {}
        for name, part in sorted(sharded.items()):
            places[name], error = _gather(part, spool, error)
        try:
            if writes and error is None:
                checkpoint.save(path, **parts | {n: _Whole(part, places[n], spool)
                                                 for n, part in sharded.items()})  # fmt: skip
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as cause:
            error = cause
        error = exchange.from_first(error)
    if error is not None:
        raise error


def _gather(
    part: Sharded, spool: Any, error: Exception | None
) -> tuple[dict[str, Any], Exception | None]:
    """Write all states to `spool` on rank 0; where they are, and the first error."""
    places, whole = {}, whole_states(part._shadow, part._tree)
    for name in part._shadow._plan.states:
        states = part.optimizer._plan.states.get(name, [])  # of pieces of this rank
        for i, key in enumerate(part._tree.named(name, part._rows)):
            if key not in whole:
                continue
            places[key] = (spool.tell() if spool else 0), whole[key]
            for chunk in part._exchange.whole(i, states, _CHUNK):
                try:
                    if spool and error is None:
                        spool.write(chunk)
                except OSError as cause:
                    error = cause
    return places, error


class _Whole:
    """The state of all ranks, for `pyoptk.save`: as a plain optimizer has it, read from a file."""

    def __init__(self, part: Sharded, places: dict[str, Any], spool: Any) -> None:
        spool.flush()
        self._state = part._shadow.state_dict()
        for key, (at, like) in places.items():
            self._state[key] = np.empty(like.shape, like.dtype)
            if like.size:
                self._state[key] = np.memmap(spool, like.dtype, "r", at, like.shape)

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        return self._state
