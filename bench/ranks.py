"""What a step on several ranks costs: ``mpiexec -n 2 python -m bench.ranks``, with 1 or 2 ranks.

Beside it, by turns and on all ranks at once: for one rank the plain optimizer; for more, a step of
one rank's share and copies of what a rank sends and gets, (P - 1) / P of the gradients and of the
parameters. Ranks wait by spinning, so figures mean something only on a quiet machine with a core
for each. The least and the median of the rounds are shown.
"""

import statistics
import sys
import time

import numpy as np
from mpi4py import MPI

import pyoptk
from pyoptk.mpi import Sharded

ROWS = {
    "1 x 10,000,000": (1, 10_000_000),
    "4 x 250,000": (4, 250_000),
    "1,000 x 1,000": (1000, 1000),
}
BARS = {1: 1.05, 2: 1.15}
BUCKETS = (1 << 17, 1 << 18, 1 << 20, 1 << 22)


def seconds(comm, works, rounds):
    """Of every work, by turns, until the last rank is done."""
    found = [[] for _ in works]
    for _ in range(rounds):
        for work, times in zip(works, found, strict=True):
            comm.Barrier()
            start = time.perf_counter()
            work()
            comm.Barrier()
            times.append(time.perf_counter() - start)
    return found


def row(comm, count, n, bucket, rounds):
    """Seconds of a sharded step, and of the least that it could take."""
    ranks = comm.size
    params, grads = ([np.ones(n, np.float32) for _ in range(count)] for _ in range(2))
    opt = Sharded(pyoptk.Adam, params, comm, micro=ranks, bucket=bucket)
    shard = params[:1] if ranks > 1 else params
    if ranks > 1:
        shard = [np.ones(count * n // ranks, np.float32)]
    plain = pyoptk.Adam(shard if ranks > 1 else [param.copy() for param in params])
    given = [np.ones_like(param) for param in shard]
    source = np.ones(count * n - count * n // ranks, np.float32)
    target = np.empty_like(source)

    def least():
        plain.step(given)
        for _ in range(2 if ranks > 1 else 0):
            np.copyto(target, source)

    return seconds(comm, [lambda: opt.step(grads), least], rounds)


def main(rounds):
    comm = MPI.COMM_WORLD
    pyoptk.set_num_threads(1)
    for name, (count, n) in ROWS.items():
        for bucket in BUCKETS if comm.size > 1 else BUCKETS[:1]:
            ours, least = row(comm, count, n, bucket, rounds)
            told = [f"{1e3 * f(t):.2f}" for t in (ours, least) for f in (min, statistics.median)]
            ratios = [f"{f(ours) / f(least):.2f}" for f in (min, statistics.median)]
            if comm.rank == 0:
                print(
                    f"{comm.size} ranks, {name}, bucket {bucket:,}: ms {told[0]} (median {told[1]})"
                    f" against {told[2]} ({told[3]}): {ratios[0]} ({ratios[1]}), "
                    f"wanted {BARS.get(comm.size, 'no bar')}",
                    flush=True,
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
