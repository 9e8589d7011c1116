"""Which bars are met: the wishes in work.peers, each a ratio inside one run, and some of scaling.

A bar is met if the fastest of its peers takes at least so many times as long as pyoptk. REASONS
says why one that is not met is not, and goes when it is.
"""

from typing import NamedTuple

from pyoptk.duel import rows
from pyoptk.duel.referee import fastest, median, middle, ratios, spread

from .work import FUSED, NUMPY, ROOF, halves, linear, peers


class Outcome(NamedTuple):
    """A bar beside what was measured."""

    what: str
    threads: int
    wanted: str  # in words, as is `measured`
    measured: str
    met: bool
    reason: str


# (label, first peer): why the bar is not met.
DIVIDER = (
    "division and square root take longer than the cache: SGD with momentum streams as much as "
    "RMSprop in two thirds of its time"
)
REASONS = {
    (rows.step(name, n)["label"], FUSED): DIVIDER
    for name, n in (("Adam", 100_000), ("Adam", 1_000_000), ("RMSprop", 1_000_000),
                    ("AdaGrad", 1_000_000))
}  # fmt: skip
CODES = (
    "in L2, where memory costs nothing, an element takes 0.7 ns with its codes, and 0.25 more with "
    "its halves; PyTorch's whole step, which rounds to the nearest, takes 0.9 to 1.4"
)
REASONS[halves("stochastic", "8bit")["label"], FUSED] = CODES
CALLS = "of {} us the arithmetic takes {}: the rest are calls, their checks and their results"
SMALL = linear(8, 64, 64)["label"]
REASONS |= dict.fromkeys([(SMALL, NUMPY), (SMALL, FUSED)], CALLS.format(6.1, 2.6))

PEAK, ISA = 235e9, "avx512"  # FLOP/s of a core where the bars were set
FORECASTER = (64, 32)  # units of its layers
NEAR_ROOF = 0.8  # a bar that asks for more of the roof than this gets that as its reason
CALL_LIMIT = 1.5e-6  # seconds of a step over one tensor of 16 elements
AFTER_PRODUCT = 2  # times as long as alone
TWO_THREADS = 1.7  # times as fast as one for the larger LSTMs; the two smallest: no slower


def outcomes(results, scaled):
    """Every bar with what was measured: the duels by threads, and the result of scaling or None."""
    cell = scaled["machine"]["limits"]["cell"] if scaled else None
    bars = {row["label"]: row["bars"] for row in peers()}
    for result in results:
        for row in result["rows"]:
            for bar in bars.get(row["label"], ()):
                yield from against(bar, row, result["threads"], cell)
    if scaled:
        yield from of_scaling(scaled)


def against(bar, row, threads, cell=None):
    """One bar in one run; nothing where the peer was not there.

    `cell` is what the functions in a cell of an LSTM take, in seconds.
    """
    wanted, *peers = bar
    peer, label = fastest(row, peers), row["label"]
    if not (times := middle(row, peer)):
        return
    reasons = [REASONS[key]] if (key := (label, peers[0])) in REASONS else []
    share = middle(row, peer, ROOF)
    if peer != ROOF and share and (asked := wanted / share) > NEAR_ROOF:
        told = f"{peer} takes only {share:.2f} times as long as the roof"
        reasons += [told + f", of which the bar asks for {asked:.0%}" * (asked <= 1)]
    reason = "; ".join(reasons) or spent(row, threads, cell)
    what = f"{label}, against {'the roof' if peer == ROOF else peer}"
    yield Outcome(what, threads, f"{wanted:g}", spread(ratios(row, peer)), times >= wanted, reason)


def spent(row, threads, cell):
    """What the time of a recurrent layer is spent on; nothing for other work."""
    sizes, ours = row["sizes"], median(row)
    units = sum(FORECASTER) if row["task"] == "forecaster" else sizes.get("H", 0)
    if cell is None or not units or ROOF not in row["seconds"] or sizes.get("dtype") == "float64":
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
    label = rows.step("Adam", 16)["label"]
    if call := measured.get(label, {}).get("1"):
        wanted, said = f"below {CALL_LIMIT * 1e6:g} us", f"{call * 1e6:.2f} us"
        yield Outcome(f"{label}, the call", 1, wanted, said, call < CALL_LIMIT, "")
    for one in scaled["after"]:
        step, roof = (one[name]["after"] / one[name]["alone"] for name in ("step", "roof"))
        what = (
            f"{rows.step('Adam', 1_000_000)['label']}, right after the NumPy product for its "
            f"gradient, batch of {one['batch']:,}, against itself alone"
        )
        reason = (
            "the product has put the arrays out of the cache: the roof, which only adds to "
            f"such arrays, takes {roof:.2f} times as long as alone"
        )
        wanted, met = f"at most {AFTER_PRODUCT:g}", step <= AFTER_PRODUCT
        yield Outcome(what, one["threads"], wanted, f"{step:.2f}", met, reason)
    for k, size in enumerate(rows.LSTM):
        label, least = rows.layer(*size)["label"], 1.0 if k < 2 else TWO_THREADS
        if "2" in (seconds := measured.get(label, ())):
            ratio = round(seconds["1"] / seconds["2"], 2)
            what = f"{label}, against one thread"
            yield Outcome(what, 2, f"{least:g}", f"{ratio:.2f}", ratio >= least, "")
