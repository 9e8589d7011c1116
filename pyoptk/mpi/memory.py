"""Arrays in memory that the ranks of a machine read directly: `shared`.

A segment is a file in memory, mapped here. Another process opens it by /proc/PID/fd, if it may read
this one's memory. Nothing of this is collective: a segment lives as long as somebody maps it.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._places import LINE
from ..optim.narrow import dtypes_of
from ..params import Arrays, Params

Segment = tuple[int, int, int]  # file descriptor, address, bytes


class _File:
    """A file in memory, closed with this object."""

    def __init__(self) -> None:
        self.number = os.memfd_create("pyoptk")

    def __del__(self) -> None:
        if "number" in vars(self):
            os.close(self.number)


_segments: dict[int, tuple[weakref.ref[mmap.mmap], _File, Segment]] = {}


def shared(arrays: Arrays) -> Any:
    """Copies of arrays, in memory that `Sharded` of other ranks on this machine reaches directly.

    For parameters, and for gradients that stay where they are. Make both before the `Sharded`:
    steps are faster then, and results are the same. Not collective. A call takes two file
    descriptors here and one in each rank of the machine. After `os.fork` a child still writes to
    the same memory. The result is a plain copy elsewhere than on Linux, and where MPI is loaded and
    has one rank: that is faster alone, and right with any ranks.

    Parameters
    ----------
    arrays : array, or sequence or dict of arrays, nested or not
        As an optimizer's `params`.

    Returns
    -------
    array, list or dict
        In the structure of `arrays`.

    Raises
    ------
    TypeError, ValueError
        As from an optimizer.

    Examples
    --------
    >>> import numpy as np
    >>> from pyoptk.mpi import shared
    >>> shared({"w": np.ones(2)})
    {'w': array([1., 1.])}
    """
    tree = Params(arrays, dtypes_of("bfloat16"))
    if _is_alone() or not hasattr(os, "memfd_create"):
        return tree.like([array.copy() for array in tree.arrays])
    sizes = [-(-array.nbytes // LINE) * LINE for array in tree.arrays]
    file, size = _File(), sum(sizes) + mmap.PAGESIZE
    os.ftruncate(file.number, size)
    memory = mmap.mmap(file.number, size)
    weakref.finalize(memory, _segments.pop, file.number, None)
    flat, at, copies = np.frombuffer(memory, np.uint8), 0, []
    _segments[file.number] = weakref.ref(memory), file, (file.number, flat.ctypes.data, size)
    for array, room in zip(tree.arrays, sizes, strict=True):
        copy = flat[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        copies.append(copy)
        at += room
    return tree.like(copies)


def _is_alone() -> bool:
    """Whether nobody else will read; ordinary memory may have large pages."""
    mpi: Any = sys.modules.get("mpi4py.MPI")
    known = mpi and mpi.Is_initialized() and not mpi.Is_finalized()
    return bool(known and mpi.COMM_WORLD.size == 1)


def segments() -> tuple[list[mmap.mmap], list[Segment]]:
    """The memory of this process's segments, which keeps them, and where they are."""
    found = [(memory(), segment) for memory, _, segment in [*_segments.values()]]
    kept = [(memory, segment) for memory, segment in found if memory is not None]
    return [memory for memory, _ in kept], [segment for _, segment in kept]


class View:
    """The segments of another process, as far as this one can map them."""

    def __init__(self, process: int, given: list[Segment]) -> None:
        self._process, self._maps = process, []
        for file, begin, size in given:
            try:
                here = os.open(f"/proc/{process}/fd/{file}", os.O_RDWR)
                try:
                    memory = mmap.mmap(here, size)
                finally:
                    os.close(here)
            except (OSError, ValueError):
                continue
            array = np.frombuffer(memory, np.uint8)
            self._maps.append((begin, begin + size, array.ctypes.data - begin, array))

    def of(self, addresses: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
        """Where that process's arrays are, and in which process: 0 if this one sees all."""
        for begin, end, shift, _ in self._maps:
            if addresses.min(initial=end) >= begin and addresses.max(initial=0) < end:
                return addresses + shift, 0
        return addresses, self._process
