"""Time per step as a function of bytes, FLOPs, cores and bandwidth: measured, fitted, predicted.

``python -m bench scaling`` needs NumPy and pyoptk, nothing else. Every row is measured on 1, 2, 4,
... threads by turns; the least of the rounds counts, because the model is of a quiet machine. It is
a sum of terms whose coefficients are at least 0 and fitted to the relative errors of the runs on
one and two threads alone. So it is checked twice: each case against a fit without that case, and
more threads, where the machine has them, against the prediction from one and two.

An optimizer step on k threads takes

    call + wake * log2(k) + bytes / (k * bandwidth of the level that they come from)
                          + bytes from memory * (k - 1) / k * contention

and an LSTM's forward and backward

    products at the peak of the cores + call + wake * log2(k) + recurrence * excess / r
         + other products * excess / k + cells / r + weights / k + T * log2(r) * barrier

where r is the number of threads that share the recurrence, which C says: by rows of the batch
without barriers, or by hidden units with one for every step. The excess is what the products take
beyond the peak. Of arrays larger than the L3 cache, as much comes from there as fits into it, the
rest from memory. More cores than are here are assumed to be like these, eight to an L3 cache as
large as this one.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from pyoptk._rnn import partition
from pyoptk.duel import machine
from pyoptk.duel.referee import Entry, median, noise, run

from . import work
from .environments import FILES

FORETOLD = (8, 16, 64)
MIB = 1 << 20
AT_PEAK = "products at the peak"  # the one term that is not fitted
SERIAL_BELOW = 16_384  # elements of a step that stay on one thread: csrc/kernels/sweep.h


@dataclass
class Machine:
    """What the model needs to know: caches, and the multiply-adds of k cores together."""

    cores: int
    l2: int  # bytes of a core
    l3: int  # bytes
    l3_cores: int  # that share them
    peak: dict[int, float]  # FLOP/s by threads

    def levels(self, working_set, k):
        """Where the arrays stay from one step to the next: the share of each level."""
        if working_set / k <= self.l2:
            return {"L2": 1.0}
        held = min(1.0, self.l3 * math.ceil(k / max(8, self.l3_cores)) / working_set)
        return {"L3": held, "memory": 1 - held}

    def peak_of_a_core(self, k):
        """FLOP/s of each of k cores; of the most that were measured, if k is more."""
        known = max(n for n in self.peak if n <= k)
        return self.peak[known] / known


def adam_terms(n, k, chip):
    k = 1 if n < SERIAL_BELOW else k
    levels = chip.levels(16 * n, k)
    return {
        "call": 1.0,
        "wake": math.log2(k),
        **{f"bytes from {level}": 28 * n * share / k for level, share in levels.items()},
        "contention": 28 * n * levels.get("memory", 0.0) * (k - 1) / k,
    }


def lstm_terms(T, B, I, H, k, chip):
    by_rows, by_units, k = partition("lstm", "float32", T, B, I, H, nthreads=k)
    r = by_rows * by_units
    x, h = (8 * steps * B * H * n / chip.peak_of_a_core(k) for steps, n in ((T, I), (T - 1, H)))
    recurrence, others = x + 2 * h, 2 * x + h
    return {
        AT_PEAK: recurrence / r + others / k,
        "call": 1.0,
        "wake": math.log2(k),
        "recurrence": recurrence / r,
        "other products": others / k,
        "cells": T * B * H / r,
        "weights": 4 * H * (I + H) / k,
        "barrier": T * math.log2(by_units),
    }


TERMS = {"Adam": adam_terms, "LSTM": lstm_terms}


def fit(points):
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


def predict(coefficients, terms):
    return sum(coefficients.get(name, 0.0) * x for name, x in terms.items())


def model(cases, chip):
    """The fit of one family, its value at every measured point, and its predictions.

    A case has `family`, `label`, `size` and, by threads, `measured` in seconds.
    """

    def terms(case, k):
        return TERMS[case["family"]](*case["size"], k, chip)

    def fitted(some):
        every = [(case, k) for case in some for k in case["measured"] if k <= 2]
        return fit([(terms(case, k), case["measured"][k]) for case, k in every])

    coefficients, found = fitted(cases), []
    for case in cases:
        without, counts = fitted([other for other in cases if other is not case]), case["measured"]
        told = {key: case[key] for key in ("label", "size", "measured")}
        for name, which, threads in (
            ("model", coefficients, counts),
            ("left out", without, [k for k in counts if k <= 2]),
            ("foretold", coefficients, FORETOLD),
        ):
            told[name] = {k: predict(which, terms(case, k)) for k in threads}
        found.append(told)
    return {"family": cases[0]["family"], "coefficients": coefficients, "rows": found}


def errors(fitted, which, least=1):
    """|predicted / measured - 1| of the points on at least so many threads, sorted."""
    return sorted(
        abs(row[which][k] / row["measured"][k] - 1)
        for row in fitted["rows"]
        for k in row[which]
        if int(k) >= least  # as text, where it comes from a file
    )


def measure(counts, **turns):
    """The machine, the model of each family, and steps right after products.

    The result has `machine` with the `limits` of a core besides multiply-adds: `bandwidth` by
    level, and seconds of the functions in a `cell`: three times sigmoid, twice tanh, and tanh again
    in backward.
    """
    known = {level: (size, cores) for level, _, size, cores in machine.caches()}
    (l2, _), (l3, l3_cores) = known.get(2, (MIB, 1)), known.get(3, (32 * MIB, 8))
    both = [(name, k) for name in ("pyoptk", "roof") for k in counts]
    entries = [Entry(f"{name} {k}", FILES[name], threads=k) for name, k in both]
    rows = [*work.machine({"L2": l2, "L3": l3}), *work.after_product(), *work.scaling()]
    done = run(entries, rows, threads=1, **turns)["rows"]
    us, roof = f"pyoptk {counts[0]}", f"roof {counts[0]}"
    print(noise([row for row in done if "family" in row], us, roof))
    chip = Machine(max(counts), l2, l3, l3_cores, {})
    bandwidth, cell, families, after = {}, 0.0, {}, []
    for row in done:
        seconds = {who: min(times) for who, times in row["seconds"].items()}
        if row["task"] == work.FMA:
            chip.peak = {k: row["flop"] / seconds[f"roof {k}"] for k in counts}
        elif row["task"] == "streams":
            bandwidth[row["label"]] = row["bytes"] / seconds[roof]
        elif row["task"] == "function":
            cell += 3 * seconds[us] / work.CELL
        elif row["task"] == "after_product":
            after.append(row)
        else:
            measured = {k: seconds[f"pyoptk {k}"] for k in counts}
            families.setdefault(row["family"], []).append(row | {"measured": measured})
    limits = {"limits": {"bandwidth": bandwidth, "cell": cell}}
    return {
        "kind": "scaling",
        "machine": {**machine.describe(), **vars(chip), **limits},
        "families": [model(cases, chip) for cases in families.values()],
        "after": [
            {"threads": k, "batch": row["sizes"]["batch"]} | {
                name: {"alone": median(after[-1], who), "after": median(row, who)}
                for name, who in (("step", f"pyoptk {k}"), ("roof", f"roof {k}"))
            }
            for k in counts
            for row in after[:-1]
        ],
    }  # fmt: skip
