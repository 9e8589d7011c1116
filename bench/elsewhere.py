"""The bars on a second machine: ``python -m bench.elsewhere RESULT.json ...``, on that machine.

Takes files that ``python -m bench peers-1`` or ``peers-2`` wrote there, with ``--only`` as well;
of a row that is in several, the last counts. Writes its section of docs/performance.md, which a new
report keeps. Only the reasons are typed.
"""

import json
import sys
from pathlib import Path

from pyoptk.duel.referee import duration, median

from . import bars, report

MOVES = (
    "its float32 arrays alone, 16 MB read and 8 written, take 0.9 ms of 3.6: a core reads 27 GB/s "
    "and writes 26 from its share of L3 (L2: 180 and 62). PyTorch's module moves half as many bytes"
)
KERNEL = (
    "at T 100, B 32, H 256 products take 85% of the time, at 150 GFLOP/s; from L1 the micro-kernel "
    "reaches 188 of the 230 of this roof, and four other tiles, unrolling and prefetch no more"
)
PAIRS = (
    "at T 100, B 32, H 256 products take 39% of an LSTM's time, cells 31%, rounding and turning "
    "22%; a product from L2 reaches 1.7 to 2.4 of the 3.8 TFLOP/s of this roof"
)
CALLS = (
    "calls, their checks and two new arrays take 2.7 us (with one row all takes 3.4); with "
    "products at their peak, 0.9 us for 8 rows, it would still be 2.3 times NumPy's speed"
)
SMALL = (
    "one thread: products take 54% of a step, cells 17%, Python 12%; with products at the roof it "
    "would still take 0.9 of the time"
)
LARGE = (
    "one thread: products alone take 2.35 ms, at 188 GFLOP/s, the most that the micro-kernel "
    "reaches from L1, and cells 0.7; sigmoids without divisions were no faster"
)
MODEL = "the products take a tenth at their peak; calls of two layers, loss and step are the rest"
# Part of a label: why its bars are not met there.
REASONS = {
    "512 rows, 1024 to 1024, compute": MOVES,
    "128 rows, 512 to 512, compute": "not known yet; the same code as 512 rows",
    "compute=bfloat16": PAIRS,
    "Linear and ReLU, 8 rows": CALLS,
    "Linear and ReLU, 32 rows, 64": CALLS,
    "Sequential 784-512-512-10, batch of 8": (
        "19 MB are read and 11 written, which at 27 GB/s takes 0.69 ms: Adam's step takes 0.38, "
        "and is at that roof"
    ),
    "Sequential 20-64-10": MODEL,
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
    for (threads, label), row in sorted(rows.items(), key=lambda item: item[0][0]):
        ours = duration(median(row))
        for one in bars.outcomes([{"rows": [row], "threads": threads}], None):
            why = "met" if one.met else reason(label, one.reason)
            yield [one.what, str(threads), ours, one.wanted, one.measured, why]


def main():
    results = [json.loads(Path(file).read_text()) for file in sys.argv[1:]]
    if not results:
        sys.exit("bench.elsewhere: expected files of a part peers-N, got none")
    told = [*lines(results)]
    heads = ["", "threads", "pyoptk", "wanted", "measured", "why not"]
    first = (
        f"{sum(line[-1] == 'met' for line in told)} of {len(told)} bars are met. "
        f"{report.where(results[-1])} Pieces of at most a minute, while all else on the machine "
        "stood still; other guests of its processor did not."
    )
    text = "\n\n".join([report.ELSEWHERE, first, report.markdown(heads, told)])
    report.put(report.ELSEWHERE, text)
    print(text)


if __name__ == "__main__":
    main()
