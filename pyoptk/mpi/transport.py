"""How sums and parameters come from other ranks: `Messages` and, on one machine, `Near`.

Between machines, buckets travel as soon as their gradients are there. Processes of one machine read
each other's memory, if the system lets them: nothing travels before `finish`; then each takes what
it needs from where it is, one part of its pieces after the other, adds it up and steps it. They
wait for each other until all gradients are there, all parts are stepped, all parameters are read.
What lies in memory.py's segments is read where it is; what else other ranks have is copied first,
256 KiB at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from .._core import add_up, move
from ..params import Params
from . import shards
from .duplicates import Duplicate
from .exchange import Exchange
from .memory import View, segments
from .shards import GRAIN, Array, Sums

_IN_FLIGHT = 2  # buckets
_AT_ONCE = 1 << 18  # bytes


class Messages(Exchange):
    """Sends sums and parameters by Ialltoallv."""

    _next: int  # bucket to be sent

    def _prepare(self) -> None:
        super()._prepare()
        rank, ranks = self.rank, range(self.size)
        buckets = [shards.in_bytes(bucket, self._bytes) for bucket in self._buckets]
        others = [r for r in ranks if r != rank]
        self._of_all, self._of_this, self._of_others = (
            [
                shards.table((p for r in some for p in bucket.shards[r]), items, room)
                for bucket in which
            ]
            for which, some, items, room in (
                (self._buckets, ranks, self._items, self._item),
                (buckets, [rank], self._bytes, 1),
                (buckets, others, self._bytes, 1),
            )
        )
        self._in_bytes = buckets
        self._begins = [0, *accumulate(bucket.counts[rank] for bucket in self._buckets)]
        self._shard = np.empty(self._begins[-1], self.dtype)
        self._views = self._cut(self._shard)
        self._buffers: dict[tuple[str, int, int], Array] = {}

    def begin(self) -> None:
        self._land()  # after an error
        super().begin()
        self._next = 0

    def finish(self, whole: bool) -> list[Array]:
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
        self.flying.append((requests, partial(shards.add_up, self._root, found, shard)))
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
            out = self._joined(k, t)
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

    def _joined(self, k: int, t: int) -> Array:
        """The elements of bucket k of sum t side by side: where they are, if they are so there."""
        bucket = self._buckets[k]
        if len(bucket.params) == 1:
            return bucket.whole(self.levels[t])
        room = self._room("sums", k, t, bucket.size)
        move(self._of_all[k], self._at[t], None, room.ctypes.data, 0)
        return room

    def _land(self, most: int = 0) -> None:
        """Wait for what was sent first, until only so much is on its way."""
        while len(self.flying) > most:
            requests, then = self.flying.pop(0)
            for request in requests:
                request.Wait()
            then()

    def _room(self, what: str, k: int, t: int, size: int) -> Array:
        """Memory for so many elements, kept from step to step."""
        key = what, k % _IN_FLIGHT, t
        room = self._buffers.get(key)
        if room is None or room.size < size:
            room = self._buffers[key] = np.empty(size, self.dtype)
        return room[:size]

    def gather(self) -> None:
        for k in range(len(self._buckets)):
            self._land(_IN_FLIGHT - 1)
            self._gather(k)
        self._land()

    def _gather(self, k: int) -> None:
        """Begin to gather bucket k."""
        rank, bucket = self.rank, self._in_bytes[k]
        if len(bucket.params) == 1:
            whole = self._buckets[k].whole(self._rows).view(np.uint8)
        else:
            room = self._room("params", k, 0, -(-bucket.size // self._item))
            whole = room.view(np.uint8)
            move(self._of_this[k], self._params, None, whole.ctypes.data, 0)
        give = [bucket.counts[rank] * (r != rank) for r in range(self.size)]
        take = [n * (r != rank) for r, n in enumerate(bucket.counts)]
        own = whole, (give, [bucket.starts[rank]] * self.size)
        request = self._comm.Ialltoallv(own, (whole, (take, bucket.starts)))
        then: Callable[[], Any] = bool  # nothing
        if len(bucket.params) > 1:
            then = partial(move, self._of_others[k], None, self._params, whole.ctypes.data, 0)
        self.flying.append(([request], then))


class Near(Exchange):
    """Reads sums and parameters from the memory of the other ranks."""

    _whole: list[Array] | None = None  # the sums of all pieces, for a norm

    @property
    def _longest(self) -> int:
        """The elements of a part."""
        return max(self._bucket // GRAIN * GRAIN, GRAIN)

    def _prepare(self) -> None:
        super()._prepare()
        self._kept, own = segments()
        given = self._comm.allgather((os.getpid(), self._params, own))
        self._seen = [View(process, theirs) for process, _, theirs in given]
        self._each = [
            view.of(params) for view, (_, params, _) in zip(self._seen, given, strict=True)
        ]
        self._owned = [shards.table(pieces, self._bytes, 0) for pieces in self.owned]
        self._told = np.zeros((self._rounds + 1, len(self._rows)), np.intp)
        self._every = np.zeros((self.size, *self._told.shape), np.intp)
        self._parts = shards.parts(self.pieces, self._longest)
        self.ends = [*accumulate(map(len, self._parts))]
        self._sizes = [sum(p.end - p.begin for p in part) for part in self._parts]
        self._space = np.empty(max(self._sizes, default=0), self.dtype)
        self._views = [
            self._space[p.at : p.at + p.end - p.begin] for part in self._parts for p in part
        ]
        self._tables = [shards.table(part, self._items, self._item) for part in self._parts]
        nodes = {node: (r, t) for r, some in enumerate(self._covers) for t, node in enumerate(some)}
        steps = shards.steps(self._root, nodes)
        self._leaves = [nodes[node] for node, _ in steps]
        self._complete = np.array([merged for _, merged in steps], np.intp)
        self._scratch = np.empty((len(steps), _AT_ONCE), np.uint8)

    def finish(self, whole: bool) -> list[Array]:
        for t in range(len(self._covers[self.rank])):
            self._locate(t)
            self._told[t] = self._at[t]
        self._told[-1] = self.given
        self._comm.Allgather(self._told, self._every)  # from here on the others read
        np.any(self._every[:, -1], 0, self.given)
        found = [
            (self._at[t], 0) if r == self.rank else self._seen[r].of(self._every[r, t])
            for r, t in self._leaves
        ]
        self._sources = [places for places, _ in found]
        self._processes = np.array([process for _, process in found], np.intp)
        if not whole:
            return self._views
        if self._whole is None:
            self._shard = np.empty(sum(self._sizes), self.dtype)
            self._whole = self._cut(self._shard)
        for k, end in enumerate(accumulate(self._sizes)):
            self._add_up(k, self._shard[end - self._sizes[k] : end])
        return self._whole

    def arrive(self, k: int) -> None:
        self._add_up(k, self._space)

    def _add_up(self, k: int, out: Array) -> None:
        """The sums of all ranks, of part k."""
        add_up(
            self._tables[k], self._sources, self._processes, self._complete, out.ctypes.data,
            self._item == 8, self._scratch, _AT_ONCE,
        )  # fmt: skip

    def gather(self) -> None:
        self._comm.Barrier()
        for rank, (params, process) in enumerate(self._each):
            if rank != self.rank:
                move(self._owned[rank], params, self._params, 0, process)
        self._comm.Barrier()  # until then the others read


def _reads_others(comm: Any) -> bool:
    """Whether each rank can read the memory of all others."""
    own = np.frombuffer(os.urandom(64), np.intp)
    found, table = np.empty_like(own), np.array([[0, 0, 0, 64]], np.intp)
    works = True
    for process, address, wanted in comm.allgather((os.getpid(), own.ctypes.data, own.tobytes())):
        try:
            if works:
                move(table, np.array([address], np.intp), None, found.ctypes.data, process)
                works = found.tobytes() == wanted
        except OSError:
            works = False
    return all(comm.allgather(works))


def exchange_of(tree: Params, comm: Any, micro: int, bucket: int) -> Exchange:
    """That of one rank, of one machine, or of several."""
    if comm is None or comm.size == 1:
        return Exchange(tree, comm, micro, bucket)
    own = Duplicate(comm)
    far = own.comm.allgather(os.environ.get("PYOPTK_MPI_MESSAGES"))
    near = not any(far) and _reads_others(own.comm)
    exchange = (Near if near else Messages)(tree, own.comm, micro, bucket)
    own.flying = exchange.flying
    exchange.own = own
    return exchange
