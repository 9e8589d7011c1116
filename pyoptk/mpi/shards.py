"""How a model is divided between ranks: the tree of the sum, the buckets, the shard of a rank.

Only numbers; exchange.py sends what they say. All ranks compute the same from the sizes of the
parameters alone. A piece is a part of one parameter, which begins at a multiple of `GRAIN`: there
the kernels' sums of squares begin, too, so a norm has the same bits however a model is divided.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GRAIN = 4096  # elements: NORM_BLOCK of csrc/kernels/norm.h
ALONE = 1 << 16  # elements; to copy more takes longer than to send them alone

Array = NDArray[Any]
Node = tuple[int, int]  # the sum of leaves lo..hi-1
Sums = dict[Node, tuple[Array, bool]]  # and whether the array may be overwritten


class Piece(NamedTuple):
    """Elements begin..end-1 of parameter `param`, at `at` in their bucket."""

    param: int
    begin: int
    end: int
    at: int


class Bucket(NamedTuple):
    """What travels together.

    Attributes
    ----------
    params : list of int
        One, of which this is a part, or several whole ones.
    shards : list of list of Piece
        By rank.
    counts, starts : list of int
        The elements of the shard of each rank, and how many come before.
    """

    params: list[int]
    shards: list[list[Piece]]
    counts: list[int]
    starts: list[int]

    @property
    def size(self) -> int:
        return sum(self.counts)

    def whole(self, rows: Sequence[Any]) -> Array:
        """The elements, which have to be those of a single parameter."""
        pieces = [piece for shard in self.shards for piece in shard]
        found: Array = rows[self.params[0]].reshape(-1)
        return found[pieces[0].begin : pieces[-1].end]


def table(pieces: Iterable[Piece], items: NDArray[np.intp], room: int) -> NDArray[np.intp]:
    """What `_pieces.move` takes: pieces of arrays with elements of so many bytes.

    `room`: the bytes of one in the room.
    """
    given = [(param, begin, at, end - begin) for param, begin, end, at in pieces]
    found = np.array(given, np.intp).reshape(-1, 4)
    found[:, 1] *= items[found[:, 0]]
    found[:, 2] *= room
    found[:, 3] *= items[found[:, 0]]
    return found


def cut(pieces: Iterable[Piece], most: int) -> Iterator[Piece]:
    """The same in pieces of so many elements at most."""
    for param, first, last, at in pieces:
        for begin in range(first, last, most):
            yield Piece(param, begin, min(begin + most, last), at + begin - first)


def parts(pieces: Iterable[Piece], most: int, count: int) -> list[list[Piece]]:
    """Pieces by parts of so many elements and pieces, if none is larger."""
    found: list[list[Piece]] = []
    filled = most
    for piece in pieces:
        size = piece.end - piece.begin
        if filled + size > most or len(found[-1]) == count:
            found.append([])
            filled = 0
        found[-1].append(piece)
        filled += size
    return found


# ---- the tree ------------------------------------------------------------------------------------


def children(node: Node) -> tuple[Node, Node]:
    """The two sums that make up a sum of several leaves: on the left a power of two of them.

    >>> children((0, 8)), children((4, 7))
    (((0, 4), (4, 8)), ((4, 6), (6, 7)))
    """
    lo, hi = node
    middle = lo + (1 << ((hi - lo - 1).bit_length() - 1))
    return (lo, middle), (middle, hi)


def leaves_of(rank: int, ranks: int, micro: int) -> range:
    """The leaves that a rank brings."""
    return range(rank * micro // ranks, (rank + 1) * micro // ranks)


def cover(node: Node, leaves: range) -> list[Node]:
    """The largest sums that consist of these leaves alone.

    >>> cover((0, 8), range(2, 5))
    [(2, 4), (4, 5)]
    """
    lo, hi = node
    if max(lo, leaves.start) >= min(hi, leaves.stop):
        return []
    if leaves.start <= lo and hi <= leaves.stop:
        return [node]
    return [found for child in children(node) for found in cover(child, leaves)]


def merges(node: Node, leaves: range) -> list[int]:
    """After each of these leaves, how many sums of them are complete.

    >>> merges((0, 8), range(0, 4)), merges((0, 8), range(2, 5))
    ([0, 1, 0, 2], [0, 1, 0])
    """
    lo, hi = node
    counts = [0] * len(leaves)
    if hi - lo > 1 and cover(node, leaves):
        for child in children(node):
            counts = [a + b for a, b in zip(counts, merges(child, leaves), strict=True)]
        if leaves.start <= lo and hi <= leaves.stop:
            counts[hi - 1 - leaves.start] += 1
    return counts


def steps(node: Node, found: Container[Node]) -> list[tuple[Node, int]]:
    """Those of `found` that make up `node`, and how many sums are complete after each.

    >>> steps((0, 8), [(0, 2), (2, 4), (4, 8)])
    [((0, 2), 0), ((2, 4), 1), ((4, 8), 1)]
    """
    if node in found:
        return [(node, 0)]
    left, right = (steps(child, found) for child in children(node))
    last, merged = right[-1]
    return [*left, *right[:-1], (last, merged + 1)]


def add_up(node: Node, found: Sums, out: Array | None) -> Array:
    """The sum of `node` from those that are there, in the order of the tree.

    Changes `out`, if it is an array, and those of `found` that may be overwritten.
    """
    if node not in found:
        pair = children(node)
        left, right = (add_up(child, found, None) for child in pair)
        room = left if pair[0] not in found or found[pair[0]][1] else right
        return np.add(left, right, room if out is None else out)
    if out is not None:
        out[...] = found[node][0]
    return found[node][0]


# ---- buckets -------------------------------------------------------------------------------------


def _cut(spans: Sequence[tuple[int, int, int]], ranks: int, number: int) -> Bucket:
    """A bucket of (parameter, begin, end), divided between the ranks as evenly as grains allow.

    What is too much or too little goes to other ranks in every bucket.
    """
    grains = [
        (param, start, min(start + GRAIN, end))
        for param, begin, end in spans
        for start in range(begin, end, GRAIN)
    ]
    at = np.cumsum([0, *(end - begin for _, begin, end in grains)])
    shift = GRAIN * ((number * 0.6180339887498949) % 1)
    cuts = np.searchsorted(at[:-1], at[-1] * np.arange(1, ranks) / ranks - shift)
    edges = [0, *cuts.tolist(), len(grains)]
    shards: list[list[Piece]] = []
    for first, last in itertools.pairwise(edges):
        pieces: list[Piece] = []
        for k in range(first, last):
            param, begin, end = grains[k]
            if pieces and pieces[-1].param == param:
                pieces[-1] = pieces[-1]._replace(end=end)
            else:
                pieces.append(Piece(param, begin, end, int(at[k])))
        shards.append(pieces)
    starts = [int(at[edge]) for edge in edges]
    counts = [after - before for before, after in itertools.pairwise(starts)]
    return Bucket([*dict.fromkeys(span[0] for span in spans)], shards, counts, starts[:-1])


def divide(sizes: Sequence[int], ranks: int, most: int) -> list[Bucket]:
    """Buckets of `most` elements, up to a grain more, the last parameters first.

    A larger parameter has buckets of its own; smaller ones share some.
    """
    spans: list[list[tuple[int, int, int]]] = []
    small: list[tuple[int, int, int]] = []
    filled = 0
    for param, size in enumerate(sizes):
        if size > min(most, ALONE):
            step = -(-size // -(-size // most))
            step = -(-step // GRAIN) * GRAIN
            spans += [[(param, b, min(b + step, size))] for b in range(0, size, step)]
        elif size:
            if filled + size > most:
                spans.append(small)
                small, filled = [], 0
            small.append((param, 0, size))
            filled += size
    spans += [small] if small else []
    spans.sort(key=lambda some: some[0], reverse=True)
    return [_cut(some, ranks, number) for number, some in enumerate(spans)]


def in_bytes(bucket: Bucket, items: NDArray[np.intp]) -> Bucket:
    """The same with places, counts and starts in bytes, of elements of so many by parameter."""
    shards, counts, at = [], [], 0
    for shard in bucket.shards:
        sizes = [int(items[p.param]) * (p.end - p.begin) for p in shard]
        places = [*itertools.accumulate(sizes, initial=at)]
        shards.append([p._replace(at=to) for p, to in zip(shard, places, strict=False)])
        counts.append(places[-1] - at)
        at = places[-1]
    starts = [*itertools.accumulate(counts, initial=0)][:-1]
    return Bucket(bucket.params, shards, counts, starts)


def blocks_of(shards: Sequence[Sequence[Piece]], sizes: Sequence[int]) -> NDArray[np.intp]:
    """The places, in the order of the model, of the sums of squares of all ranks in theirs."""
    before = np.cumsum([0, *(-(-size // GRAIN) for size in sizes)])
    numbers = [
        before[piece.param] + np.arange(piece.begin // GRAIN, -(-piece.end // GRAIN))
        for pieces in shards
        for piece in pieces
    ]
    return np.argsort(np.concatenate([np.zeros(0, np.intp), *numbers]))
