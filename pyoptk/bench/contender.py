"""A contender: the process that does one library's work whenever the referee (duel.py) asks.

Run as a script, by its path, in an environment that may lack pyoptk: it needs NumPy alone. The work
is a function of another file, `task(**inputs, threads=..., **settings)`, which returns the call to
time, a function that gives the arrays it arrived at, and, where one call does the work several
times, how often. Everybody gets the same inputs, made here, and is held to the same cores.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:  # NumPy is imported once the cores are chosen
    import numpy as np

Arrays = list["np.ndarray[Any, Any]"]

CALLS_BEFORE_SAMPLE = 2
TICK = 20e-6  # seconds: calls shorter than this are timed several at once


# ---- the inputs of each task ---------------------------------------------------------------------


def step_inputs(count: int, n: int) -> dict[str, Arrays]:
    """`count` parameters of n elements, with gradients."""
    import numpy as np

    rng = np.random.default_rng(0)
    base = rng.standard_normal(min(n, 1 << 20), np.float32)
    params = [np.resize(base, n) for _ in range(count)]
    return {"params": params, "grads": [p[::-1].copy() for p in params]}


def lstm_inputs(
    T: int, B: int, I: int, H: int, dtype: str = "float32", layers: int = 1, directions: int = 1
) -> dict[str, Any]:
    """A batch of sequences, the gradient of the output, and PyTorch's weights in its order."""
    import numpy as np

    rng = np.random.default_rng(0)

    def uniform(*shape: int) -> Any:
        return rng.uniform(-1, 1, shape).astype(dtype)

    scale = np.sqrt(H).astype(dtype)
    weights = []
    for k in range(layers * directions):
        below = I if k < directions else directions * H
        weights += [uniform(4 * H, below), uniform(4 * H, H), uniform(4 * H), uniform(4 * H)]
    return {
        "x": uniform(T, B, I),
        "dy": uniform(T, B, directions * H),
        "weights": [w / scale for w in weights],
    }


def forecaster_inputs(B: int, T: int) -> dict[str, Any]:
    """T steps of a noisy wave, the next value, and the weights of two LSTMs and a dense layer."""
    import numpy as np

    rng = np.random.default_rng(0)
    series = np.sin(np.arange(B + T) * 0.05) + 0.1 * rng.standard_normal(B + T)
    windows = np.stack([series[t : t + B] for t in range(T)])[:, :, None].astype("f4")
    lower, upper = (lstm_inputs(1, 1, I, H)["weights"] for I, H in ((1, 64), (64, 32)))
    head = [rng.uniform(-0.2, 0.2, (1, 32)).astype("f4"), np.zeros(1, "f4")]
    return {
        "windows": windows,
        "targets": series[T:].astype("f4"),
        "weights": [lower, upper, head],
    }


def mlp_inputs(layers: list[int], B: int) -> dict[str, Any]:
    """A batch, its labels, and per layer the weight [outputs, inputs] and the bias."""
    import numpy as np

    rng = np.random.default_rng(0)
    weights = [
        (rng.normal(0, np.sqrt(2 / a), (b, a)).astype("f4"), np.zeros(b, "f4"))
        for a, b in pairwise(layers)
    ]
    x = rng.standard_normal((B, layers[0])).astype("f4")
    return {"x": x, "labels": np.arange(B) % layers[-1], "weights": weights}


INPUTS: dict[str, Callable[..., dict[str, Any]]] = {
    "step": step_inputs,
    "lstm": lstm_inputs,
    "forecaster": forecaster_inputs,
    "mlp": mlp_inputs,
}


# ---- the process ---------------------------------------------------------------------------------


def sample(arrays: Iterable[Any]) -> list[float]:
    """Some elements of each array, spread evenly: enough to tell a wrong answer."""
    import numpy as np

    found: list[float] = []
    for array in arrays:
        flat = np.asarray(array).ravel()
        found += [float(flat[i]) for i in np.linspace(0, flat.size - 1, 4).astype(int)]
    return found


class Worker:
    """Answers the referee: prepares a case, then times blocks of it."""

    def __init__(self, file: str, threads: int, options: dict[str, Any]) -> None:
        self.tasks = runpy.run_path(file)
        self.threads, self.options = threads, options
        self.work: Callable[[], Any] | None = None
        self.times, self.seconds = 1, 0.0

    def versions(self) -> dict[str, str]:
        """Of the packages that the file names; ModuleNotFoundError for one that is missing."""
        names: tuple[str, ...] = self.tasks["PACKAGES"]
        return {name: importlib.metadata.version(name) for name in names}

    def prepare(self, task: str, sizes: dict[str, Any], settings: dict[str, Any]) -> Any:
        """Make the work, do it twice and show where that led; None if the library has no such."""
        self.work = None
        gc.collect()
        if task not in self.tasks:
            return None
        inputs = INPUTS[task](**sizes) if task in INPUTS else dict(sizes)
        try:
            made = self.tasks[task](**inputs, threads=self.threads, **settings, **self.options)
        except NotImplementedError:
            return None
        self.work, outcome, *times = made
        del inputs, made
        self.times = times[0] if times else 1
        for _ in range(CALLS_BEFORE_SAMPLE):
            self.work()
        shown = sample(outcome())
        self.seconds = self.time(1)
        return shown

    def time(self, calls: int) -> float:
        """Seconds of one call of the work, over `calls` of them."""
        assert self.work is not None
        work, every = self.work, range(calls)
        start = time.perf_counter()
        for _ in every:
            work()
        return (time.perf_counter() - start) / calls

    def block(self, seconds: float) -> float:
        """The median over a block of this length, after calls to warm up where they are short."""
        time.sleep(0.02 if self.threads == 1 else 0.06)  # others' threads may still spin
        if self.seconds < seconds:
            self.seconds = self.time(1)
        if self.seconds < seconds / 4:
            self.seconds = self.time(2)
        calls = max(1, int(TICK / self.seconds))
        found, end = [self.time(calls)], time.perf_counter() + seconds - self.seconds
        while time.perf_counter() < end:
            found.append(self.time(calls))
        found.sort()
        return found[len(found) // 2] / self.times


def answer(worker: Worker, message: dict[str, Any]) -> Any:
    """What the referee gets for one message; an error in the work is an answer too."""
    try:
        if "block" in message:
            return {"seconds": worker.block(message["block"])}
        return {"sample": worker.prepare(**message)}
    except Exception as error:  # noqa: BLE001  (whatever a library raises is told)
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Serve the file of tasks given on the command line until there is no more input."""
    file, threads, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    if hasattr(os, "sched_setaffinity"):
        # Settings for the number of threads are not heeded everywhere; the system's are.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a referee that is gone ends it silently
    answers: IO[str] = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not disturb the conversation

    def say(what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    try:
        worker = Worker(file, threads, options)
        say({"versions": worker.versions()})
    except ModuleNotFoundError as missing:
        say({"missing": missing.name or str(missing)})
        return
    for line in sys.stdin:
        say(answer(worker, json.loads(line)))


if __name__ == "__main__":
    main()
