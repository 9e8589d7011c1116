"""What a step on one rank and on two costs: ``python -m bench.ranks`` writes docs/mpi.md's table.

Beside it, by turns and on all ranks at once: for one rank the plain optimizer; for two, a copy of
the gradients that a rank sends, a plain step of arrays like those of the rank's shard, and a copy
of the parameters that it gets, by memcpy, an array at a time, each between arrays of its own that
nothing else touches. Ranks wait by spinning: figures mean something only on a quiet machine, a core
for each, best with ``chrt -f 1``.
``mpiexec -n 2 python -m bench.ranks`` prints the figures of a single number of ranks.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import pyoptk
from pyoptk._pieces import move
from pyoptk.duel import machine
from pyoptk.mpi import Sharded, shared

ROWS = ((1, 10_000_000), (4, 250_000), (1000, 1000))  # arrays, elements of each
BARS = {1: 1.05, 2: 1.15}
ROUNDS = 25
PAGE = Path(__file__).parents[1] / "docs/mpi.md"
BEGIN, END = "<!-- table: python -m bench.ranks -->", "<!-- end of table -->"


def seconds(comm, works):
    """Of every work, by turns, until the last rank is done."""
    found = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, times in zip(works, found, strict=True):
            comm.Barrier()
            start = time.perf_counter()
            work()
            comm.Barrier()
            times.append(time.perf_counter() - start)
    return found


def measure(comm, count, n):
    """Seconds of sharded steps, also with `shared`, and of the least that they could take."""
    ranks = comm.size
    params, grads = ([np.ones(n, np.float32) for _ in range(count)] for _ in range(2))
    opt = Sharded(pyoptk.Adam, params, comm, micro=ranks)
    share = [np.ones(n, np.float32) for _ in range(count)]
    if ranks > 1:
        owned: dict[int, int] = {}
        for param, begin, end, _ in opt._exchange.pieces:
            owned[param] = owned.get(param, 0) + end - begin
        share = [np.ones(size, np.float32) for size in owned.values()]
    plain, given = pyoptk.Adam(share), [np.ones_like(param) for param in share]
    travels = [[np.ones_like(part) for part in share] for _ in range(4)]  # as much as the shard
    at = [np.array([part.ctypes.data for part in parts]) for parts in travels]
    table = np.array([(i, 0, 0, part.nbytes) for i, part in enumerate(share)], np.intp)

    def least():
        if ranks == 1:
            plain.step(given)
            return
        move(table, at[0], at[1], 0)
        plain.step(given)
        move(table, at[2], at[3], 0)

    own, room = shared(params), shared(grads)
    near = Sharded(pyoptk.Adam, own, comm, micro=ranks)
    return [
        seconds(comm, [step, least]) for step in (lambda: opt.step(grads), lambda: near.step(room))
    ]


def table():
    """Rows by ranks and sizes, from the figures of 1 and 2 ranks."""
    heads = ["ranks", "parameters", "step (ms)", "least (ms)", "times", "of the medians"]
    heads += ["`shared` (ms)", "times", "of the medians", "wanted"]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for ranks, bar in BARS.items():
        command = ["mpiexec", "-n", str(ranks), sys.executable, "-m", "bench.ranks"]
        for count, n, *pairs in json.loads(subprocess.check_output(command)):
            cells = [f"{ranks} | {count:,} x {n:,}"]
            for k, (ours, least) in enumerate(pairs):
                ratios = [f(ours) / f(least) for f in (min, statistics.median)]
                times = [min(ours)] if k else [min(ours), min(least)]
                cells += [f"{1e3 * x:.2f}" for x in times]
                cells += [f"{x:.2f}" if x <= bar else f"**{x:.2f}**" for x in ratios]
            yield f"| {' | '.join([*cells, str(bar)])} |"
    told = "{cpu}, {cores} cores, {isa}, {system}, {date}".format(**machine.describe())
    yield f"\n{told}; MPICH, Adam, float32, one thread a rank; the least of {ROUNDS} rounds."
    yield "Bold: above what is wanted."


def main():
    if "PMI_RANK" in os.environ:  # under mpiexec
        from mpi4py import MPI

        pyoptk.set_num_threads(1)
        found = [[*row, *measure(MPI.COMM_WORLD, *row)] for row in ROWS]
        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(found))
        return
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text("\n".join([before + BEGIN, *table(), END + rest.split(END, 1)[1]]))


if __name__ == "__main__":
    main()
