"""The referee: contenders take turns, each in a process of its own, one at work at a time.

In one process two OpenMP runtimes would spin against each other, and every figure would be wrong.
The figure of a round is the median over a block of time; contenders are compared round by round, so
that a machine that slows down for a while slows down all of them.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .. import _interrupt

SCRIPT = Path(__file__).with_name("contender.py")
OURS = Path(__file__).with_name("contenders")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # NPROC: XLA
# How far from ours an answer may be, relative and absolute.
TOLERANCE = {"step": 1e-4, "lstm": 1e-3, "forecaster": 1e-4, "mlp": 1e-4}

PATIENCE = 300.0  # seconds after which a contender that does not answer is ended
ONE_BY_ONE = 1e9  # bytes of a step from which preparing all contenders at once takes much memory

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """Who takes part: a name, the file with its work, the Python that has the library."""

    name: str
    file: Path
    python: str = sys.executable
    options: Mapping[str, Any] = field(default_factory=dict)


class Contender:
    """The process of one `Entry`; `missing` names the package that it lacks."""

    def __init__(self, entry: Entry, threads: int) -> None:
        self.name, self.missing = entry.name, ""
        self.versions: dict[str, str] = {}
        environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
        environment |= dict.fromkeys(THREADS, str(threads))
        tools = str(Path(entry.python).parent)  # DeepSpeed looks for ninja on the path
        environment["PATH"] = os.pathsep.join([tools, environment.get("PATH", "")])
        given = str(entry.file), str(threads), json.dumps(dict(entry.options))
        self.process = subprocess.Popen(
            [entry.python, "-P", str(SCRIPT), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # an interrupt from the keyboard is for the referee alone
        )
        _interrupt.before_leaving.add(self.process.kill)

    def greet(self) -> None:
        """Learn its versions, or what is missing."""
        said = self.listen()
        self.versions = said.get("versions", {})
        self.missing = said.get("missing") or said.get("error", "")

    def tell(self, **message: Any) -> None:
        """Send a question; `listen` waits for the answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which `listen` tells
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def listen(self) -> dict[str, Any]:
        """The answer; an ended process answers with an error, too."""
        assert self.process.stdout is not None
        limit = threading.Timer(PATIENCE, self.process.kill)
        limit.daemon = True  # an exception before `cancel` must not keep the program alive
        limit.start()
        try:
            answer = self.process.stdout.readline()
        finally:
            limit.cancel()
        if not answer:
            return {"error": f"ended with status {self.process.wait()}"}
        said: dict[str, Any] = json.loads(answer)
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        _interrupt.before_leaving.discard(self.process.kill)
        with suppress(BrokenPipeError):  # where a question was still on its way
            self.process.communicate()


def fight(
    contenders: Sequence[Contender], row: Row, rounds: int, block: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds per round of every contender that does this work, and the errors of the others.

    The first contender is the one whose answer the others must reach.
    """
    case = {key: row[key] for key in ("task", "sizes", "settings")}
    answers = {}
    if row.get("bytes", 0) > ONE_BY_ONE:
        for contender in contenders:
            contender.tell(**case)
            answers[contender] = contender.listen()
    else:  # all at once: preparing is not timed, and compiling takes long
        for contender in contenders:
            contender.tell(**case)
        answers = {contender: contender.listen() for contender in contenders}
    errors = {c.name: said["error"] for c, said in answers.items() if "error" in said}
    expected = answers[contenders[0]].get("sample") or []
    ready = []
    for contender, said in answers.items():
        if said.get("sample") is None:
            continue
        if same(said["sample"], expected, TOLERANCE.get(row["task"], 0.0)):
            ready.append(contender)
        else:
            errors[contender.name] = "its numbers are not ours"
    seconds: dict[str, list[float]] = {contender.name: [] for contender in ready}
    for _ in range(rounds):
        for contender in ready:
            contender.tell(block=block)
            said = contender.listen()
            if "error" in said:
                errors[contender.name] = said["error"]
            seconds[contender.name].append(said.get("seconds", math.nan))
    return {k: v for k, v in seconds.items() if k not in errors}, errors


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

    Parameters
    ----------
    entries : iterable of Entry
        The first is the one whose answers the others must reach.
    rows : iterable of dict
        See `pyoptk.bench.rows`.
    threads : int
        For everybody.
    rounds, block : int, float
        How many turns each contender takes, and how many seconds a turn lasts.
    show : callable
        Gets each row when it is done.
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
    versions = {name: v for c in present for name, v in c.versions.items()}
    return {"threads": threads, "versions": versions, "missing": missing, "rows": done}


def free_memory() -> float:
    """Bytes that processes may still take; infinity where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024.0 * int(x.split()[1]) for x in lines if "MemAvailable" in x), math.inf)


def ratios(row: Row, peer: str, base: str) -> list[float]:
    """How many times longer `peer` takes, round by round, sorted; empty where one is absent."""
    seconds = row["seconds"]
    if peer not in seconds or base not in seconds:
        return []
    return sorted(a / b for a, b in zip(seconds[peer], seconds[base], strict=True))


def median(row: Row, name: str) -> float:
    """Seconds of one contender: the median over its rounds; NaN where it is absent."""
    return float(statistics.median(row["seconds"].get(name, [math.nan])))


def fastest(row: Row, names: Iterable[str]) -> str:
    """The one of these with the least median; empty where none took part."""
    present = [name for name in names if name in row["seconds"]]
    return min(present, key=lambda name: median(row, name), default="")
