"""Steps on several machines, on paper: ``python -m bench.network`` writes a table and pictures.

They stand in docs/mpi.md. Threads of one machine are scaling.py's.

Machines are like the one of docs/performance.md: `FLOPS` for gradients, `MEMORY` for the step. A
message takes latency + bytes / bandwidth; every machine sends and receives at once, at the full
speed of its link; nothing is lost to congestion. With P machines, N parameters in float32 and b
buckets, a sharded step takes

    exchange + gather   2 * (b * (P - 1) * latency + (P - 1) / P * 4 N / bandwidth)
    tree                12 bytes * (P - 1) / P * N / MEMORY     P - 1 additions of N / P elements
    step                28 bytes * N / P / MEMORY               Adam
    flags and norm      2 * log2(P) * latency + N / 512 / bandwidth

and nothing of it is hidden behind the backward pass, which is the worst case; the best is that the
exchange is. A gradient of one sample takes 6 N FLOP. Weak: each machine has `SAMPLES` of them.
Strong: `SAMPLES` * 1,024 are shared by all.
"""

import math
from pathlib import Path

from pyoptk.duel.picture import svg
from pyoptk.duel.referee import duration

from .pictures import Series, lines

MACHINES = (1, 16, 64, 256, 1024)
MODELS = {"10 M": 10_000_000, "1 G": 1_000_000_000}
NETWORKS = {"10 Gbit/s": (1.25e9, 20e-6), "100 Gbit/s": (12.5e9, 3e-6)}  # bytes/s, latency
FLOPS, MEMORY = 200e9, 20e9  # of a machine: two cores' multiply-adds, bytes a second
SAMPLES = 32
BUCKET = 1 << 20  # elements; with many machines more, so that each gets 16 blocks of the norm
DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- table: python -m bench.network -->", "<!-- end of table -->"


def step(N, P, bandwidth, latency):
    """Seconds of each part of a step."""
    buckets = math.ceil(N / max(BUCKET, 16 * 4096 * P))
    shared = (P - 1) / P * 4 * N / bandwidth
    return {
        "exchange": buckets * (P - 1) * latency + shared,
        "gather": buckets * (P - 1) * latency + shared,
        "tree": 12 * (P - 1) / P * N / MEMORY,
        "step": 28 * N / P / MEMORY,
        "norm": 2 * math.log2(P) * latency + (N / 512 / bandwidth if P > 1 else 0),
    }


def efficiency(N, P, network, weak, overlap=False):
    """The share of the time that is spent on gradients."""
    parts = step(N, P, *network)
    work = 6 * N * SAMPLES / FLOPS * (1 if weak else 1024 / P)
    hidden = min(parts["exchange"], work) if overlap else 0
    return work / (work + sum(parts.values()) - hidden)


def speed(N, P, network, weak):
    """Of P machines, over that of one."""
    return P * efficiency(N, P, network, weak) / efficiency(N, 1, network, weak)


def cases():
    for model, N in MODELS.items():
        for name, network in NETWORKS.items():
            yield f"{model}, {name}", N, network


def table():
    """Per case and number of machines: the step, the efficiency, weak and strong."""
    heads = ["parameters, network", *(f"{P:,} machines" for P in MACHINES[1:])]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for label, N, network in cases():
        cells = []
        for P in MACHINES[1:]:
            seconds = sum(step(N, P, *network).values())
            worst, best = (f"{efficiency(N, P, network, True, o):.0%}" for o in (False, True))
            strong = f"{speed(N, P, network, False):,.0f}"
            cells.append(f"{duration(seconds)}, {worst} to {best}, {strong} times")
        yield f"| {label} | {' | '.join(cells)} |"


def picture(weak):
    """The speed of P machines over that of one, if each has as much to do or all share the same."""
    series = [
        Series(label, [(P, speed(N, P, network, weak)) for P in MACHINES], k)
        for k, (label, N, network) in enumerate(cases())
    ]
    series.append(Series("ideal", [(P, float(P)) for P in MACHINES], 6, measured=False))
    kind = "Weak scaling: each machine has 32 samples" if weak else "Strong scaling: 32,768 samples"
    return lines(
        kind,
        series,
        x_ticks=MACHINES,
        x_title="machines",
        y_title="times the speed of one machine",
        note="A model on paper; its assumptions stand at the top of bench/network.py.",
    )


def write():
    page = DOCS / "mpi.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text("\n".join([before + BEGIN, *table(), END + rest.split(END, 1)[1]]))
    for name, weak in (("weak", True), ("strong", False)):
        (DOCS / "performance" / f"{name}.svg").write_text(svg(picture(weak)))


if __name__ == "__main__":
    write()
