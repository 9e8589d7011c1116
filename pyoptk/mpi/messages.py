"""`Messages`: an exchange between machines. Buckets travel as soon as their gradients are there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from .._held import move
from . import shards
from .exchange import Exchange
from .shards import Array, Sums

_IN_FLIGHT = 2  # buckets


class Messages(Exchange):
    """Sends sums and parameters by Ialltoallv."""

    _next: int  # bucket to be sent

    def _prepare(self) -> None:
        super()._prepare()
        rank, ranks, buckets = self.rank, range(self.size), self._buckets
        others = [r for r in ranks if r != rank]
        self._of_all, self._of_this, self._of_others = (
            [
                shards.table((piece for r in some for piece in bucket.shards[r]), self._item)
                for bucket in buckets
            ]
            for some in (ranks, [rank], others)
        )
        self._begins = [0, *accumulate(bucket.counts[rank] for bucket in buckets)]
        self._shard = np.empty(self._begins[-1], self._dtype)
        self._views = self._cut(self._shard)
        self._buffers: dict[tuple[str, int, int], Array] = {}
        self._flying: list[tuple[list[Any], Callable[[], Any]]] = []  # what to wait for, then do

    def begin(self) -> None:
        """Forget all leaves."""
        self._land()  # after an error
        super().begin()
        self._next = 0

    def finish(self, whole: bool) -> list[Array]:
        """The sums of the pieces of this rank, until `begin`."""
        self.send()
        self._land()
        self._comm.Allreduce(self._mpi.IN_PLACE, self.given, self._mpi.LOR)
        return self._views

    def send(self) -> None:
        """Send the buckets that are complete, in the same order on all ranks."""
        while self._next < len(self._buckets):
            k = self._next
            if self.seen[self._buckets[k].params].min() < len(self.mine):
                break
            self._land(_IN_FLIGHT - 1)
            self._send(k, self._shard[self._begins[k] : self._begins[k + 1]])

    def _send(self, k: int, shard: Array) -> None:
        """Begin to send bucket k, whose sums will be in `shard`."""
        found: Sums = {}
        requests = [self._send_sums(k, t, found, shard) for t in range(self._rounds)]
        self._flying.append((requests, partial(shards.add_up, self._root, found, shard)))
        self._next = k + 1

    def _send_sums(self, k: int, t: int, found: Sums, shard: Array) -> Any:
        """Begin to send sum t of each rank; `found` says where this rank's part of it will be.

        What comes from a single rank comes to its place.
        """
        rank, bucket = self.rank, self._buckets[k]
        counts, senders = bucket.counts, [len(nodes) > t for nodes in self._covers]
        out = self._shard[:0]
        if senders[rank]:
            self._locate(t, bucket.params)
            out = self._joined(k, self.levels[t], self._at[t], self._of_all, t)
            found[self._covers[rank][t]] = out[bucket.starts[rank] :][: counts[rank]], False
        give = [n * (senders[rank] and r != rank) for r, n in enumerate(counts)]
        take = [counts[rank] * (sends and r != rank) for r, sends in enumerate(senders)]
        at = [0, *accumulate(take)]
        alone = self.size == 2 and self._rounds == 1
        room = shard[: at[-1]] if alone else self._room("in", k, t, at[-1])
        for r, nodes in enumerate(self._covers):
            if senders[r] and r != rank:
                found[nodes[t]] = room[at[r] : at[r + 1]], True
        return self._comm.Ialltoallv((out, (give, bucket.starts)), (room, (take, at[:-1])))

    def _joined(self, k: int, rows: list[Array], at: Any, tables: list[Any], t: int = 0) -> Array:
        """The elements of bucket k side by side: where they are, if they are so there.

        Else in memory where only those of `tables` have been copied from `at`.
        """
        bucket = self._buckets[k]
        if len(bucket.params) == 1:
            return bucket.whole(rows)
        room = self._room("sums" if tables is self._of_all else "params", k, t, bucket.size)
        move(tables[k], at, room.ctypes.data, False)
        return room

    def _land(self, most: int = 0) -> None:
        """Wait for what was sent first, until only so much is on its way."""
        while len(self._flying) > most:
            requests, then = self._flying.pop(0)
            for request in requests:
                request.Wait()
            then()

    def _room(self, what: str, k: int, t: int, size: int) -> Array:
        """Memory for so many elements, kept from step to step."""
        key = what, k % _IN_FLIGHT, t
        room = self._buffers.get(key)
        if room is None or room.size < size:
            room = self._buffers[key] = np.empty(size, self._dtype)
        return room[:size]

    def gather(self) -> None:
        """Change the parameters in place to those of the ranks that own them."""
        for k in range(len(self._buckets)):
            self._land(_IN_FLIGHT - 1)
            self._gather(k)
        self._land()

    def _gather(self, k: int) -> None:
        """Begin to gather bucket k."""
        rank, bucket = self.rank, self._buckets[k]
        whole = self._joined(k, self._rows, self._params, self._of_this)
        give = [bucket.counts[rank] * (r != rank) for r in range(self.size)]
        take = [n * (r != rank) for r, n in enumerate(bucket.counts)]
        own = whole, (give, [bucket.starts[rank]] * self.size)
        request = self._comm.Ialltoallv(own, (whole, (take, bucket.starts)))
        then: Callable[[], Any] = bool  # nothing
        if len(bucket.params) > 1:
            then = partial(move, self._of_others[k], self._params, whole.ctypes.data, True)
        self._flying.append(([request], then))
