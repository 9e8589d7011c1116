"""`demo --mpi`: the forecaster, trained on several ranks with the same weights for any number."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import pyoptk
from pyoptk import Adam

from ..mpi import Sharded
from .forecaster import LR, MAX_NORM, Forecaster
from .parts import Array, DemoError

MICRO = 4  # micro-batches of a step; more ranks than that only help to step
WAIT = 1.0  # seconds, for other ranks with an error


def world(threads: int | None) -> Any:
    """All ranks; each gets its share of this machine's cores, unless `threads` says otherwise."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise DemoError(f"argument --mpi: needs mpi4py and mpich from pip ({error})") from error
    if threads is None:
        here = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
        pyoptk.set_num_threads(max(1, pyoptk.get_num_threads() // here.size))
    return MPI.COMM_WORLD.Dup()


def says(comm: Any) -> bool:
    """Whether this rank is to print its error: rank 0 if all have one, else those that have.

    In the latter case all ranks end when this one does.
    """
    from mpi4py import MPI

    every, until = MPI.COMM_WORLD.Ibarrier(), time.monotonic() + WAIT
    while not every.Test():
        if time.monotonic() > until:
            end_all(2)
            return True
        time.sleep(WAIT / 100)
    return bool(comm.rank == 0)


def end_all(status: int) -> None:
    """Let all ranks end with this one."""
    from mpi4py import run

    run.set_abort_status(status)


class ParallelForecaster(Forecaster):
    """As `Forecaster`; every rank calls `step` with the same batch and takes its share of it."""

    def __init__(self, rng: np.random.Generator, cell: str, comm: Any) -> None:
        super().__init__(rng, cell)
        self._comm = comm
        self.optimizer = Sharded(
            Adam, self.model.params, comm, micro=MICRO, reduction="sum", lr=LR, max_norm=MAX_NORM
        )

    def step(self, windows: Array, targets: Array) -> float:
        """One training step on windows [T, B, 1] and targets [B]; the loss before it."""
        shares = np.array_split(np.arange(targets.size), MICRO)
        losses = np.zeros(MICRO)
        for k in self.optimizer.mine:
            part = np.ascontiguousarray(windows[:, shares[k]])
            losses[k] = self.gradients(part, targets[shares[k]], shares[k].size / targets.size)
            self.optimizer.add(self.model.grads)
        self.optimizer.step()
        every = self._comm.allgather(losses)
        return float(np.sum(every))
