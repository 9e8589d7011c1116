"""`Near`: an exchange between the processes of one machine, which read each other's memory.

Nothing travels before `finish`. Then each takes what it needs from where it is, one part of its
pieces after the other, adds it up and steps it. Ranks wait for each other three times in a step:
until all gradients are there, all parts are stepped, and all parameters have been read.
"""

from __future__ import annotations

import os
from itertools import accumulate
from typing import Any

import numpy as np

from .._held import fetch, move
from ..params import Params
from . import shards
from .exchange import Exchange
from .messages import Messages
from .shards import GRAIN, Array, Sums


def reads_others(comm: Any) -> bool:
    """Whether each rank can read the memory of all others."""
    own = np.frombuffer(os.urandom(64), np.int64)
    found, table = np.empty_like(own), np.array([[0, 0, 0, 64]])
    works = True
    for process, address, wanted in comm.allgather((os.getpid(), own.ctypes.data, own.tobytes())):
        try:
            if works:
                fetch(process, table, np.array([address]), None, found.ctypes.data)
                works = found.tobytes() == wanted
        except OSError:
            works = False
    return all(comm.allgather(works))


def exchange_of(tree: Params, comm: Any, micro: int, bucket: int) -> Exchange:
    """That of one rank, of one machine, or of several."""
    if comm is None or comm.size == 1:
        return Exchange(tree, comm, micro, bucket)
    own = comm.Dup()
    near = not any(own.allgather(os.environ.get("PYOPTK_MPI_MESSAGES"))) and reads_others(own)
    return (Near if near else Messages)(tree, own, micro, bucket)


class Near(Exchange):
    """Reads sums and parameters from the memory of the other ranks."""

    _whole: list[Array] | None = None  # the sums of all pieces, for a norm

    @property
    def _longest(self) -> int:
        """Elements of a part: the sums of all ranks are there at once, and take two buckets."""
        return max(2 * self._bucket // self._nodes // GRAIN * GRAIN, GRAIN)

    def _prepare(self) -> None:
        super()._prepare()
        self._each = self._comm.allgather((os.getpid(), self._params))
        self._owned = [shards.table(pieces, self._item) for pieces in self.owned]
        self._told = np.zeros((self._rounds + 1, len(self._rows)), np.int64)
        self._every = np.zeros((self.size, *self._told.shape), np.int64)
        self._parts = shards.parts(self.pieces, self._longest)
        self.ends = [*accumulate(map(len, self._parts))]
        self._sizes = [sum(p.end - p.begin for p in part) for part in self._parts]
        self._space = np.empty((self._nodes, max(self._sizes, default=0)), self._dtype)
        self._views = [
            self._space[0, p.at : p.at + p.end - p.begin] for part in self._parts for p in part
        ]
        self._tables = [shards.table(part, self._item) for part in self._parts]
        others_first = sorted(range(self.size), key=self.rank.__eq__)
        nodes = [(r, t, node) for r in others_first for t, node in enumerate(self._covers[r])]
        self._sources = [  # of each sum of the tree: its rank, its number, its address there, here
            (r, t, node, self._every[r, t], room.ctypes.data)
            for (r, t, node), room in zip(nodes, self._space, strict=True)
        ]
        self._found = [
            {
                node: (room[:size], True)
                for (_, _, node), room in zip(nodes, self._space, strict=True)
            }
            for size in self._sizes
        ]

    def finish(self, whole: bool) -> list[Array]:
        """The sums of the pieces of this rank, until `begin`."""
        for t in range(len(self._covers[self.rank])):
            self._locate(t)
            self._told[t] = self._at[t]
        self._told[-1] = self.given
        self._comm.Allgather(self._told, self._every)  # from here on the others read
        np.any(self._every[:, -1], 0, self.given)
        if not whole:
            return self._views
        if self._whole is None:
            self._shard = np.empty(sum(self._sizes), self._dtype)
            self._whole = self._cut(self._shard)
        for k, end in enumerate(accumulate(self._sizes)):
            self._add_up(k, self._shard[end - self._sizes[k] : end])
        return self._whole

    def arrive(self, k: int) -> None:
        """Put the sums of part k where `finish` said, when those before have been used."""
        self._add_up(k, self._space[0, : self._sizes[k]])

    def _add_up(self, k: int, out: Array) -> None:
        """The sums of all ranks, of part k."""
        found: Sums = dict(self._found[k])
        table, part = self._tables[k], self._parts[k]
        for rank, t, node, at, room in self._sources:
            if rank != self.rank:
                fetch(self._each[rank][0], table, at, None, room)
            elif len(part) > 1:
                move(table, at, room, False)
            else:
                i, begin, end, _ = part[0]
                found[node] = self.levels[t][i].reshape(-1)[begin:end], False
        shards.add_up(self._root, found, out)

    def gather(self) -> None:
        """Change the parameters in place to those of the ranks that own them."""
        self._comm.Barrier()
        for rank, (process, params) in enumerate(self._each):
            if rank != self.rank:
                fetch(process, self._owned[rank], params, self._params)
        self._comm.Barrier()  # until then the others read
