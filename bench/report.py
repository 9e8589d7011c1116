"""Tables from ``bench.peers`` runs: ``python -m bench.report RESULT.json [MORE.json ...]``.

The first run's table goes into README.md, between two markers; all of them, with their noise, into
docs/performance.md. Neither is ever typed. Rows where a peer is faster stay in.
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


PEERS = ("numpy", "torch", "deepspeed")
PERFORMANCE = README.parent / "docs" / "performance.md"


def with_noise(row: dict[str, Any], peer: str) -> str:
    """Median and range of the ratios; in bold where the peer is faster."""
    if peer not in row["seconds"]:
        return ""
    pairs = zip(row["seconds"][peer], row["seconds"]["pyoptk"], strict=True)
    ratios = sorted(theirs / ours for theirs, ours in pairs)
    middle = statistics.median(ratios)
    told = f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"**{told}**" if round(middle, 2) < 1 else told


def full_table(result: dict[str, Any]) -> str:
    lines = [
        f"## {result['threads']} thread(s)\n",
        f"| float32 | {' | '.join(PEERS)} |",
        f"|---{'|---' * len(PEERS)}|",
    ]
    for row in result["rows"]:
        cells = " | ".join(with_noise(row, peer) for peer in PEERS)
        lines.append(f"| {row['label']} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    results = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    before, rest = README.read_text().split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{table(results[0])}\n{END}{after}")
    machine, versions = results[0]["machine"], results[0]["versions"]
    PERFORMANCE.write_text(
        "# Performance\n\n"
        "How many times longer the peer takes: the median over the rounds, and their range. Bold\n"
        "where the peer is faster. Written by `python -m bench.report` from runs of `python -m\n"
        "bench.peers`; only the ratios mean anything.\n\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {results[0]['date']}; "
        f"{', '.join(f'{k} {v}' for k, v in versions.items())}.\n\n"
        + "\n\n".join(full_table(result) for result in results)
        + "\n"
    )


if __name__ == "__main__":
    main()
