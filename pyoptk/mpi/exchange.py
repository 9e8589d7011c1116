"""`Exchange`: adds up gradients in the order of one tree, on one rank or several; sends, gathers.

`Sharded` makes one; its docstrings say what a user sees of it. shards.py has the tree and the
shards. All arrays here have one dimension. With one rank nothing is sent, and mpi4py is not loaded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from .. import _optim
from ..optim.stateful import at_once
from . import shards
from .shards import GRAIN, Array, Bucket, Sums

_IN_FLIGHT = 2  # buckets


def _root(squares: Array) -> float:
    """The root of their sum, in their order."""
    return math.sqrt(np.add.accumulate(squares)[-1]) if squares.size else 0.0


class Exchange:
    """The sums of a step and what travels for them.

    Parameters
    ----------
    rows : list of arrays
        The parameters.
    comm : mpi4py.MPI.Comm or None
    micro, bucket : int
        As for `Sharded`.

    Attributes
    ----------
    mine : range
        The leaves of this rank.
    owned : list of list of Piece
        By rank.
    pieces : list of Piece
        Those of this rank.
    seen : list of int
        How many leaves of each parameter there are; `begun` says whether there is any.
    given : list of bool
        Which parameters have a gradient, on any rank after `finish`.
    sums : list of list of arrays
        For each parameter those of the tree that this rank has.
    """

    seen: list[int]
    given: list[bool]
    begun: bool
    _next: int  # bucket to be sent

    def __init__(self, rows: list[Array], comm: Any, micro: int, bucket: int) -> None:
        self.rank: int = 0 if comm is None else comm.rank
        self.size: int = 1 if comm is None else comm.size
        self._rows, self._comm = rows, comm
        if self.size > 1:
            from mpi4py import MPI

            self._mpi: Any = MPI
        leaves = [shards.leaves_of(rank, self.size, micro) for rank in range(self.size)]
        self.mine, self._root = leaves[self.rank], (0, micro)
        self._covers = [shards.cover(self._root, some) for some in leaves]
        self._rounds = max(map(len, self._covers))
        self._merges = shards.merges(self._root, self.mine)
        sizes = [row.size for row in rows]
        self._buckets = shards.divide(sizes, self.size, bucket) if self.size > 1 else []
        self.owned = [[p for b in self._buckets for p in b.shards[r]] for r in range(self.size)]
        self.pieces = self.owned[self.rank]
        self._order = shards.blocks_of(self.owned, sizes)  # and how many each rank has
        self._blocks = [sum(-(-(p.end - p.begin) // GRAIN) for p in some) for some in self.owned]
        self._begins = [0, *accumulate(b.counts[self.rank] for b in self._buckets)]
        self._shard = np.empty(self._begins[-1], rows[0].dtype)
        ends = accumulate([0, *(piece.end - piece.begin for piece in self.pieces)])
        self._views = [self._shard[begin:end] for begin, end in itertools.pairwise(ends)]
        self.sums: list[list[Array]] = [[] for _ in rows]
        self._rooms: list[list[Array]] = [[] for _ in rows]  # for them, kept from step to step
        self._buffers: dict[tuple[str, int, int], Array] = {}
        self._flying: list[tuple[list[Any], Callable[[], Any]]] = []  # what to wait for, then do
        self.begin()

    def begin(self) -> None:
        """Forget all leaves."""
        self._land()  # after an error
        at_once(self.beginning())

    def beginning(self) -> list[Callable[[], Any]]:
        """The calls that forget all leaves, all of functions in C."""
        fresh: dict[str, Any] = {"seen": [0] * len(self._rows), "begun": False}
        fresh["given"] = [False] * len(self._rows)
        fresh["_next"] = len(self._buckets) - 1
        return [partial(vars(self).update, fresh), *(sums.clear for sums in self.sums)]

    def agree(self, digests: dict[str, str]) -> None:
        """Raise, on all ranks, unless they have the same; then take the parameters of rank 0."""
        if self.size == 1:
            return
        every = self._comm.allgather(digests)
        for name in dict.fromkeys(name for one in every for name in one):
            others = [r for r, one in enumerate(every) if one.get(name) != every[0].get(name)]
            if others:
                raise ValueError(
                    f"{name}: expected the same on all ranks, got another on rank "
                    f"{', '.join(map(str, others))} than on rank 0"
                )
        for row in self._rows:
            self._comm.Bcast(row)

    # ---- the sum ---------------------------------------------------------------------------------

    def adding(self, i: int, row: Array) -> tuple[list[Callable[[], Any]], bool]:
        """The calls that add a leaf of parameter i, all of functions in C.

        Also whether `row` may be changed before `finish`.
        """
        stack, rooms, leaf = self.sums[i], self._rooms[i], self.seen[i]
        calls: list[Callable[[], Any]] = [partial(self.seen.__setitem__, i, leaf + 1)]
        calls.append(partial(vars(self).__setitem__, "begun", True))
        complete, last = self._merges[leaf], leaf + 1 == len(self.mine)
        if complete:
            lefts = stack[::-1][:complete]
            pairs = zip(lefts, [row, *lefts[:-1]], strict=True)
            calls += [partial(np.add, left, right, left) for left, right in pairs]
            calls.append(partial(stack.__delitem__, slice(len(stack) - complete + 1, None)))
        elif last:
            calls.append(partial(stack.append, row))
        else:
            if len(stack) == len(rooms):
                rooms.append(np.empty_like(row))
            room = rooms[len(stack)]
            calls += [partial(room.__setitem__, ..., row), partial(stack.append, room)]
        return calls, bool(complete) or not last

    def send(self) -> None:
        """Send the buckets that are complete, in the same order on all ranks."""
        while self._next >= 0:
            bucket, slot = self._buckets[self._next], self._next % _IN_FLIGHT
            if min(map(self.seen.__getitem__, bucket.params)) < len(self.mine):
                break
            self._land(_IN_FLIGHT - 1)
            begin, end = self._begins[self._next : self._next + 2]
            found: Sums = {}
            shard = self._shard[begin:end]
            requests = [self._send_sums(bucket, slot, t, found, shard) for t in range(self._rounds)]
            then = partial(shards.add_up, self._root, found, shard)
            self._flying.append((requests, then))
            self._next -= 1

    def _send_sums(self, bucket: Bucket, slot: int, t: int, found: Sums, shard: Array) -> Any:
        """Begin to send sum t of each rank; `found` says where this rank's part of it will be.

        What comes from a single rank comes to its place.
        """
        rank, counts = self.rank, bucket.counts
        senders = [len(nodes) > t for nodes in self._covers]
        out = self._shard[:0]
        if senders[rank]:
            sums = [some[t] if some else out for some in self.sums]
            out = bucket.joined(sums, self._room("out", slot, t, bucket.size))
            found[self._covers[rank][t]] = out[bucket.starts[rank] :][: counts[rank]], False
        give = [n * (senders[rank] and r != rank) for r, n in enumerate(counts)]
        take = [counts[rank] * (sends and r != rank) for r, sends in enumerate(senders)]
        at = [0, *accumulate(take)]
        alone = self.size == 2 and self._rounds == 1
        room = shard[: at[-1]] if alone else self._room("in", slot, t, at[-1])
        for r, nodes in enumerate(self._covers):
            if senders[r] and r != rank:
                found[nodes[t]] = room[at[r] : at[r + 1]], True
        return self._comm.Ialltoallv((out, (give, bucket.starts)), (room, (take, at[:-1])))

    def _land(self, most: int = 0) -> None:
        """Wait for what was sent first, until only so much is on its way."""
        while len(self._flying) > most:
            requests, then = self._flying.pop(0)
            for request in requests:
                request.Wait()
            then()

    def _room(self, what: str, slot: int, t: int, size: int) -> Array:
        """Memory for so many elements, kept from step to step."""
        room = self._buffers.get((what, slot, t))
        if room is None or room.size < size:
            room = self._buffers[what, slot, t] = np.empty(size, self._shard.dtype)
        return room[:size]

    def finish(self) -> list[Array]:
        """The sums of the pieces of this rank, until `begin`.

        Collective, like all that follows, which is for several ranks.
        """
        self.send()
        self._land()
        given = np.array(self.given)
        self._comm.Allreduce(self._mpi.IN_PLACE, given, self._mpi.LOR)
        self.given = given.tolist()
        return self._views

    # ---- parameters and norms --------------------------------------------------------------------

    def gather(self) -> None:
        """Change the parameters in place to those of the ranks that own them."""
        rank = self.rank
        for number, bucket in enumerate(self._buckets):
            self._land(_IN_FLIGHT - 1)
            room = self._room("out", number % _IN_FLIGHT, 0, bucket.size)
            whole = bucket.joined(self._rows, room, rank)
            give = [bucket.counts[rank] * (r != rank) for r in range(self.size)]
            take = [n * (r != rank) for r, n in enumerate(bucket.counts)]
            own = whole, (give, [bucket.starts[rank]] * self.size)
            request = self._comm.Ialltoallv(own, (whole, (take, bucket.starts)))
            self._flying.append(([request], partial(bucket.part, whole, self._rows, rank)))
        self._land()

    def norm(self, sums: list[Array]) -> tuple[float, list[float]]:
        """The global norm of sums that `finish` gave, and the norm of each parameter.

        The bits are those of the kernel that sees the whole model.
        """
        norm, squares = _optim.squares_of({str(k): one for k, one in enumerate(sums)})
        scaled = 0  # by this power of two, where squares of float64 are no normal numbers
        if _root(squares) != norm and not math.isnan(norm):
            scaled = -1080 if norm > 1 else 1080
        every = self._all(np.ldexp(squares, -scaled))
        total, wanted = _root(every), 0
        if self._rows[0].dtype == np.float64 and not (1e-140 < total < math.inf):
            wanted = -1080 if total > 1 else 1080
            every = self._all(np.ldexp(squares, wanted - scaled))
            total = _root(every) / math.ldexp(1.0, wanted // 2)
        edges = accumulate([0, *(-(-row.size // GRAIN) for row in self._rows)])
        return total, [_root(every[a:b]) for a, b in itertools.pairwise(edges)]

    def _all(self, squares: Array) -> Array:
        """Those of all ranks, in the order of the model."""
        every = np.empty(self._order.size)
        self._comm.Allgatherv(squares, [every, (self._blocks, None)])
        return every[self._order]

    def from_first(self, value: Any) -> Any:
        """What rank 0 has."""
        return self._comm.bcast(value)

    def whole(self, i: int, states: list[Array], most: int) -> Iterator[Array]:
        """On rank 0 the bytes of a state of parameter i, at most `most` at a time.

        `states` are those of the pieces of this rank. Other ranks get nothing.
        """
        places = [
            (piece.begin, r, k)
            for r, pieces in enumerate(self.owned)
            for k, piece in enumerate(pieces)
            if piece.param == i
        ]
        for _, owner, k in sorted(places):
            row = np.empty(0, np.uint8)
            if owner == self.rank:
                row = states[k].reshape(-1).view(np.uint8)
            size = self._comm.bcast(row.size, owner)
            for at in range(0, size, most):
                part = row[at : at + most]
                if self.rank == 0 != owner:
                    part = np.empty(min(most, size - at), np.uint8)
                    self._comm.Recv(part, owner)
                elif self.rank == owner != 0:
                    self._comm.Send(part, 0)
                if self.rank == 0:
                    yield part
