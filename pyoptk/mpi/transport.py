"""How sums and parameters come from other ranks: `Messages` and, on one machine, `Near`.

Between machines, buckets travel as soon as their gradients are there. Processes of one machine read
and write each other's memory, if the system lets them: nothing travels before `finish`; then each
takes what it needs from where it is, one part of its pieces after the other, adds it up, steps it,
and writes it to the parameters of the others, while it is in the cache. They wait for each other
twice, until all gradients are there and until all parts are written. What lies in memory.py's
segments is read and written where it is; what else other ranks have is copied by the system.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from .._pieces import AT_ONCE, PART, Pieces, move, reach
from ..optim.stateful import at_once
from ..params import Params
from . import shards
from .duplicates import Duplicate
from .exchange import Exchange
from .memory import View, segments
from .shards import GRAIN, Array, Sums

_IN_FLIGHT = 2  # buckets


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
        super().begin()
        self._next = 0

    def finish(self, whole: bool) -> list[Array]:
        self.send()
        self._land()
        n, token = self.given.size, np.array([self.token, ~self.token])
        bits = np.unpackbits(token.view(np.uint8)).view(np.bool_)
        told = np.concatenate([self.given, bits])
        self._comm.Allreduce(self._mpi.IN_PLACE, told, self._mpi.LOR)
        self.given[:] = told[:n]
        if np.logical_and(*told[n:].reshape(2, -1)).any():  # a bit is set, and on another rank not
            self.compare_notes()
        return self._views

    def send(self) -> None:
        """Send the buckets that are complete, in the same order on all ranks."""
        with self:
            while self._next < len(self._buckets):
                k = self._next
                if self.seen[self._buckets[k].params].min() < len(self.mine):
                    break
                self.agreed = True  # nothing of this bucket was sent yet
                for t in range(len(self._covers[self.rank])):
                    self._locate(t, self._buckets[k].params)
                self.agreed = False
                self._land(_IN_FLIGHT - 1)
                self._send(k, self._shard[self._begins[k] : self._begins[k + 1]])

    locate = send

    def _send(self, k: int, shard: Array) -> None:
        """Begin to send bucket k, whose sums will be in `shard`."""
        found: Sums = {}
        messages = [self._sums(k, t, found, shard) for t in range(self._rounds)]
        self._begin(messages, partial(shards.add_up, self._root, found, shard))
        self._next = k + 1

    def _begin(self, messages: list[Any], then: Callable[[], Any]) -> None:
        """Begin to send, which keeps the buffers until they have landed, whatever is raised."""
        requests: list[Any] = []
        self.flying.append((requests, then, messages))
        # One call of a function in C: no exception arrives between a message and its request.
        requests.extend(itertools.starmap(self._comm.Ialltoallv, messages))

    def _sums(self, k: int, t: int, found: Sums, shard: Array) -> tuple[Any, Any]:
        """The message with sum t of each rank; `found` says where this rank's part of it will be.

        What comes from a single rank comes to its place.
        """
        rank, bucket = self.rank, self._buckets[k]
        counts, senders = bucket.counts, [len(nodes) > t for nodes in self._covers]
        out = self._shard[:0]
        if senders[rank]:
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
        return (out, (give, bucket.starts)), (room, (take, at[:-1]))

    def _joined(self, k: int, t: int) -> Array:
        """The elements of bucket k of sum t side by side: where they are, if they are so there."""
        bucket = self._buckets[k]
        if len(bucket.params) == 1:
            return bucket.whole(self.levels[t])
        room = self._room("sums", k, t, bucket.size)
        move(self._of_all[k], self._at[t], None, room.ctypes.data)
        return room

    def _land(self, most: int = 0) -> None:
        """Wait for what was sent first, until only so much is on its way."""
        while len(self.flying) > most:
            for request in self.flying[0][0]:
                request.Wait()
            self.flying.pop(0)[1]()

    def _room(self, what: str, k: int, t: int, size: int) -> Array:
        """Memory for so many elements, kept from step to step."""
        key = what, k % _IN_FLIGHT, t
        room = self._buffers.get(key)
        if room is None or room.size < size:
            room = self._buffers[key] = np.empty(size, self.dtype)
        return room[:size]

    def settle(self) -> None:
        self.gather()

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
            move(self._of_this[k], self._params, None, whole.ctypes.data)
        give = [bucket.counts[rank] * (r != rank) for r in range(self.size)]
        take = [n * (r != rank) for r, n in enumerate(bucket.counts)]
        own = whole, (give, [bucket.starts[rank]] * self.size)
        then: Callable[[], Any] = bool  # nothing
        if len(bucket.params) > 1:
            then = partial(move, self._of_others[k], None, self._params, whole.ctypes.data)
        self._begin([(own, (whole, (take, bucket.starts)))], then)


class Near(Exchange):
    """Reads gradients from the memory of the other ranks, and writes parameters there."""

    _whole: list[Array] | None = None  # the sums of all pieces, for a norm
    _opened: Callable[[], bool] = bool  # whether others write here; `bool` says no
    _placed = False  # whether `_places` are those of `_told`
    near: Pieces

    @property
    def _longest(self) -> int:
        """The elements of a part, at most."""
        return min(self._bucket // GRAIN * GRAIN, PART // self.dtype.itemsize)

    def _prepare(self) -> None:
        super()._prepare()
        self._kept, own = segments()
        given = self._comm.allgather((os.getpid(), self._params, own))
        self._seen = [View(process, theirs) for process, _, theirs in given]
        self._seen[self.rank] = View(0, [])
        others = [r for r in range(self.size) if r != self.rank]
        found = [self._seen[r].of(given[r][1]) for r in others]
        nodes = {node: (r, t) for r, some in enumerate(self._covers) for t, node in enumerate(some)}
        steps = shards.steps(self._root, nodes)
        self._leaves = [nodes[node] for node, _ in steps]
        self._writers = np.array([process for _, process in found], np.intp)
        self._processes = np.zeros(len(steps), np.intp)
        self._places = np.zeros((len(steps), len(self._rows)), np.intp)
        sizes = [piece.end - piece.begin for piece in self.pieces]
        items = [self._bytes[piece.param] for piece in self.pieces]
        ends = accumulate(map(len, shards.parts(self.pieces, self._longest, AT_ONCE)))
        begins = [(piece.param, piece.begin) for piece in self.pieces]
        starts = [*accumulate([0, *sizes])][:-1]
        rows = zip(begins, sizes, items, starts, strict=True)
        self.near = Pieces(
            np.array([(*begin, *rest) for begin, *rest in rows], np.intp).reshape(-1, 5),
            np.array([*ends], np.intp),
            np.array([merged for _, merged in steps], np.intp),
            self._processes,
            self._places,
            self._params,
            self._writers,
            np.array([places for places, _ in found], np.intp),
            self._item,
        )
        self._told = np.zeros((self._rounds + 1, len(self._rows)), np.intp)
        self._every = np.zeros((self.size, *self._told.shape), np.intp)
        self._news, self._new = np.zeros(self.size, np.int64), np.zeros(1, np.int64)
        space = np.empty(self._longest, self.dtype)
        self._views = [space[:size] for size in sizes]  # `near` brings others

    def begin(self) -> None:
        self.settle()  # after an error
        super().begin()

    def _together(self, call: Callable[[], Any], last: Callable[[], bool]) -> None:
        """Call what all ranks call; if it was the last such call, others write here from then on.

        No exception arrives between, and none waits for ranks that wait for this one.
        """
        noted = [partial(vars(self).__setitem__, "_opened", some) for some in (bool, last)]
        at_once([noted[0], call, noted[1]])

    def locate(self) -> None:
        for t in range(len(self._covers[self.rank])):
            if t != self.located:
                self._locate(t)

    def finish(self, whole: bool) -> list[Array]:
        many = len(self._covers[self.rank])
        known = (self._told[:many] == self._at[:many]).all() and (not many or self.given.all())
        self._new[0] = 2 * self.token + (not (known and self._placed))
        exchanged = partial(self._comm.Allgather, self._new, self._news)
        self._together(exchanged, lambda: not (whole or np.any(self._news != 2 * self.token)))
        if (self._news == 2 * self.token).all():
            self.given.fill(True)
        else:
            if (self._news // 2 != self.token).any():
                self.compare_notes()
            self._look(whole)
        self.near.forget()
        if not whole:
            return self._views
        if self._whole is None:
            self._shard = np.empty(sum(view.size for view in self._views), self.dtype)
            self._whole = self._cut(self._shard)
        self.near.add_up(self._shard.ctypes.data)
        return self._whole

    def _look(self, whole: bool) -> None:
        """Find out where the gradients of all ranks are, if not where they were."""
        many, self._placed = len(self._covers[self.rank]), False
        self._told[:many], self._told[-1] = self._at[:many], self.given
        exchanged = partial(self._comm.Allgather, self._told, self._every)
        self._together(exchanged, lambda: not whole)
        np.any(self._every[:, -1], 0, self.given)
        for k, (r, t) in enumerate(self._leaves):
            self._places[k], self._processes[k] = self._seen[r].of(self._every[r, t])
        self._placed = True

    def settle(self) -> None:
        if self._opened():
            self._together(self._comm.Barrier, bool)

    def gather(self) -> None:
        at_once([self._comm.Barrier, self.near.push, self._comm.Barrier])


def _reaches_others(comm: Any) -> bool:
    """Whether each rank can read and write the memory of all others.

    A rank elsewhere may have the number of a process here, to which nothing is written.
    """
    own, echo = np.frombuffer(os.urandom(64), np.intp), np.zeros((comm.size, 8), np.intp)
    found, at, works = np.empty_like(own), comm.rank * own.nbytes, True
    given = os.getpid(), own.ctypes.data, echo.ctypes.data, own.tobytes()
    for process, told, to, wanted in comm.allgather(given):
        works = works and reach(process, False, found.ctypes.data, told, own.nbytes)
        works = works and found.tobytes() == wanted
        works = works and reach(process, True, found.ctypes.data, to + at, own.nbytes)
    every = comm.allgather(works)  # and all have written
    return all(comm.allgather(all(every) and bool((echo == own).all())))


def exchange_of(tree: Params, comm: Any, micro: int, bucket: int) -> Exchange:
    """That of one rank, of one machine, or of several."""
    if comm is None or comm.size == 1:
        return Exchange(tree, comm, micro, bucket)
    own = Duplicate(comm)
    far = own.comm.allgather(os.environ.get("PYOPTK_MPI_MESSAGES"))
    near = not any(far) and _reaches_others(own.comm)
    exchange = (Near if near else Messages)(tree, own.comm, micro, bucket)
    own.flying = exchange.flying
    exchange.own = own
    return exchange
