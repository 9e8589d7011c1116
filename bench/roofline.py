"""Where the shapes of the LSTM stand under the roofs of a core, and what limits each.

For report.py, from the run of scaling.py on one thread. Bytes are those that must pass from beyond
the L1 cache: the weights once for every step of either pass; for each row of each step 104 H + 12 I
of inputs, outputs, gates saved for backward, their gradients, and both again in the products for dx
and dW. A shape right of the ridge, where the peak of multiply-adds is lower than the bandwidth
allows, could reach that peak. The time beyond it has two parts: the functions of the cells, at the
speed that they have by themselves, and all else: packing the weights, edges of tiles, calls,
waiting for caches.
"""

from typing import NamedTuple

from pyoptk.duel import rows
from pyoptk.duel.referee import duration

from .pictures import Series, lines

GREY = 6
COLORS = (0, 1, 2, 3, 4, 5, 7)


class Shape(NamedTuple):
    """One shape; all times in seconds."""

    label: str
    seconds: float
    flop: float
    bytes: float
    level: str  # where the weights lie from one step to the next
    at_peak: float  # the multiply-adds
    moving: float  # the bytes at the bandwidth of that level
    cells: float  # exp and what is made of it
    rest: float  # what neither multiply-adds nor cells explain

    def limit(self):
        """What limits it, in words."""
        other = self.seconds - max(self.at_peak, self.moving) - self.cells
        if other > self.seconds / 2:
            return f"overhead: {duration(other)} of packing, calls and edges of tiles"
        if self.moving > self.at_peak:
            return f"bandwidth of {self.level}"
        second = "cells" if self.cells > self.rest else "packing, calls and edges of tiles"
        return f"FMA, at {self.at_peak / self.seconds:.0%} of the peak; then {second}"


def shape(size, seconds, machine):
    """The parts of the time of one shape."""
    T, B, I, H = size
    weights = 16 * H * (I + H)
    level = next((k for k in ("L2", "L3") if weights <= machine[k.lower()]), "memory")
    moved = 16 * H * (T * I + 2 * (T - 1) * H) + T * B * (104 * H + 12 * I)
    flop, limits = rows.layer_flop(*size), machine["limits"]
    at_peak, moving = flop / machine["peak"]["1"], moved / limits["bandwidth"][level]
    label, cells = f"T {T}, B {B}, I {I}, H {H}", T * B * H * limits["cell"]
    rest = seconds - at_peak - cells
    return Shape(label, seconds, flop, moved, level, at_peak, moving, cells, rest)


def shapes(result):
    """The shapes of the bars, as scaling.py measured them."""
    found = [row for family in result["families"] for row in family["rows"]]
    found = [row for row in found if tuple(row["size"]) in rows.LSTM]
    return [shape(row["size"], row["measured"]["1"], result["machine"]) for row in found]


def picture(result):
    """FLOP per byte against GFLOP/s, under the peak and the bandwidths."""
    machine, found = result["machine"], shapes(result)
    peak = machine["peak"]["1"] / 1e9
    rates = {level: rate / 1e9 for level, rate in machine["limits"]["bandwidth"].items()}
    at = [(one.flop / one.bytes, one.flop / one.seconds / 1e9) for one in found]
    left, right = min(x for x, _ in at) / 3, 1.5 * max(x for x, _ in at)
    roofs = [[(left, peak), (right, peak)]]
    roofs += [[(left, rate * left), (peak / rate, peak)] for rate in rates.values()]
    series = [Series("", roof, GREY, measured=False) for roof in roofs]
    series += [
        Series(one.label, [point], k) for one, point, k in zip(found, at, COLORS, strict=False)
    ]
    slopes = ", ".join(f"{rate:.0f}" for rate in rates.values())
    return lines(
        "LSTM, forward and backward: each shape under the roofs of a core",
        series,
        x_title="FLOP for each byte from beyond the L1 cache",
        y_title="GFLOP/s",
        note=f"{machine['cpu']}, 1 thread, {machine['date']}; dotted: FMA {peak:.0f} GFLOP/s; "
        f"{', '.join(rates)}: {slopes} GB/s",
    )


def table(result, markdown):
    """The same in figures, with what limits each shape."""
    bandwidth = result["machine"]["limits"]["bandwidth"]
    rates = ", ".join(f"{level} {rate / 1e9:.0f} GB/s" for level, rate in bandwidth.items())
    yield "## What limits the LSTM on one thread"
    yield (
        f"Multiply-adds in registers: {result['machine']['peak']['1'] / 1e9:.0f} GFLOP/s; {rates}. "
        "Per cent of the time. bench/roofline.py says at its top what counts as a byte."
    )
    heads = ["", "GFLOP/s", "FLOP per byte", "FMA at the peak", "cells", "all else"]
    lines = []
    for one in shapes(result):
        shares = [f"{t / one.seconds:.0%}" for t in (one.at_peak, one.cells, one.rest, one.moving)]
        shares[-1] += f" ({one.level})"
        speed = f"{one.flop / one.seconds / 1e9:.0f}", f"{one.flop / one.bytes:.1f}"
        lines.append([one.label, *speed, *shares, one.limit()])
    yield markdown([*heads, "bytes would take", "limited by"], lines)
