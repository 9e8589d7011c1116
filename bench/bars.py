"""What we want to reach, each as a ratio inside one run; report.py says which are met.

A bar is met if the fastest of its peers takes at least `times` as long as pyoptk. The reason why it
is not goes when it is.
"""

from typing import NamedTuple

from pyoptk.duel.command import PEERS
from pyoptk.duel.referee import fastest, median, ratio, ratios, spread
from pyoptk.duel.rows import LSTM, forecaster, layer, mlp, step

FUSED, DEEPSPEED, ROOF = "PyTorch fused", "DeepSpeed", "roof"
TORCH = PEERS["PyTorch"]


class Bar(NamedTuple):
    label: str
    times: float
    peers: tuple
    reason: str = ""  # why it is not met


class Outcome(NamedTuple):
    """A bar beside what was measured."""

    what: str
    threads: int
    wanted: str  # in words, as is `measured`
    measured: str
    met: bool
    reason: str


EVERYTHING = {"max_norm": 1.0, "ema_decay": 0.999, "zero_grad": True}
DIVIDER = (
    "division and square root take longer than the cache: SGD with momentum streams as much as "
    "RMSprop in two thirds of its time"
)
# Every row of the duels with other libraries, and its bars: times, peers, why it is not met.
WANTED = [
    (step("Adam", 1_000), (10, [FUSED]), (6, [DEEPSPEED])),
    (step("Adam", 10_000),),
    (step("Adam", 100_000), (2.8, [FUSED], DIVIDER), (1.4, [DEEPSPEED])),
    (step("Adam", 1_000_000), (1.7, [FUSED], DIVIDER), (1.05, [DEEPSPEED])),
    (step("Adam", 10_000_000), (0.97, [FUSED, DEEPSPEED]), (0.95, [ROOF])),
    (step("Adam", 50_000_000), (0.97, [FUSED, DEEPSPEED]), (0.95, [ROOF])),
    (step("Adam", 1_000, count=1_000), (11, [FUSED]), (11, [DEEPSPEED])),
    (step("Adam", 10_000_000, max_norm=1.0), (1.3, [FUSED])),
    (step("Adam", 10_000_000, **EVERYTHING), (1.25, TORCH)),
    (step("SGD", 1_000_000), (0.97, TORCH)),
    (step("RMSprop", 1_000_000), (4, TORCH, DIVIDER)),
    (step("AdaGrad", 1_000_000), (1.5, TORCH, DIVIDER)),
    (layer(*LSTM[0]), (4, [FUSED])),
    (layer(*LSTM[1]), (1.9, [FUSED])),
    (layer(*LSTM[2]), (1.6, [FUSED])),
    (layer(*LSTM[3]), (1.5, [FUSED]), (0.8, [ROOF])),
    (layer(*LSTM[4]), (1.3, [FUSED]), (0.8, [ROOF])),
    (layer(*LSTM[5]), (1.25, [FUSED]), (0.8, [ROOF])),
    (layer(*LSTM[6]), (1.15, [FUSED])),
    (layer(50, 32, 64, 128, dtype="float64"), (4, [FUSED])),
    (layer(50, 32, 64, 128, packed=True), (4, [FUSED])),
    (layer(50, 32, 64, 128, stacked=True),),
    (forecaster(32), (3, [FUSED, "JAX"]), (11, ["Keras"])),
    (forecaster(256), (2.6, [FUSED, "JAX"])),
    (mlp(),),
]
BARS = [Bar(row["label"], *bar) for row, *wanted in WANTED for bar in wanted]

PEAK, ISA = 235e9, "avx512"  # FLOP/s of a core where the bars were set
FORECASTER = (64, 32)  # units of its layers
NEAR_ROOF = 0.8  # a bar that asks for more of the roof than this gets that as its reason
CALL_LIMIT = 1.5e-6  # seconds of a step over one tensor of 16 elements
AFTER_PRODUCT = 2  # times as long as alone
TWO_THREADS = 1.7  # times as fast as one for the larger LSTMs; the two smallest: no slower


def outcomes(results, scaled):
    """Every bar with what was measured: the duels by threads, and the result of scaling or None."""
    cell = scaled["machine"]["limits"]["cell"] if scaled else None
    for result in results:
        by_label = {row["label"]: row for row in result["rows"]}
        for bar in BARS:
            if bar.label in by_label:
                yield from against(bar, by_label[bar.label], result["threads"], cell)
    if scaled:
        yield from of_scaling(scaled)


def against(bar, row, threads, cell=None):
    """One bar in one run; nothing where the peer was not there.

    `cell` is what the functions in a cell of an LSTM take, in seconds.
    """
    peer = fastest(row, bar.peers)
    if not (found := ratios(row, peer)):
        return
    reason, share = bar.reason, ratio(row, peer, ROOF)
    if peer != ROOF and (asked := bar.times / share) > NEAR_ROOF:
        told = f"{peer} takes only {share:.2f} times as long as the roof"
        told += f", of which the bar asks for {asked:.0%}" if asked <= 1 else ""
        reason = f"{reason}; {told}" if reason else told
    if not reason and cell is not None:
        reason = spent(row, threads, cell)
    what = f"{bar.label}, against {'the roof' if peer == ROOF else peer}"
    met = ratio(row, peer) >= bar.times
    yield Outcome(what, threads, f"{bar.times:g}", spread(found), met, reason)


def spent(row, threads, cell):
    """What the time of a recurrent layer is spent on; nothing for other work."""
    sizes, ours = row["sizes"], median(row)
    units = sum(FORECASTER) if row["task"] == "forecaster" else sizes.get("H", 0)
    if not units or ROOF not in row["seconds"] or sizes.get("dtype") == "float64":
        return ""
    cells = sizes["T"] * sizes["B"] * units * cell / threads
    return (
        f"of our time the multiply-adds take {median(row, ROOF) / ours:.0%} at their peak and the "
        f"functions of the cells {cells / ours:.0%}; the rest is packing, edges of tiles, waiting "
        "and calls"
    )


def of_scaling(scaled):
    """The cost of a call, of steps right after the product of their gradient, and two threads."""
    measured = {row["label"]: row["measured"] for one in scaled["families"] for row in one["rows"]}
    label = step("Adam", 16)["label"]
    if label in measured:
        call, wanted = measured[label]["1"], f"below {CALL_LIMIT * 1e6:g} us"
        said, met = f"{call * 1e6:.2f} us", call < CALL_LIMIT
        yield Outcome(f"{label}, the call", 1, wanted, said, met, "")
    for one in scaled["after"]:
        taken, roof = (one[name]["after"] / one[name]["alone"] for name in ("step", "roof"))
        what = (
            f"{step('Adam', 1_000_000)['label']}, right after the NumPy product for its "
            f"gradient, batch of {one['batch']:,}, against itself alone"
        )
        reason = (
            "the product has put the arrays out of the cache: the roof, which only adds to "
            f"such arrays, takes {roof:.2f} times as long as alone"
        )
        wanted, met = f"at most {AFTER_PRODUCT:g}", taken <= AFTER_PRODUCT
        yield Outcome(what, one["threads"], wanted, f"{taken:.2f}", met, reason)
    for k, size in enumerate(LSTM):
        label, least = layer(*size)["label"], 1.0 if k < 2 else TWO_THREADS
        if "2" in (seconds := measured.get(label, ())):
            times, what = seconds["1"] / seconds["2"], f"{label}, against one thread"
            met = round(times, 2) >= least
            yield Outcome(what, 2, f"{least:g}", f"{times:.2f}", met, "")
