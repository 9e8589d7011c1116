"""Round-robin timing of contenders, each in a process of its own, one active at a time.

A contender is a function of contenders.py: function(**case) returns a callable that does the work
once. Each process may use another interpreter, so that libraries which cannot share an environment
can be compared. In one process, two OpenMP runtimes would spin against each other.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CONTENDERS = Path(__file__).with_name("contenders.py")


@dataclass
class Timing:
    """Seconds of one contender on one case: the median of each round."""

    rounds: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(self.rounds)

    def ratios_to(self, other: Timing) -> list[float]:
        """Round by round, how many times slower than `other`."""
        return sorted(a / b for a, b in zip(self.rounds, other.rounds, strict=True))


class Contender:
    """A process that does the work of one function of contenders.py when asked."""

    def __init__(self, function: str, python: str, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [python, str(Path(__file__)), function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )

    def ask(self, **message: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args!r} ended; its error stands above")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def duel(
    contenders: Mapping[str, Contender],
    case: Mapping[str, Any],
    rounds: int = 7,
    block_seconds: float = 0.15,
) -> dict[str, Timing]:
    """Time every contender `rounds` times in turn, in blocks, on `case`."""
    timings = {name: Timing() for name in contenders}
    repetitions = {}
    for name, contender in contenders.items():
        once = contender.ask(case=dict(case))
        repetitions[name] = max(3, min(5000, int(block_seconds / once)))
    for _ in range(rounds):
        for name, contender in contenders.items():
            timings[name].rounds.append(contender.ask(repetitions=repetitions[name]))
    return timings


def _serve(function: str) -> None:
    """The contender's side: reads a case, or how often to time it; answers with a median."""
    import runpy

    answers = os.fdopen(os.dup(1), "w")  # libraries that print must not disturb the conversation
    os.dup2(2, 1)
    make = runpy.run_path(str(CONTENDERS))[function]

    def time_once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def median(times: Sequence[float]) -> float:
        return sorted(times)[len(times) // 2]

    for line in sys.stdin:
        message = json.loads(line)
        if "case" in message:
            work = make(**message["case"])
            work(), work()
            repetitions = 5
        else:
            time.sleep(0.02)  # the previous contender's threads may still spin
            work(), work()
            repetitions = message["repetitions"]
        answers.write(json.dumps(median([time_once() for _ in range(repetitions)])) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
