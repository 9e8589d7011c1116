"""The duplicates of a communicator: one for each `Sharded` that lives, used again afterwards.

Two of them must not share one, because `add` sends whenever gradients are there, on each rank in an
order of its own. MPI has room for some 2,000 communicators, and MPI_Comm_free is collective, while
ranks collect garbage at different times. So nothing is freed then: a rank only notes that it has
left a duplicate, and the next `Sharded` takes the first that all ranks have left. All are freed
with the communicator, whose attribute they are, as MPI frees what belongs to one.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

_key: int | None = None  # of the attribute


class _Duplicates:
    """Those of one communicator, in the same order on all its ranks."""

    def __init__(self, comm: Any) -> None:
        self._first = comm.Dup()  # to agree which to take
        self.every: list[Any] = []
        self.lost: list[Any] = []  # messages that MPI may still read and write
        self.taken: list[bool] = []  # by this rank

    def take(self) -> int:
        """The number of one that no rank has. Collective."""
        mine = sum(1 << k for k, taken in enumerate(self.taken) if not taken)
        free: int = functools.reduce(operator.and_, self._first.allgather(mine))
        if not free:
            free = 1 << len(self.every)
            self.every.append(self._first.Dup())
            self.taken.append(True)
        k = (free & -free).bit_length() - 1
        self.taken[k] = True
        return k

    def free(self) -> None:
        for comm in (self._first, *self.every):
            comm.Free()


class Duplicate:
    """`comm`, a duplicate that is this object's until it is collected. Collective.

    `flying` is not empty while messages are on their way: then it is never used again, and their
    buffers stay.
    """

    def __init__(self, of: Any) -> None:
        global _key
        from mpi4py import MPI

        if _key is None:
            _key = MPI.Comm.Create_keyval(delete_fn=lambda comm, key, all_: all_.free())
        duplicates = of.Get_attr(_key)
        if duplicates is None:
            duplicates = _Duplicates(of)
            of.Set_attr(_key, duplicates)
        self._all, self._k = duplicates, duplicates.take()
        self.comm = duplicates.every[self._k]
        self.flying: list[Any] = []

    def __del__(self) -> None:
        if "flying" not in vars(self):
            return
        if self.flying:
            self._all.lost.append(self.flying)
        else:
            self._all.taken[self._k] = False
