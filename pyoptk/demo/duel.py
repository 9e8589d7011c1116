"""The forecaster's training step against the same step in NumPy, taking turns, one thread each.

NumPy works in a process of its own (this module, run as a script) whose BLAS has one thread: in one
process its idle threads would go on spinning and slow down both, and products as small as these
are no faster with more.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

import pyoptk

from .forecaster import LR, MAX_NORM, Forecaster
from .numpy_step import NumpyForecaster
from .parts import Array

ROUNDS = 7
BLOCK = 0.1  # seconds
BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def time_steps(model: Forecaster, windows: Array, targets: Array) -> tuple[float, float]:
    """Milliseconds of one training step, by pyoptk and in NumPy: medians over the rounds.

    Parameters
    ----------
    model : Forecaster
        Goes on training meanwhile.
    windows, targets : arrays [T, B, 1], [B]
        The batch that both take in each step.
    """
    environment = os.environ | dict.fromkeys(BLAS, "1")
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    threads = pyoptk.get_num_threads()
    pyoptk.set_num_threads(1)
    command = [sys.executable, "-P", "-m", __spec__.name]
    # A session of its own: an interrupt from the keyboard is for us alone.
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            pickle.dump((model.params, windows, targets), other.stdin)
            times = []
            for _ in range(ROUNDS):
                ours = _block(lambda: model.step(windows, targets))
                other.stdin.write(b"\n")
                other.stdin.flush()
                times.append((ours, float(other.stdout.readline())))
        finally:
            other.kill()
            pyoptk.set_num_threads(threads)
    ours, theirs = np.median(times, axis=0)
    return float(ours), float(theirs)


def _block(step: Callable[[], float]) -> float:
    """Milliseconds of `step`, as the mean over a block of time after two calls to warm up."""
    step()
    step()
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + BLOCK:
        step()
        count += 1
    return (time.perf_counter() - start) / count * 1e3


def _answer() -> None:
    """The other process: read the work, then time a block of it for every line that comes."""
    params, windows, targets = pickle.load(sys.stdin.buffer)
    twin = NumpyForecaster(params, lr=LR, max_norm=MAX_NORM)
    while sys.stdin.buffer.readline():
        print(_block(lambda: twin.step(windows, targets)), flush=True)


if __name__ == "__main__":
    _answer()
