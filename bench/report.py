"""Put the table of a ``bench.peers`` run into README.md: ``python -m bench.report RESULT.json``.

The table stands between two markers and is never typed. Rows where a peer is faster stay in it.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- table: python -m bench.report -->", "<!-- end of table -->"


def ratio(row: dict[str, Any], peer: str) -> str:
    """How many times slower the peer is, median over the rounds."""
    if peer not in row["seconds"]:
        return ""
    rounds = zip(row["seconds"][peer], row["seconds"]["pyoptk"], strict=True)
    ratios = sorted(theirs / ours for theirs, ours in rounds)
    middle = statistics.median(ratios)
    digits = 2 if middle < 2 else 1 if middle < 10 else 0
    mark = " (slower)" if round(middle, 2) < 1 else ""
    return f"{middle:.{digits}f}x{mark}"


def table(result: dict[str, Any]) -> str:
    lines = [
        "| one thread, float32 | faster than NumPy | faster than PyTorch |"
        if result["threads"] == 1
        else f"| {result['threads']} threads, float32 | faster than NumPy | faster than PyTorch |",
        "|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(f"| {row['label']} | {ratio(row, 'numpy')} | {ratio(row, 'torch')} |")
    machine, versions = result["machine"], result["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    where = f"{machine['cpu']}, {machine['cores']} cores, {result['date']}; {told}."
    how = (
        "Median of the ratios of rounds in which all took turns, each in its own process; PyTorch "
        "with its fused optimizers where it has them. `python -m bench.peers` repeats it."
    )
    return "\n".join([*lines, "", f"{where} {how}"])


def main() -> None:
    result = json.loads(Path(sys.argv[1]).read_text())
    before, rest = README.read_text().split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{after}")


if __name__ == "__main__":
    main()
