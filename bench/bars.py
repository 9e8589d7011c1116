"""What we want to reach, each as a ratio inside one run; report.py says which are met.

A bar is met if the peer takes at least `times` as long as pyoptk. REASONS says why one that is not
met is not, and goes when it is; what a bar is about is typed here and nowhere else.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyoptk.bench import rows
from pyoptk.bench.duel import fastest, median, ratios

FUSED, DEEPSPEED, ROOF = "PyTorch fused", "DeepSpeed", "roof"
TORCH = (FUSED, "PyTorch foreach", "PyTorch for-loop")
Result = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A row, the peers of which the fastest counts, and how many times as long it is to take."""

    label: str
    peers: tuple[str, ...]
    times: float


@dataclass(frozen=True)
class Outcome:
    """A bar beside what was measured; `words` say both."""

    what: str
    threads: int
    wanted: str
    measured: str
    met: bool
    reason: str


def bars() -> Iterator[Bar]:
    """Every bar that compares pyoptk with others."""

    def bar(row: dict[str, Any], times: float, *peers: str) -> Bar:
        return Bar(row["label"], peers, times)

    for n, torch, deepspeed in ((1_000, 10, 6), (100_000, 2.8, 1.4), (1_000_000, 1.7, 1.05)):
        yield bar(rows.step("Adam", n), torch, FUSED)
        yield bar(rows.step("Adam", n), deepspeed, DEEPSPEED)
    for n in (10_000_000, 50_000_000):
        yield bar(rows.step("Adam", n), 0.97, FUSED, DEEPSPEED)
        yield bar(rows.step("Adam", n), 0.95, ROOF)
    yield bar(rows.step("Adam", 1_000, count=1_000), 11, FUSED)
    yield bar(rows.step("Adam", 1_000, count=1_000), 11, DEEPSPEED)
    yield bar(rows.step("Adam", 10_000_000, max_norm=1.0), 1.3, FUSED)
    everything = {"max_norm": 1.0, "ema_decay": 0.999, "zero_grad": True}
    yield bar(rows.step("Adam", 10_000_000, **everything), 1.25, *TORCH)
    for optimizer, times in (("RMSprop", 4), ("AdaGrad", 1.5), ("SGD", 0.97)):
        yield bar(rows.step(optimizer, 1_000_000), times, *TORCH)
    for size, times in zip(rows.LSTM, (4, 1.9, 1.6, 1.5, 1.3, 1.25, 1.15), strict=True):
        yield bar(rows.lstm(*size), times, FUSED)
        if size[3] >= 256 and size[1] >= 32:
            yield bar(rows.lstm(*size), 0.8, ROOF)
    yield bar(rows.lstm(50, 32, 64, 128, dtype="float64"), 4, FUSED)
    yield bar(rows.lstm(50, 32, 64, 128, packed=True), 4, FUSED)
    yield bar(rows.forecaster(32), 3, FUSED, "JAX")
    yield bar(rows.forecaster(32), 11, "Keras")
    yield bar(rows.forecaster(256), 2.6, FUSED, "JAX")


# (label, first peer): why the bar is not met.
DIVIDER = (
    "division and square root take longer than the cache: SGD with momentum streams as much as "
    "RMSprop in two thirds of its time"
)
REASONS: dict[tuple[str, str], str] = {
    (rows.step("Adam", 100_000)["label"], FUSED): DIVIDER,
    (rows.step("Adam", 1_000_000)["label"], FUSED): DIVIDER,
    (rows.step("RMSprop", 1_000_000)["label"], FUSED): DIVIDER,
    (rows.step("AdaGrad", 1_000_000)["label"], FUSED): DIVIDER,
}

PEAK, ISA = 235e9, "avx512"  # FLOP/s of a core where the bars were set
FORECASTER = (64, 32)  # units of its layers
NEAR_ROOF = 0.8  # a bar that asks for more of the roof than this says so itself
CALL_LIMIT = 1.5e-6  # seconds of a step over one tensor of 16 elements
AFTER_PRODUCT = 2  # times as long as alone
TWO_THREADS = 1.7  # times as fast as one for the larger LSTMs
SMALL = rows.LSTM[:2]  # where two threads are at least no slower


def outcomes(results: list[Result], scaling: Result | None) -> list[Outcome]:
    """Every bar with what was measured.

    Parameters
    ----------
    results : list of dict
        What `bench.peers` measured, one for each number of threads.
    scaling : dict or None
        What scaling.py measured.
    """
    found = []
    cell = scaling["machine"]["limits"]["cell"] if scaling else None
    for result in results:
        by_label = {row["label"]: row for row in result["rows"]}
        for bar in bars():
            if bar.label in by_label:
                found += against(bar, by_label[bar.label], result["threads"], cell)
    if scaling:
        found += call_cost(scaling) + after_product(scaling) + two_threads(scaling)
    return found


def against(
    bar: Bar, row: dict[str, Any], threads: int, cell: float | None = None
) -> list[Outcome]:
    """One bar in one run; nothing where the peer was not there.

    `cell` is what the functions in a cell of an LSTM take, in seconds.
    """
    peer = fastest(row, bar.peers)
    found = ratios(row, peer, "pyoptk")
    if not found:
        return []
    middle = statistics.median(found)
    reason = REASONS.get((bar.label, bar.peers[0]), "")
    of_roof = ratios(row, peer, ROOF)
    if peer != ROOF and of_roof and (asked := bar.times / statistics.median(of_roof)) > NEAR_ROOF:
        told = f"{peer} takes but {statistics.median(of_roof):.2f} times as long as the roof"
        told += f", of which the bar asks for {asked:.0%}" if asked <= 1 else ""
        reason = f"{reason}; {told}" if reason else told
    if not reason and cell is not None:
        reason = spent(row, threads, cell)
    return [
        Outcome(
            f"{bar.label}, against {'the roof' if peer == ROOF else peer}",
            threads,
            f"{bar.times:g}",
            f"{middle:.2f} ({found[0]:.2f} to {found[-1]:.2f})",
            middle >= bar.times,
            reason,
        )
    ]


def spent(row: dict[str, Any], threads: int, cell: float) -> str:
    """What the time of a recurrent layer goes into; nothing for other work."""
    sizes, ours = row["sizes"], median(row, "pyoptk")
    units = sum(FORECASTER) if row["task"] == "forecaster" else sizes.get("H", 0)
    if not units or ROOF not in row["seconds"] or sizes.get("dtype") == "float64":
        return ""
    cells = sizes["T"] * sizes["B"] * units * cell / threads
    return (
        f"of our time the multiply-adds take {median(row, ROOF) / ours:.0%} at their peak and the "
        f"functions of the cells {cells / ours:.0%}; the rest is packing, edges of tiles, waiting "
        "and calls"
    )


def call_cost(scaling: Result) -> list[Outcome]:
    """What a step over next to nothing takes."""
    label = rows.step("Adam", 16)["label"]
    measured = [
        row["measured"]["1"]
        for family in scaling["families"]
        for row in family["rows"]
        if row["label"] == label
    ]
    return [
        Outcome(
            f"{label}, the call",
            1,
            f"below {CALL_LIMIT * 1e6:g} us",
            f"{seconds * 1e6:.2f} us",
            seconds < CALL_LIMIT,
            REASONS.get((label, "call"), ""),
        )
        for seconds in measured
    ]


def after_product(scaling: Result) -> list[Outcome]:
    """How much longer a step takes right after the product of NumPy's that made its gradient."""
    found = []
    for one in scaling["after"]:
        step, roof = (one[name]["after"] / one[name]["alone"] for name in ("step", "roof"))
        found.append(
            Outcome(
                f"{rows.step('Adam', 1_000_000)['label']}, right after the NumPy product for its "
                f"gradient, batch of {one['batch']:,}, against itself alone",
                one["threads"],
                f"at most {AFTER_PRODUCT:g}",
                f"{step:.2f}",
                step <= AFTER_PRODUCT,
                "the product has put the arrays out of the cache: the roof, which only adds to "
                f"such arrays, takes {roof:.2f} times as long as alone",
            )
        )
    return found


def two_threads(scaling: Result) -> list[Outcome]:
    """How much faster two threads are than one."""
    found = []
    for family in scaling["families"]:
        for row in family["rows"]:
            if family["family"] != "LSTM" or "2" not in row["measured"]:
                continue
            small = row["label"] in [rows.lstm(*size)["label"] for size in SMALL]
            if not small and row["label"] not in [rows.lstm(*s)["label"] for s in rows.LSTM]:
                continue
            least = 1.0 if small else TWO_THREADS
            ratio = row["measured"]["1"] / row["measured"]["2"]
            found.append(
                Outcome(
                    f"{row['label']}, against one thread",
                    2,
                    f"{least:g}",
                    f"{ratio:.2f}",
                    round(ratio, 2) >= least,
                    REASONS.get((row["label"], "one thread"), ""),
                )
            )
    return found
