"""A contender: the process that does the work of one library and times it when it is told to.

referee.py runs this file as a script, in a Python that may lack pyoptk: it needs NumPy alone. It
holds the process to as many cores as it has threads. Files named inputs.py make the inputs, the
same for every library. The work is in other files, one per library, with one function per task:

    task(**inputs, **settings) -> work[, outcome[, {"before": ..., "times": ...}]]

`work()` is timed; `outcome(found)` gets what it returned and returns the arrays to compare;
`before()` is called before every `work()` and not timed; `times` says how often one call does the
work. A pair of works is forward and backward: a row can ask for one of them. A task that has
several ways returns a list of functions that make the work; the quickest is taken. A library that
cannot do the task raises NotImplementedError. `start(threads, **options)` of a file may return the
names of the only tasks it does. A function `every` does any task: the roof.
"""

import gc
import importlib
import importlib.metadata
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

if __name__ == "__main__" and hasattr(os, "sched_setaffinity"):
    # Not every library heeds the number of threads; the system does.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
np: Any = importlib.import_module("numpy")  # starts threads on these cores
CALLS_BEFORE_SAMPLE = 2
TICK = 20e-6  # seconds: shorter calls are timed several at once
INPUTS = os.path.join(os.path.dirname(__file__), "contenders", "inputs.py")


def sample(arrays: Iterable[Any]) -> list[float]:
    """Some elements of each array, spread evenly: enough to tell a wrong answer."""
    found: list[float] = []
    for array in arrays:
        flat = np.asarray(array).ravel()
        found += [float(flat[i]) for i in np.linspace(0, flat.size - 1, 4).astype(int)]
    return found


class Worker:
    """Prepares a row, then times blocks of it. A file may add tasks, or inputs, to those before."""

    def __init__(self, files: Sequence[str], threads: int, options: dict[str, Any]) -> None:
        self.tasks: dict[str, Any] = {}
        self.inputs = runpy.run_path(INPUTS)
        self.versions: dict[str, str] = {}
        for file in files:
            found = runpy.run_path(file)
            for name in found.get("PACKAGES", ()):  # raises ModuleNotFoundError
                self.versions[name] = importlib.metadata.version(name)
            (self.inputs if os.path.basename(file) == "inputs.py" else self.tasks).update(found)
        self.threads, self.options = threads, options
        self.work: Callable[[], Any] | None = None

    def prepare(
        self, task: str, sizes: dict[str, Any], settings: dict[str, Any], *,
        part: str = "", **amount: Any,
    ) -> list[float] | None:  # fmt: skip
        """Make the work, do it twice, return a sample of the outcome; None: it has no such task."""
        self.work = self.before = None
        gc.collect()  # the arrays of the last row
        able = self.tasks["start"](self.threads, **self.options) if "start" in self.tasks else None
        if able and task not in able:
            return None
        if task in self.tasks:
            given = settings | (self.inputs[task](**sizes) if task in self.inputs else sizes)
        elif "every" in self.tasks:
            dtype = settings.get("compute", sizes.get("dtype", "float32"))
            task, given, part = "every", {**amount, "dtype": dtype}, ""
        else:
            return None
        try:
            made = self.tasks[task](**given)
            made = self.quickest(made) if isinstance(made, list) else made
        except NotImplementedError:
            return None
        work, outcome, more = (*(made if isinstance(made, tuple) else [made]), None, None)[:3]
        self.before, self.times = (more or {}).get("before"), (more or {}).get("times", 1)
        if isinstance(work, tuple):
            forward, backward = work
            both = {"forward": (None, forward), "backward": (forward, backward)}
            self.before, work = both.get(part, (None, lambda: (forward(), backward())[1]))
        elif part:
            return None
        self.work = work
        del given, made
        for _ in range(CALLS_BEFORE_SAMPLE):
            if self.before:
                self.before()
            found = work()
        shown = sample(outcome(found)) if outcome else []
        self.seconds = self.time(1)
        return shown

    def quickest(self, makes: list[Callable[[], Any]]) -> Any:
        """What the function returns whose work is quickest: the least of three calls, after one."""

        def seconds(make: Callable[[], Any]) -> float:
            works = make()[0]
            works = works if isinstance(works, tuple) else (works,)
            self.work = lambda: [work() for work in works]
            return min([self.time(1) for _ in range(4)][1:])

        return (min(makes, key=seconds) if len(makes) > 1 else makes[0])()

    def time(self, calls: int) -> float:
        """Seconds of one call of the work, over `calls` of them."""
        work, before, total = self.work, self.before, 0.0
        assert work is not None
        turns, every = (1, range(calls)) if before is None else (calls, range(1))
        for _ in range(turns):
            if before is not None:
                before()
            start = time.perf_counter()
            for _ in every:
                work()
            total += time.perf_counter() - start
        return total / calls

    def block(self, seconds: float) -> float:
        """The median over a block of this length, after calls to warm up where they are short."""
        if seconds:
            time.sleep(0.02 if self.threads == 1 else 0.06)  # others' threads may still spin
        for calls, share in (1, 1), (2, 4):
            if self.seconds < seconds / share:
                self.seconds = self.time(calls)
        calls = max(1, int(TICK / self.seconds))
        found, end = [self.time(calls)], time.perf_counter() + seconds - self.seconds
        while time.perf_counter() < end:
            found.append(self.time(calls))
        median: float = sorted(found)[len(found) // 2] / self.times
        return median


def main() -> None:
    """Serve the files given on the command line until there is no more input."""
    files, threads, options = json.loads(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a referee that is gone ends it silently
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the answers

    def say(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    try:
        worker = Worker(files, threads, options)
    except ModuleNotFoundError as missing:
        return say(missing=missing.name or str(missing))
    say(versions=worker.versions)
    gc.freeze()  # what is imported is not looked through before every row
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if "block" in message:
                say(seconds=worker.block(message["block"]))
            else:
                say(sample=worker.prepare(**message))
        except Exception as error:  # noqa: BLE001  (whatever a library raises is reported)
            say(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
