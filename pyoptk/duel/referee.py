"""The referee: contenders take turns, each in a process of its own, one at work at a time.

In one process, two OpenMP runtimes would spin against each other and every figure would be wrong.
The figure of a round is the median over a block of time. Contenders are compared round by round, so
that a machine that slows down for a while slows down all of them.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .. import _interrupt

SCRIPT = str(Path(__file__).with_name("contender.py"))
OURS = Path(__file__).with_name("contenders")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # NPROC: XLA
# Largest relative and absolute distance of an answer from ours; 1e-4 where nothing stands.
TOLERANCE = {"layer": 1e-3}

PATIENCE = 300.0  # seconds after which a contender that does not answer is ended

Row = dict[str, Any]
ASKED = ("task", "sizes", "settings", "part", "bytes", "flop", "only_read")  # of a row


@dataclass(frozen=True)
class Entry:
    """A contender's name, the files with its work, and the Python that has the library."""

    name: str
    files: Sequence[Path]
    python: str = sys.executable
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None  # where not those of the whole run
    environment: Mapping[str, str] = field(default_factory=dict)


class Contender:
    """The process of one `Entry`; `missing` names the package that it lacks."""

    def __init__(self, entry: Entry, threads: int) -> None:
        self.name, self.missing = entry.name, ""
        self.versions: dict[str, str] = {}
        threads = entry.threads or threads
        environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
        environment |= {**dict.fromkeys(THREADS, str(threads)), **entry.environment}
        tools = str(Path(entry.python).parent)  # DeepSpeed looks for ninja on the path
        environment["PATH"] = os.pathsep.join([tools, environment.get("PATH", "")])
        files = json.dumps([str(file) for file in entry.files])
        self.process = subprocess.Popen(
            [entry.python, "-P", SCRIPT, files, str(threads), json.dumps(dict(entry.options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # an interrupt from the keyboard is for the referee alone
        )
        _interrupt.before_leaving.add(self.end)

    def greet(self) -> None:
        """Learn its versions, or what is missing."""
        said = self.listen()
        self.versions = said.get("versions", {})
        self.missing = said.get("missing") or said.get("error", "")

    def ask(self, **message: Any) -> dict[str, Any]:
        """The answer to a question."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended, and `listen` returns that
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        return self.listen()

    def listen(self) -> dict[str, Any]:
        """What it says, which is one line; an ended process says an error, too."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.process.kill()
        answer = self.process.stdout.readline()
        if not answer:
            return {"error": f"ended with status {self.process.wait()}"}
        said: dict[str, Any] = json.loads(answer)
        return said

    def end(self) -> None:
        """End it, and whatever it has started, which is in the session that it leads."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        _interrupt.before_leaving.discard(self.end)
        with suppress(BrokenPipeError):  # where a question was still on its way
            self.process.communicate()


def fight(
    contenders: Sequence[Contender], row: Row, rounds: int, block: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds per round of every contender that does this work, and the errors of the others.

    The others must arrive at the numbers of the first contender.
    """
    case = {key: row[key] for key in ASKED if key in row}
    answers = {contender: contender.ask(**case) for contender in contenders}
    errors = {c.name: said["error"] for c, said in answers.items() if "error" in said}
    samples = {c: s for c, said in answers.items() if (s := said.get("sample")) is not None}
    expected = samples.get(contenders[0], [])
    for contender, found in samples.items():
        if not same(found, expected, row.get("tolerance", TOLERANCE.get(row["task"], 1e-4))):
            errors[contender.name] = "its numbers are not ours"
    seconds: dict[Contender, list[float]] = {c: [] for c in samples if c.name not in errors}
    for _ in range(rounds):
        for contender, times in seconds.items():
            said = contender.ask(block=row.get("block", block))
            if "error" in said:
                errors[contender.name] = said["error"]
            times.append(said.get("seconds", math.nan))
    return {c.name: times for c, times in seconds.items() if c.name not in errors}, errors


def same(found: Sequence[float], expected: Sequence[float], tolerance: float) -> bool:
    """Whether two samples agree as far as both go."""
    pairs = zip(found, expected, strict=False)
    return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in pairs)


def run(
    entries: Iterable[Entry],
    rows: Iterable[Row],
    *,
    threads: int,
    rounds: int = 7,
    block: float = 0.1,
    show: Callable[[Row], None] = lambda row: None,
) -> dict[str, Any]:
    """Every row by every contender that can: the rows with seconds, versions, and who is missing.

    `threads` are those of every contender that has no number of its own, `rounds` how many turns
    each takes, `block` the seconds of a turn; `show` gets each row when it is done.
    """
    entries = list(entries)
    missing = {e.name: f"no {e.python}" for e in entries if not Path(e.python).exists()}
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(Contender(e, threads)) for e in entries if e.name not in missing
        ]
        for contender in contenders:
            contender.greet()
        missing |= {c.name: c.missing for c in contenders if c.missing}
        present = [c for c in contenders if not c.missing]
        done = []
        for row in rows:
            if len(present) * row.get("bytes", 0) > free_memory():
                done.append({**row, "seconds": {}, "errors": {"all": "not enough memory"}})
            else:
                seconds, errors = fight(present, row, rounds, block)
                done.append({**row, "seconds": seconds, "errors": errors})
            show(done[-1])
    return {
        "threads": threads, "rounds": rounds, "block": block, "missing": missing, "rows": done,
        "versions": {name: v for c in present for name, v in c.versions.items()},
    }  # fmt: skip


def free_memory() -> float:
    """Bytes that processes may still take; infinity where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024.0 * int(x.split()[1]) for x in lines if "MemAvailable" in x), math.inf)


def ratios(row: Row, peer: str, base: str = "pyoptk") -> list[float]:
    """How many times as long `peer` takes, round by round, sorted; empty where one is absent."""
    seconds = row["seconds"]
    if peer not in seconds or base not in seconds:
        return []
    return sorted(a / b for a, b in zip(seconds[peer], seconds[base], strict=True))


def middle(row: Row, peer: str, base: str = "pyoptk") -> float:
    """The median of those; 0 where one is absent."""
    return statistics.median(ratios(row, peer, base) or [0.0])


def spread(found: Sequence[float]) -> str:
    """Sorted ratios in words: their median and their range; empty where there are none."""
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})" if found else ""


def median(row: Row, name: str = "pyoptk") -> float:
    """Seconds of one contender: the median over its rounds; NaN where it is absent."""
    return float(statistics.median(row["seconds"].get(name, [math.nan])))


def fastest(row: Row, names: Iterable[str]) -> str:
    """The one of these with the least median; empty where none took part."""
    present = [name for name in names if name in row["seconds"]]
    return min(present, key=lambda name: median(row, name), default="")


def best(row: Row, library: str) -> str:
    """The fastest way of a library; empty where it was not there."""
    return fastest(row, [name for name in row["seconds"] if name.split(" ")[0] == library])


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


APART, BEYOND = 1.3, 1.15
FEW = 0.2  # of the rows
BRIEF = 10e-6  # seconds: where the call of the roof counts, too


def noise(rows: Sequence[Row], who: str = "pyoptk", roof: str = "roof") -> str:
    """A sentence if the machine was too busy for these figures to mean much; else nothing.

    Two signs: rounds of the same work that are far apart, and steps and layers that are faster than
    their roof, which happens where something else slows down the roof.
    """
    bounded = [row for row in rows if row["task"] in ("step", "layer", "stream", "forecaster")]
    ours = {row["label"]: row["seconds"][who] for row in rows if who in row["seconds"]}
    apart = [label for label, times in ours.items() if max(times) > APART * min(times)]
    above = [row for row in bounded if median(row, roof) > max(BEYOND * median(row, who), BRIEF)]
    if len(apart) <= FEW * len(ours) and not above:
        return ""
    found = f"the rounds of {len(apart)} of {len(ours)} rows are more than {APART:g} times apart"
    found += f", and {len(above)} rows are faster than their roof" if above else ""
    return f"This machine was busy with something else: {found}. Measure again."
