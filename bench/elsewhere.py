"""The bars on a second machine: ``python -m bench.elsewhere RESULT.json ...``, on that machine.

Takes files that ``python -m bench peers-1`` or ``peers-2`` wrote there, with ``--only`` as well;
of a row that is in several, the last counts. Writes a section of docs/performance.md for each kind
of row that there is, which a new report keeps; bars that are in no file stay there as they were.
Only the reasons are typed.
"""

import json
import sys
from pathlib import Path

from pyoptk.duel.referee import duration, median

from . import bars, report

MOVES = (
    "products take 1.6 of 3.1 ms, and with numbers that change tiles reach 2.9 to 3.3 TFLOP/s, "
    "1.05 ms; 16 MB of float32 are read in 0.52 ms and 8 written in 0.27 at what L3 gives (31 "
    "GB/s). A program for this shape alone takes 2.5 to 2.6. PyTorch's module, without float32 "
    "weights, moves half as many bytes; against its autocast it is 1.2 to 1.4. More: decisions.md"
)
ROUNDED = (
    "with one thread products take 72 us at what L2 gives, 3 MB read and 1.5 written 169 at what "
    "L3 gives: together 0.22 of this roof, which takes 53, and with two threads 148"
)
KERNEL = (
    "products take 85% of the time, at 182 to 230 GFLOP/s; the share is 0.75 to 0.79 while the "
    "processor's other guests are calm, 0.63 to 0.71 while they are not; with all products at the "
    "0.97 that an assembly loop reaches it would be 0.82 to 0.87: decisions.md"
)
PAIRS = (
    "this roof is that of tiles; of vdpbf16ps in registers, 124 GFLOP/s here, one thread reaches "
    "3.0 to 5.0 times as much, and 0.80 to 0.84 with avx512bf16. A product from L2 reaches 2.8 of "
    "the 3.8 TFLOP/s of tiles at best, and cells, which stay float32, take 20 to 31% of the time"
)
CALLS = (
    "kernels take 1.2 of 1.6 us, products among them 0.97, at 0.85 of their peak; two calls with "
    "their checks and results take the rest"
)
SMALL = (
    "one thread: products take 54% of a step, cells 17%, Python 12%; with products at the roof it "
    "would still take 0.9 of the time"
)
LARGE = (
    "with one thread products take two thirds of a step, near what the micro-kernel reaches from "
    "L1, and cells a fifth, which take longer than their operations because of what they write; "
    "with two, gradients of weights read half of dA from the other core: decisions.md"
)
CODES = "arithmetic: an element takes 0.52 ns of a core in L2, one of float32 0.32"
THEIRS = (
    "an element takes 0.52 ns of a core in L2; at 50,000,000 elements a step at the roof would be "
    "at 42 to 48, because bitsandbytes' own time differs by 1.8 times between rounds"
)
HALVES = "arithmetic: an element takes 0.54 ns of a core in L2, one of float32 0.32"
ONE_HALF = "arithmetic: an element takes 0.36 to 0.41 ns of a core in L2, one of float32 0.32"
NO_REST = (
    "it keeps no rest, and loses updates below a rounding: 22 bytes an element in place of 26, so "
    "that at one speed of memory it would take 0.85 times as long"
)
# Part of what a bar says: why it is not met there.
REASONS = {
    "master=remainder, against DeepSpeed": NO_REST,
    "bfloat16 states, bfloat16 with master=remainder": HALVES,
    "8bit states, against bitsandbytes": THEIRS,
    "8bit states": CODES,
    "10,000,000 elements, bfloat16": ONE_HALF,
    "512 rows, 1024 to 1024, compute": MOVES,
    "128 rows, 512 to 512, compute": ROUNDED,
    "compute=bfloat16": PAIRS,
    "Linear and ReLU, 8 rows": CALLS,
    "Sequential 784-512-512-10, batch of 8": (
        "17 MB come from L3 meanwhile, at 28 GB/s a core: at least 0.61 ms with one thread, where "
        "this asks for 0.48. Adam's step is at that roof (0.37 and 0.18), forward at 0.8 of it, "
        "backward at 0.65: decisions.md"
    ),
    "forecaster, batch of 32": SMALL,
    "forecaster, batch of 256": LARGE,
    "LSTM, T": KERNEL,
    "GRU, T": KERNEL,
}


def reason(what, found):
    """Why a bar is not met."""
    said = (why for part, why in REASONS.items() if part in what)
    return next(said, found or "not known yet")


def lines(results):
    """A line for each bar: what is wanted, what was measured, and why it is not met."""
    rows = {(result["threads"], row["label"]): row for result in results for row in result["rows"]}
    for (threads, _), row in sorted(rows.items(), key=lambda item: item[0][0]):
        ours = duration(median(row))
        for one in bars.outcomes([{"rows": [row], "threads": threads}], None):
            why = "met" if one.met else reason(one.what, one.reason)
            yield [one.what, str(threads), ours, one.wanted, one.measured, why]


def known(title):
    """Where the bars of a section were measured, and a line for each."""
    old = report.section((report.DOCS / "performance.md").read_text(), title)
    before = old.partition(" from before: ")[2] or old.partition(" bars are met. ")[2]
    rows = [line[2:-2].split(" | ") for line in old.splitlines() if line.startswith("| ")]
    told = [[*line, why if why == "met" else reason(line[0], why)] for *line, why in rows[1:]]
    return before.partition(" Pieces ")[0].partition("\n")[0], told


def main():
    results = [json.loads(Path(file).read_text()) for file in sys.argv[1:]]
    if not results:
        sys.exit("bench.elsewhere: expected files of a part peers-N, got none")
    for title, narrow in ((report.ELSEWHERE, False), (report.ELSEWHERE_NARROW, True)):
        rows = [
            one | {"rows": [row for row in one["rows"] if (row["task"] == "narrow") == narrow]}
            for one in results
        ]
        if new := {tuple(line[:2]): line for line in lines(rows)}:
            write(title, new, results)


def write(title, new, results):
    before, old = known(title)
    told = [*({tuple(line[:2]): line for line in old} | new).values()]
    heads = ["", "threads", "pyoptk", "wanted", "measured", "why not"]
    first = (
        f"{sum(line[-1] == 'met' for line in told)} of {len(told)} bars are met. "
        f"{report.where(results[-1])} Pieces of at most a minute, while all else on the machine "
        "stood still; other guests of its processor did not."
    )
    if others := len(told) - len(new):
        first += f" {others} bars are from before: {before}"
    text = "\n\n".join([title, first, report.markdown(heads, told)])
    report.put(title, text)
    print(text)


if __name__ == "__main__":
    main()
