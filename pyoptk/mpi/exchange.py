"""`Exchange`: adds up the gradients of one rank in the order of one tree; norms, checkpoints.

`Sharded` makes one; its docstrings say what a user sees of it. shards.py has the tree and the
shards; transport.py brings what other ranks have. With one rank, mpi4py is not loaded.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _optim
from .._pieces import Pieces
from ..optim.stateful import at_once
from ..params import Params
from . import shards
from .arguments import digests, fixed, label
from .shards import GRAIN, Array


def _root(squares: Array) -> float:
    """The root of their sum, in their order."""
    return math.sqrt(np.add.accumulate(squares)[-1]) if squares.size else 0.0


class Exchange:
    """The sums of a step, and what else all ranks find together. Of one rank; others inherit it.

    Parameters
    ----------
    tree : Params
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
    seen : array of int
        How many leaves of each parameter there are; `begun` says whether there is any.
    dtype : dtype
        Of gradients and sums.
    given : array of bool
        Which parameters have a gradient, on any rank after `finish`.
    levels : list of list of arrays
        Sums of the tree that this rank has: first the leftmost of each parameter, then the next.
    """

    seen: NDArray[np.intp]
    given: NDArray[np.bool_]
    levels: list[list[Any]]
    begun: bool
    broken = agreed = False  # by an exception; by one that all ranks raise
    token: int  # of the settings, and of how many steps were taken
    _settings: Any = None
    _rows: list[Array]
    _at: NDArray[np.intp]  # addresses of `levels`

    def __init__(self, tree: Params, comm: Any, micro: int, bucket: int) -> None:
        self.rank: int = 0 if comm is None else comm.rank
        self.size: int = 1 if comm is None else comm.size
        self._tree, self._comm, self._bucket = tree, comm, bucket
        # What to wait for, then do, and what has to live until then:
        self.flying: list[tuple[list[Any], Callable[[], Any], list[Any]]] = []
        self.located = -1  # which of `levels` `_at` is certainly right for
        self._rows = [array.reshape(-1) for array in tree.arrays]
        self.dtype = np.dtype(np.float32) if any(tree.held.kinds) else self._rows[0].dtype
        leaves = [shards.leaves_of(rank, self.size, micro) for rank in range(self.size)]
        self.mine, self._root = leaves[self.rank], (0, micro)
        self._covers = [shards.cover(self._root, some) for some in leaves]
        self._rounds, self._nodes = max(map(len, self._covers)), sum(map(len, self._covers))
        self._merges = shards.merges(self._root, self.mine)
        self._depths = [0, *accumulate(1 - merged for merged in self._merges)]
        self.levels = [[None] * len(self._rows) for _ in range(max(self._depths))]
        self._rooms = [list(level) for level in self.levels]  # for sums, kept from step to step
        self._at = np.zeros((len(self.levels), len(self._rows)), np.intp)
        self._apart = self._at.copy()
        sizes = [row.size for row in self._rows]
        self._buckets = shards.divide(sizes, self.size, bucket) if self.size > 1 else []
        shards_of = [[p for b in self._buckets for p in b.shards[r]] for r in range(self.size)]
        self.owned = [[*shards.cut(pieces, self._longest)] for pieces in shards_of]
        self.pieces = self.owned[self.rank]
        self._order = shards.blocks_of(self.owned, sizes)  # and how many each rank has
        self._blocks = [sum(-(-(p.end - p.begin) // GRAIN) for p in some) for some in self.owned]
        if self.size > 1:
            arrays = zip(tree.names, tree.arrays, strict=True)
            self.compare(digests(params=[(name, a.shape, a.dtype.name) for name, a in arrays]))
            self._prepare()
        self.begin()

    @property
    def _longest(self) -> int:
        """The elements of a piece, at most."""
        return self._bucket + GRAIN

    def _prepare(self) -> None:
        """For several ranks: what `move` needs to know of the arrays."""
        from mpi4py import MPI

        self._mpi: Any = MPI
        self._item = self.dtype.itemsize
        self._items = np.full(len(self._rows), self._item)  # bytes, of sums
        self._bytes = np.array([row.itemsize for row in self._rows])  # of parameters
        self._params = np.array([row.ctypes.data for row in self._rows])  # addresses
        self._sizes = np.array([row.size for row in self._rows])
        some = np.flatnonzero(self._sizes)
        some = some[np.argsort(self._params[some])]
        self._starts = self._params[some]  # of parameters in memory, in its order
        self._ends = self._starts + (self._sizes * self._bytes)[some]

    def begin(self) -> None:
        """Forget all leaves."""
        at_once(self.beginning())

    def beginning(self) -> list[Callable[[], Any]]:
        """The calls that forget all leaves, all of functions in C."""
        fresh: dict[str, Any] = {"seen": np.zeros(len(self._rows), np.intp), "begun": False}
        fresh["given"] = np.zeros(len(self._rows), np.bool_)
        fresh["levels"] = [[None] * len(self._rows) for _ in self.levels]
        return [partial(vars(self).update, fresh)]

    def agree(self, digests: dict[str, str]) -> None:
        """Raise, on all ranks, unless they have the same; then take the parameters of rank 0."""
        if self.size == 1:
            return
        self.compare(digests)
        for row in self._rows:
            self._comm.Bcast(row.view(np.uint16) if row.itemsize == 2 else row)

    def compare(self, digests: dict[str, str]) -> None:
        """Raise, on all ranks, unless they have the same."""
        every = self._comm.allgather(digests)
        for name in dict.fromkeys(name for one in every for name in one):
            others = [r for r, one in enumerate(every) if one.get(name) != every[0].get(name)]
            if others:
                self.agreed = True
                raise ValueError(
                    f"{name}: expected the same on all ranks, got another on rank "
                    f"{', '.join(map(str, others))} than on rank 0"
                )

    def is_like(self, other: Exchange) -> bool:
        """Whether both are of the same ranks, in the same order."""
        if other is self or self.size == 1 or other.size == 1:
            return self.size == other.size
        found = self._mpi.Comm.Compare(self._comm, other._comm)
        return bool(found in (self._mpi.IDENT, self._mpi.CONGRUENT))

    def note(self, plan: Any) -> None:
        """Note what has to be the same on all ranks in a step; `finish` compares it."""
        if plan.settings is not self._settings:
            self._settings = plan.settings
            self._crc = zlib.crc32(fixed(tuple(self._settings[:3])).encode())
        self._calls, self.token = plan.calls, (self._crc ^ plan.calls) & 0xFFFFFFFF

    def compare_notes(self) -> None:
        """Raise, on all ranks, an error that names what differs; else `note` looks again."""
        hyper, *groups = self._settings[:3]  # and what they come to, which depends on their order
        self.compare(digests(**hyper, groups=groups, calls=self._calls))
        self._settings = None

    # ---- the sum ---------------------------------------------------------------------------------

    def adding(self, i: int, grad: Array) -> tuple[list[Callable[[], Any]], bool]:
        """The calls that add a leaf of parameter i, all of functions in C.

        Also whether `grad` may be changed before `finish`.
        """
        levels, leaf = self.levels, int(self.seen[i])
        depth, complete, last = self._depths[leaf], self._merges[leaf], leaf + 1 == len(self.mine)
        calls: list[Callable[[], Any]] = [partial(self.seen.__setitem__, i, leaf + 1)]
        calls.append(partial(vars(self).__setitem__, "begun", True))
        if complete:
            lefts = [level[i] for level in levels[depth - complete : depth]][::-1]
            pairs = zip(lefts, [grad, *lefts[:-1]], strict=True)
            calls += [partial(np.add, left, right, left) for left, right in pairs]
            over = levels[depth - complete + 1 : depth]
            calls += [partial(level.__setitem__, i, None) for level in over]
        elif last:
            if self.size > 1 and (at := grad.ctypes.data) != self._apart[depth, i]:
                self._at[depth, i] = at
                self._check_apart(depth, slice(i, i + 1))
            calls.append(partial(levels[depth].__setitem__, i, grad))
        else:
            room = self._rooms[depth][i]
            if room is None:
                room = self._rooms[depth][i] = np.empty_like(grad)
            calls.append(partial(room.__setitem__, ..., grad))
            calls.append(partial(levels[depth].__setitem__, i, room))
        return calls, bool(complete) or not last

    def adding_all(self, grads: list[Any], zeroed: bool) -> list[Callable[[], Any]]:
        """The calls that add a last leaf, of all parameters, which needs no addition here.

        Empty if it does, or if the gradients have to be looked at one by one.
        """
        leaf = len(self.mine) - 1
        if leaf < 0 or self._merges[leaf] or not (self.seen == leaf).all():
            return []
        depth = self._depths[leaf]
        if not self._tree.held.addresses(grads, self._at[depth], zeroed):
            return []
        self._check_apart(depth)
        return [
            partial(np.add, self.seen, 1, self.seen),
            partial(vars(self).__setitem__, "begun", True),
            partial(self.levels.__setitem__, depth, grads),
            partial(self.given.fill, True),
            partial(vars(self).__setitem__, "located", depth),
        ]

    # ---- several ranks ---------------------------------------------------------------------------

    def __enter__(self) -> None:
        """Begin what ranks do together, if no exception of one rank has ended that before."""
        self.agreed = False
        self.check_comm("comm: expected a communicator")
        if self.broken:
            raise RuntimeError(
                "Sharded: expected ranks that have all done the same, got an exception before; "
                "make a new one on all ranks, and load a checkpoint"
            )

    def check_comm(self, expected: str) -> None:
        """Raise if the communicator was freed."""
        if self._comm is not None and not self._comm:
            raise RuntimeError(f"{expected}, got one that was freed since")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.broken = kind is not None and not self.agreed

    # What the classes of transport.py do, all ranks at once:
    finish: Any  # (whole): the sums of this rank's pieces, until `begin`; if not whole, then
    near: Pieces | None = None  # brings them part by part, or None if sums are always whole
    gather: Any  # changes the parameters in place to those of the ranks that own them
    settle: Any  # the same after a step with `near`
    own: Any = None  # whose the communicator is

    def send(self) -> None:
        """Send what is complete."""

    def locate(self) -> None:
        """Before `finish`: raise if gradients that were added are not what they were."""

    def _together(self, call: Callable[[], Any], last: Callable[[], bool]) -> None:
        """Call what all ranks call; `last`: whether none of these calls follows before the step."""
        call()

    def _locate(self, t: int, params: Any = slice(None)) -> None:
        """Set `_at`[t] where the sums number t of these parameters are."""
        self._tree.held.addresses(self.levels[t], self._at[t])
        if not self._at[t][params].all():
            raise ValueError("grads: expected the arrays that were added, got another shape")
        self._check_apart(t)

    def _check_apart(self, t: int, some: slice = slice(None)) -> None:
        """Raise if one of these sums number t, an array of the caller, overlaps a parameter."""
        begins, apart, sizes = self._at[t, some], self._apart[t, some], self._sizes[some]
        if (begins == apart).all():
            return  # they are where they were
        last = np.searchsorted(self._starts, begins + sizes * self._item) - 1
        found = np.flatnonzero((begins > 0) & (sizes > 0) & (last >= 0))  # `last` begins before it
        found = found[self._ends[last[found]] > begins[found]]
        if found.size:
            i = (some.start or 0) + int(found[0])
            raise ValueError(
                f"{label(self._tree, i)}: expected memory of its own, got an array that overlaps "
                "a parameter"
            )
        np.copyto(apart, begins, where=begins > 0)

    def _cut(self, pieces: Array) -> list[Array]:
        """Each piece of this rank in an array of all."""
        ends = accumulate([0, *(piece.end - piece.begin for piece in self.pieces)])
        return [pieces[begin:end] for begin, end in itertools.pairwise(ends)]

    # ---- norms and checkpoints -------------------------------------------------------------------

    def norm(self, sums: list[Array]) -> tuple[float, list[float]]:
        """The global norm of sums that `finish` gave, and the norm of each parameter.

        The bits are those of the kernel that sees the whole model.
        """
        norm, squares = _optim.squares_of({str(k): one for k, one in enumerate(sums)})
        scaled = 0  # by this power of two, where squares of float64 are no normal numbers
        if _root(squares) != norm and not math.isnan(norm):
            scaled = -1080 if norm > 1 else 1080
        every = self._all(np.ldexp(squares, -scaled), self._fits)
        total, wanted = _root(every), 0
        if not self._fits(every):
            wanted = -1080 if total > 1 else 1080
            every = self._all(np.ldexp(squares, wanted - scaled), lambda _: True)
            total = _root(every) / math.ldexp(1.0, wanted // 2)
        edges = accumulate([0, *(-(-row.size // GRAIN) for row in self._rows)])
        return total, [_root(every[a:b]) for a, b in itertools.pairwise(edges)]

    def _fits(self, every: Array) -> bool:
        """Whether the norm is that of these squares, and not of others, scaled."""
        return self.dtype != np.float64 or bool(1e-140 < _root(every) < math.inf)

    def _all(self, squares: Array, last: Callable[[Array], bool]) -> Array:
        """Those of all ranks, in the order of the model; `last`: whether no others are wanted."""
        every = np.empty(self._order.size)
        call = partial(self._comm.Allgatherv, squares, [every, (self._blocks, None)])
        self._together(call, lambda: last(every[self._order]))
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
