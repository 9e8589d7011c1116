"""What the forecast demo prints: its data before the training, its outcome after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .ahead import decimals_of
from .dates import listed

if TYPE_CHECKING:
    from .forecast import Outcome, Task


@dataclass(frozen=True)
class Words:
    """How a report and a picture name the series, its axis, its unit and its rows."""

    title: str
    axis: str
    unit: str
    row: str


CO2 = Words("CO2 at Mauna Loa, monthly means", "CO2 (ppm)", "ppm", "month")


def beaten_by(outcome: Outcome) -> list[str]:
    """The baselines that the model does not beat."""
    (_, ours), *baselines = outcome.errors.items()
    return [name for name, error in baselines if not ours < error]


def task(task: Task, words: Words, cell: str, clipped: str, batch: int) -> None:
    """What is trained on what."""
    data, labels, start = task.series, task.series.labels, task.start
    print(words.title)
    print(f"  rows       {len(labels)}, {labels[0]} to {labels[-1]}, season {data.season}")
    gaps = data.gaps()
    for word, sentence in data.notes:
        print(f"  {word:10} {sentence}")
    if gaps:
        filled = np.count_nonzero(~data.observed)
        print(f"  gaps       {filled} values interpolated: {listed(gaps)}")
    if data.cut:
        print(f"  cut off    {data.cut} rows without a value at the ends")
    print(f"  held out   {len(labels) - start} rows, {labels[start]} to {labels[-1]}")
    print(
        f"  model      {cell}(64) -> {cell}(32) -> Linear(1), float32,"
        f" on windows of {task.windows.shape[0]} changes"
    )
    print(f"  training   MSE, {clipped}, Adam, batches of {batch}", flush=True)


def outcome(outcome: Outcome, words: Words) -> None:
    """How good and how fast it was."""
    width, ahead = max(map(len, outcome.errors)), outcome.ahead
    unit, plain = (f", {words.unit}", f" {words.unit}") if words.unit else ("", "")
    plural = "" if outcome.scored == 1 else "s"
    title = f"one {words.row} ahead, {outcome.scored} held-out {words.row}{plural}"
    print(f"\n{title:{width}}   mean absolute error{unit}")
    smallest = min((error for error in outcome.errors.values() if error > 0), default=1.0)
    digits = decimals_of(smallest)
    for name, error in outcome.errors.items():
        print(f"  {name:{width}} {error:20.{digits}f}")
    lost = beaten_by(outcome)
    if lost:
        print(f"  The model does not beat: {', '.join(lost)}.")
    else:
        print("  The model beats all three baselines.")
    print(
        f"\n  next       {ahead.values[0]:.{digits}f}{plain}, the {words.row}"
        f" after {outcome.task.series.labels[-1]};"
        f" 9 of 10 held-out errors are below {ahead.spread[0]:.{digits}f}"
    )
    if ahead.values.size > 1:
        print(
            f"  {f'{words.row} {ahead.values.size}':10} {ahead.values[-1]:.{digits}f}{plain};"
            f" 9 of 10 held-out errors so far ahead are below {ahead.spread[-1]:.{digits}f}"
        )
    print(
        f"  training   {len(outcome.losses)} steps in {outcome.seconds:.1f} s,"
        f" {outcome.samples / outcome.seconds:,.0f} samples per second"
    )
    if outcome.ranks:
        plural = "" if outcome.ranks == 1 else "s"
        print(f"  weights    CRC-32 {outcome.checksum:08x}, on {outcome.ranks} rank{plural}")
    if math.isnan(outcome.step_ms):
        return
    print(
        f"  one step   {outcome.step_ms:.2f} ms, in NumPy {outcome.numpy_step_ms:.2f} ms,"
        f" {outcome.numpy_step_ms / outcome.step_ms:.1f} times as long (one thread each)"
    )
