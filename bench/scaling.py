"""Time per step as a function of bytes, FLOPs, cores and bandwidth: measured, fitted, predicted.

    python bench/scaling.py --json FILE          needs NumPy and pyoptk, nothing else

Every case is measured on 1, 2, 4, ... threads, all by turns in one process; the least of the rounds
counts, because the model is of a quiet machine. It is a sum of terms whose coefficients are at
least 0 and fitted to the relative errors of the runs on one and two threads alone. So it is checked
twice: each case against a fit without that case, and more threads, where the machine has them,
against what one and two foretold.

An optimizer step on k threads takes

    call + wake * log2(k) + bytes / (k * bandwidth of the level that they come from)
                          + bytes from memory * (k - 1) / k * contention

and an LSTM's forward and backward

    products at the peak of the cores + call + wake * log2(k) + recurrence * excess / r
         + other products * excess / k + cells / r + weights / k + T * log2(r) * barrier

where r is the number of threads that the recurrence is cut for (`rnn_cut` in csrc/kernels/rnn.h):
by rows of the batch without barriers, or by hidden units with one for every step. The excess is
what the products take beyond the peak. Of arrays larger than the L3 cache, as much comes from there
as fits into it, the rest from memory. More cores than are here are assumed to be like these, eight
to an L3 cache as large as this one.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pyoptk
from pyoptk import _optim, _products, kernels
from pyoptk.bench import after_product, rows
from pyoptk.bench import machine as this_machine
from pyoptk.bench.contenders.roof import arrays

SIZES = (16, 1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
LSTM = [*rows.LSTM, (20, 64, 128, 128), (20, 256, 64, 256), (20, 8, 128, 512)]
FORETOLD = (8, 16, 64)
MIB = 1 << 20
AT_PEAK = "products at the peak"  # the one term that is not fitted


# ---- the machine ---------------------------------------------------------------------------------


@dataclass
class Machine:
    """What the model needs to know: caches, and the multiply-adds of k cores together."""

    cores: int
    l2: int  # bytes of a core
    l3: int  # bytes
    l3_cores: int  # that share them
    peak: dict[int, float]  # FLOP/s by threads

    def levels(self, working_set: int, k: int) -> dict[str, float]:
        """Where the arrays stay from one step to the next: the share of each level."""
        if working_set / k <= self.l2:
            return {"L2": 1.0}
        kept = min(1.0, self.l3 * math.ceil(k / max(8, self.l3_cores)) / working_set)
        return {"L3": kept, "memory": 1 - kept}

    def peak_of_a_core(self, k: int) -> float:
        """FLOP/s of each of k cores; of the most that were measured, if k is more."""
        known = max(n for n in self.peak if n <= k)
        return self.peak[known] / known


def cache(index: str) -> tuple[int, int]:
    """Bytes of a cache, and how many cores share it, as Linux tells; a guess elsewhere."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache") / index
    try:
        size = (folder / "size").read_text().strip()
        sharing = (folder / "shared_cpu_list").read_text().strip()
    except OSError:
        return (MIB, 1) if index == "index2" else (32 * MIB, 8)
    cores = sum(  # "0-7,16-23"
        int(last or first) - int(first) + 1
        for first, _, last in (part.partition("-") for part in sharing.split(","))
    )
    return int(size.removesuffix("K")) * 1024, cores


def fma_seconds(rounds: int, k: int) -> float:
    """Seconds of multiply-adds in registers on k threads at once."""
    others = [
        threading.Thread(target=_products.fma_roof, args=("float32", rounds)) for _ in range(k - 1)
    ]
    start = time.perf_counter()
    for other in others:
        other.start()
    _products.fma_roof("float32", rounds)
    for other in others:
        other.join()
    return time.perf_counter() - start


def measure_machine(counts: list[int], rounds: int = 1_000_000) -> Machine:
    flop = _products.fma_roof("float32", 1) * rounds
    peak = {k: k * flop / min(fma_seconds(rounds, k) for _ in range(5)) for k in counts}
    (l2, _), (l3, l3_cores) = cache("index2"), cache("index3")
    return Machine(max(counts), l2, l3, l3_cores, peak)


def least(work: Callable[[], Any], rounds: int = 7) -> float:
    """Seconds of a call: the least of some blocks."""
    return min(median_of_block(work, 0.02) for _ in range(rounds))


def limits(machine: Machine) -> dict[str, Any]:
    """What one core may reach besides multiply-adds.

    Bytes per second where four arrays fill half of a cache, or many times the last one, in the
    streams of Adam; and what the functions in the cells of an LSTM take: three times sigmoid and
    twice tanh, and tanh again in backward.
    """
    pyoptk.set_num_threads(1)
    rate = {}
    for level, size in (("L2", machine.l2), ("L3", machine.l3), ("memory", 8 * machine.l3)):
        n = size // 32
        rate[level] = 28 * n / least(functools.partial(_optim.memory_roof, *arrays(n)))
    x = np.linspace(-4, 4, 1024, dtype=np.float32)
    y = np.empty_like(x)
    sigmoid, tanh = (
        least(functools.partial(function, x, y)) / x.size
        for function in (kernels.sigmoid, kernels.tanh)
    )
    return {"bandwidth": rate, "cell": 3 * sigmoid + 3 * tanh}


# ---- the cases -----------------------------------------------------------------------------------


def adam(n: int) -> tuple[str, Callable[[], Any]]:
    param = np.random.default_rng(0).standard_normal(n, np.float32)
    grad = np.float32(0.01) * param[::-1]
    opt = pyoptk.Adam(param)
    return f"Adam, {n:,} elements", lambda: opt.step(grad)


def adam_terms(n: int, k: int, machine: Machine) -> dict[str, float]:
    k = 1 if n < 16_384 else k  # SERIAL_BELOW in csrc/kernels/sweep.h
    levels = machine.levels(16 * n, k)
    return {
        "call": 1.0,
        "wake": math.log2(k),
        **{f"bytes from {level}": 28 * n * share / k for level, share in levels.items()},
        "contention": 28 * n * levels.get("memory", 0.0) * (k - 1) / k,
    }


def lstm(T: int, B: int, I: int, H: int) -> tuple[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    layer = pyoptk.LSTM(I, H, rng=rng)
    x, dy = (rng.standard_normal((T, B, n), np.float32) for n in (I, H))

    def work() -> None:
        layer.forward(x)
        layer.backward(dy)

    return f"LSTM, T {T}, B {B}, I {I}, H {H}", work


def recurrence_threads(T: int, B: int, I: int, H: int, k: int, isa: str) -> tuple[int, bool]:
    """How many threads walk through time, and whether they wait for each other at every step."""
    weights = 4 * H * H
    tile, width = (6, 64) if isa == "avx512" else (3, 32 if isa == "avx2" else 16)
    if 4 * T * H * B * (I + H) < 1 << 20:
        return 1, False
    rows_suffice = B >= k * tile and 4 * weights <= MIB
    if weights * B >= k << 17 and H // width >= k and not rows_suffice:
        return k, True
    return (min(k, B // tile) if B >= 2 * tile else 1), False


def lstm_terms(T: int, B: int, I: int, H: int, k: int, machine: Machine) -> dict[str, float]:
    r, waits = recurrence_threads(T, B, I, H, k, pyoptk.isa())
    k = 1 if 4 * T * H * B * (I + H) < 1 << 20 else k
    x, h = (8 * steps * B * H * n / machine.peak_of_a_core(k) for steps, n in ((T, I), (T - 1, H)))
    recurrence, other = x + 2 * h, 2 * x + h
    return {
        AT_PEAK: recurrence / r + other / k,
        "call": 1.0,
        "wake": math.log2(k),
        "recurrence": recurrence / r,
        "other products": other / k,
        "cells": T * B * H / r,
        "weights": 4 * H * (I + H) / k,
        "barrier": T * math.log2(r) if waits else 0.0,
    }


CASES = {"Adam": (adam, adam_terms, [(n,) for n in SIZES]), "LSTM": (lstm, lstm_terms, LSTM)}


def measure(family: str, counts: list[int], rounds: int, block: float) -> list[dict[str, Any]]:
    """Median seconds of every case for each number of threads, by turns."""
    make, _, sizes = CASES[family]
    found = []
    for size in sizes:
        label, work = make(*size)
        seconds: dict[int, list[float]] = {k: [] for k in counts}
        for _ in range(rounds):
            for k in counts:
                pyoptk.set_num_threads(k)
                work()
                seconds[k].append(median_of_block(work, block))
        found.append({"family": family, "label": label, "size": list(size), "seconds": seconds})
    return found


def median_of_block(work: Callable[[], Any], block: float) -> float:
    start = time.perf_counter()
    work()
    calls = max(1, int(2e-5 / (time.perf_counter() - start)))
    times, end = [], time.perf_counter() + block
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


# ---- the model -----------------------------------------------------------------------------------


def fit(points: list[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Coefficients, at least 0, with the least sum of squared relative errors.

    Every subset of the terms is tried: they are few, and the best one is exact.
    """
    names = sorted({name for terms, _ in points for name, x in terms.items() if x} - {AT_PEAK})
    matrix = np.array([[terms.get(name, 0.0) / t for name in names] for terms, t in points])
    rest = np.array([1 - terms.get(AT_PEAK, 0.0) / t for terms, t in points])
    scale = matrix.max(0)
    matrix /= scale
    best, least = np.zeros(len(names)), math.inf
    for size in range(1, len(names) + 1):
        for chosen in map(list, itertools.combinations(range(len(names)), size)):
            some = np.linalg.lstsq(matrix[:, chosen], rest, rcond=None)[0]
            error = float(((matrix[:, chosen] @ some - rest) ** 2).sum())
            if (some >= 0).all() and error < least - 1e-12:
                best, least = np.zeros(len(names)), error
                best[chosen] = some
    fixed = {AT_PEAK: 1.0} if any(AT_PEAK in terms for terms, _ in points) else {}
    return fixed | dict(zip(names, (best / scale).tolist(), strict=True))


def predict(coefficients: dict[str, float], terms: dict[str, float]) -> float:
    return sum(coefficients.get(name, 0.0) * x for name, x in terms.items())


def model(cases: list[dict[str, Any]], machine: Machine) -> dict[str, Any]:
    """The fit of one family, what it says of every measured point, and what it foretells."""
    family = cases[0]["family"]
    terms = CASES[family][1]

    def points(some: list[dict[str, Any]]) -> list[tuple[dict[str, float], float]]:
        return [
            (terms(*case["size"], k, machine), min(case["seconds"][k]))
            for case in some
            for k in case["seconds"]
            if k <= 2
        ]

    coefficients = fit(points(cases))
    found = []
    for case in cases:
        without = fit(points([other for other in cases if other is not case]))
        told = {k: predict(coefficients, terms(*case["size"], k, machine)) for k in case["seconds"]}
        found.append(
            {
                "label": case["label"],
                "size": case["size"],
                "measured": {k: min(s) for k, s in case["seconds"].items()},
                "model": told,
                "left out": {
                    k: predict(without, terms(*case["size"], k, machine))
                    for k in case["seconds"]
                    if k <= 2
                },
                "foretold": {
                    k: predict(coefficients, terms(*case["size"], k, machine)) for k in FORETOLD
                },
            }
        )
    return {"family": family, "coefficients": coefficients, "rows": found}


def errors(fitted: dict[str, Any], which: str, least: int = 1) -> list[float]:
    """|predicted / measured - 1| of the points on at least so many threads, sorted."""
    return sorted(
        abs(row[which][k] / row["measured"][k] - 1)
        for row in fitted["rows"]
        for k in row[which]
        if int(k) >= least  # as text, where it comes from a file
    )


# ---- the command ---------------------------------------------------------------------------------


def show(fitted: dict[str, Any]) -> None:
    counts = list(fitted["rows"][0]["measured"])
    print(
        f"\n{fitted['family']}: "
        + ", ".join(f"{k} {v:.3g}" for k, v in fitted["coefficients"].items())
    )
    print("microseconds" + " " * 24 + "".join(f"{f'{k} threads':>20}" for k in counts))
    for row in fitted["rows"]:
        cells = [f"{row['measured'][k] * 1e6:11.1f}{row['model'][k] * 1e6:9.1f}" for k in counts]
        print(f"{row['label']:36}{''.join(cells)}")
    for which, least, words in (("left out", 1, "fitted without it"), ("model", 3, "more threads")):
        found = errors(fitted, which, least)
        if found:
            print(f"error, {words}: median {statistics.median(found):.0%}, most {found[-1]:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", help="such as 1,2,4; default: 1, 2, 4, ... all cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=float, default=0.05, help="seconds of a turn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    cores = pyoptk.get_num_threads()
    powers = [2**k for k in range(cores.bit_length()) if 2**k < cores]
    counts = [int(k) for k in options.threads.split(",")] if options.threads else [*powers, cores]
    machine = measure_machine(counts)
    caches = f"L2 {machine.l2 >> 20} MiB, L3 {machine.l3 >> 20} MiB for {machine.l3_cores}"
    peaks = ", ".join(f"{k} threads {p / 1e9:.0f}" for k, p in machine.peak.items())
    print(f"{cores} cores, {caches}\npeak, GFLOP/s: {peaks}")
    limits_of_a_core = limits(machine)
    rates = ", ".join(f"{k} {r / 1e9:.0f}" for k, r in limits_of_a_core["bandwidth"].items())
    cell = limits_of_a_core["cell"] * 1e9
    print(f"bandwidth of a core, GB/s: {rates}; functions of a cell {cell:.2f} ns")
    after = after_product.measure(counts)
    for one in after:
        times = one["step"]["after"] / one["step"]["alone"]
        print(
            f"right after a product of {one['batch']} rows, {one['threads']} threads: a step takes "
            f"{times:.2f} times as long as alone"
        )
    families = []
    for family in CASES:
        families.append(model(measure(family, counts, options.rounds, options.block), machine))
        show(families[-1])
    if options.json:
        told = {**this_machine.describe(), **vars(machine), "limits": limits_of_a_core}
        result = {"kind": "scaling", "machine": told, "families": families, "after": after}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
