"""How long a step takes right after the NumPy product that made its gradient.

For scaling.py. The product puts arrays out of the caches, as far as it has rows to go through, and
threads of NumPy's BLAS look out for the next one for a while on cores that the step could use.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import pyoptk
from pyoptk import _optim
from pyoptk.bench.contenders.roof import arrays

SIDE = 1_000  # of the weight [outputs, inputs] of a layer
BATCHES = (32, 128, 512, 1_000)
QUIET = 0.3  # seconds after which no thread of a BLAS looks out for work any more


def measure(counts: list[int], rounds: int = 40) -> list[dict[str, Any]]:
    """Seconds of Adam's step over a million elements, alone and after a product.

    And of its roof, the same streams with additions only, from the same gradient.

    Returns
    -------
    list of dict
        For each number of threads and each number of rows in the batch: `threads`, `batch`, and for
        `step` and `roof` the median seconds `alone` and `after`.
    """
    rng = np.random.default_rng(0)
    weight, gradient = rng.standard_normal((2, SIDE, SIDE), np.float32)
    step = functools.partial(pyoptk.Adam(weight).step, gradient)
    param, _, *states = arrays(SIDE * SIDE)
    streams = functools.partial(_optim.memory_roof, param, gradient.reshape(-1), *states)
    works = {"step": step, "roof": streams}
    found = []
    for k in counts:
        pyoptk.set_num_threads(k)
        alone = {name: seconds(work, lambda: None, rounds) for name, work in works.items()}
        for batch in BATCHES:
            x, dy = rng.standard_normal((2, batch, SIDE), np.float32)
            product = functools.partial(np.matmul, dy.T, x, out=gradient)
            found.append(
                {
                    "threads": k,
                    "batch": batch,
                    **{
                        name: {"alone": alone[name], "after": seconds(work, product, rounds)}
                        for name, work in works.items()
                    },
                }
            )
    return found


def seconds(work: Callable[[], Any], before: Callable[[], Any], rounds: int) -> float:
    """The median of some calls of `work`, each right after one of `before`."""
    times = []
    time.sleep(QUIET)
    for _ in range(rounds):
        work()
    for _ in range(rounds):
        before()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
