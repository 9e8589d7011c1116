"""`Windows`: an exchange between the ranks of one machine, through memory that all of them see.

A part after the other is added up, stepped and gathered while it is in the caches. There are two
slots, used by turns: a rank fills one, and after the next barrier the others read it. They are done
before the barrier that comes then, so no rank changes what another still reads.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from .._held import move
from . import shards
from .exchange import Exchange
from .shards import Array, Sums

MOST = 1 << 18  # elements of a bucket: parts of one rank, and their states, fit into caches
_LINE = 64


def shares_memory(comm: Any) -> bool:
    """Whether all ranks are on one machine."""
    from mpi4py import MPI

    near = comm.Split_type(MPI.COMM_TYPE_SHARED)
    found: bool = comm.allreduce(near.size == comm.size, MPI.LAND)
    near.Free()
    return found


class Windows(Exchange):
    """Every rank reads from the memory of the others what is for it."""

    _window: Any = None
    _whole: list[Array] | None = None  # the sums of all pieces, for a norm

    def _prepare(self) -> None:
        super()._prepare()
        self.ends = [*accumulate(len(bucket.shards[self.rank]) for bucket in self._buckets)]
        self._tables = [
            [bucket.table(self._item, [rank]) for rank in range(self.size)]
            for bucket in self._buckets
        ]

    def _open(self) -> None:
        """Take the memory, at the first step."""
        counts = [bucket.counts for bucket in self._buckets]
        most, own = max(map(sum, counts), default=1), max(map(max, counts), default=1)
        self._step = most * self._item  # from one sum to the next
        self._behind = self._rounds * self._step  # where parameters are
        slot = self._behind + own * self._item
        slot += -slot % _LINE
        self._window = self._mpi.Win.Allocate_shared(2 * slot, comm=self._comm)
        self._window.Lock_all(self._mpi.MODE_NOCHECK)
        seen = [self._window.Shared_query(rank)[0] for rank in range(self.size)]
        arrays = [np.frombuffer(one, np.uint8).reshape(2, slot) for one in seen]
        self._slots = [[one.address + turn * slot for one in seen] for turn in range(2)]
        self._sums = [
            [
                one[turn, : self._behind].view(self._dtype).reshape(self._rounds, most)
                for one in arrays
            ]
            for turn in range(2)
        ]
        self._turn = self._params_turn = 0
        self._room = np.empty(own, self._dtype)
        self._parts = [
            self._room[piece.at - bucket.starts[self.rank] :][: piece.end - piece.begin]
            for bucket in self._buckets
            for piece in bucket.shards[self.rank]
        ]

    def _meet(self) -> None:
        """Wait for the others; then each sees what all have written."""
        self._window.Sync()
        self._comm.Barrier()
        self._window.Sync()

    # ---- sums ------------------------------------------------------------------------------------

    def finish(self, whole: bool) -> list[Array]:
        """The sums of the pieces of this rank, until `begin`."""
        if self._window is None:
            self._open()
        self._agree_on_given()
        for level, at in zip(self.levels, self._at, strict=True):
            self._tree.held.addresses(level, at)
        if not whole:
            return self._parts
        if self._whole is None:
            self._shard = np.empty(self._begins[-1], self._dtype)
            self._whole = self._cut(self._shard)
        for k in range(len(self._buckets)):
            self._show(k)
            self._meet()
            self._add_up(k, self._shard[self._begins[k] : self._begins[k + 1]])
        return self._whole

    def arrive(self, k: int) -> None:
        """Put the sums of part k where `finish` said, when those before have been used."""
        if k:
            self._show_params(k - 1)
        self._show(k)
        self._meet()
        if k:
            self._take_params(k - 1)
        self._add_up(k, self._room[: self._buckets[k].counts[self.rank]])

    def _show(self, k: int) -> None:
        """Put this rank's sums of part k where the others see them."""
        self._turn ^= 1
        tables = self._of_others if len(self._buckets[k].params) == 1 else self._of_all
        for t in range(len(self._covers[self.rank])):
            to = self._slots[self._turn][self.rank] + t * self._step
            move(tables[k], self._at[t], to, False)

    def _add_up(self, k: int, out: Array) -> None:
        """The sums of all ranks, those of the pieces of this one."""
        bucket, rank = self._buckets[k], self.rank
        own = slice(bucket.starts[rank], bucket.starts[rank] + bucket.counts[rank])
        found: Sums = {}
        for nodes, sums in zip(self._covers, self._sums[self._turn], strict=True):
            found |= {node: (one[own], True) for node, one in zip(nodes, sums, strict=False)}
        if len(bucket.params) == 1:  # where they were
            for node, level in zip(self._covers[rank], self.levels, strict=False):
                found[node] = bucket.whole(level)[own], False
        shards.add_up(self._root, found, out)

    # ---- parameters ------------------------------------------------------------------------------

    def _show_params(self, k: int) -> None:
        """Put this rank's parameters of part k where the others see them."""
        self._params_turn ^= 1
        self._move_params(k, self.rank, False)

    def _take_params(self, k: int) -> None:
        """Change the parameters of part k to those of the ranks that own them."""
        for rank in range(self.size):
            if rank != self.rank:
                self._move_params(k, rank, True)

    def _move_params(self, k: int, rank: int, back: bool) -> None:
        at = self._slots[self._params_turn][rank] + self._behind
        at -= self._buckets[k].starts[rank] * self._item
        move(self._tables[k][rank], self._params, at, back)

    def gather(self, last: bool = False) -> None:
        """Change the parameters in place to those of the ranks that own them; of the last part."""
        if self._window is None:
            self._open()
        count = len(self._buckets)
        for k in range(max(count - 1, 0) if last else 0, count):
            self._show_params(k)
            self._meet()
            self._take_params(k)
