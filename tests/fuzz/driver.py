"""Runs tries in a child process, so that a crash is told like any other failure.

The child says on a pipe which try begins and what went wrong; one that dies or hangs is replaced by
one that begins behind that try.
"""

import argparse
import collections
import faulthandler
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time

from . import (
    bare,
    calls,
    dense,
    files,
    layers,
    models,
    moments,
    optimizers,
    scans,
    threads,
    wrappers,
)
from .trial import SANITIZED, Try

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
LONGEST = 60  # seconds that a try may take
MOST_MEMORY = 4 * 2**30  # bytes of addresses


def classes():
    """Every class of tries by name: its function, and how many of them make a round."""
    return {
        "optimizer": (optimizers.optimizer, 10),
        "construction": (optimizers.construction, 3),
        "wrapper": (wrappers.wrapper, 5),
        "swa": (wrappers.swa, 1),
        "layer": (layers.layer, 8),
        "weights": (layers.weights, 2),
        "making": (layers.making, 2),
        "rule": (bare.rule, 5),
        "elementwise": (bare.elementwise, 2),
        "matmul": (bare.matmul, 3),
        "dropout": (bare.dropout, 2),
        "minimal": (scans.minimal, 2),
        "scan": (scans.scan, 3),
        "dense": (dense.dense, 5),
        "model": (models.model, 4),
        "clip": (bare.clip, 3),
        "schedule": (bare.schedule, 3),
        "call": (calls.call, 5),
        "flags": (calls.flags, 2),
        "names": (calls.names, 1),
        "checkpoint": (files.checkpoint, 5),
        "kill": (files.kill, 1),
        "interrupt": (moments.interrupt, 5),
        "threads": (threads.threads, 2),
        "small_stack": (threads.small_stack, 1),
        "fork": (threads.fork, 1),
    }


def table():
    """A row for each class: name, how many tries make a round, the first line of its docstring."""
    return [
        [name, str(times), function.__doc__.splitlines()[0].rstrip(".")]
        for name, (function, times) in classes().items()
    ]


def die(t):
    """A try that ends the process, for the test of this file; in no run unless it is named."""
    os.kill(os.getpid(), signal.SIGSEGV)


def function_of(name):
    return (die, 1) if name == "die" else classes()[name]


def run_one(name, seed, number):
    """One try. Returns how much was compared and how many calls were refused; raises a Fault."""
    t = Try(name, seed, number)
    function_of(name)[0](t)
    return t.compared, t.refused


def begin():
    """What every process that tries something does first."""
    faulthandler.enable()
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def child(pipe, seed, seconds, rounds, start):
    """Tries of all classes by turns, from `start` on ({class: number}), for some time or rounds."""
    begin()

    def tell(*what):
        os.write(pipe, json.dumps(what).encode() + b"\n")

    end, at, done = time.monotonic() + seconds, dict(start), 0
    while time.monotonic() < end and done < rounds:
        done += 1
        for name in start:
            function, times = function_of(name)
            for _ in range(times):
                if time.monotonic() >= end:
                    break
                tell("try", name, at[name])
                t = Try(name, seed, at[name])
                try:
                    function(t)
                except Exception as error:  # noqa: BLE001
                    tell("fault", name, at[name], f"{type(error).__name__}: {error}"[:1000])
                else:
                    tell("done", name, t.compared, t.refused)
                at[name] += 1
    tell("end")


class Report:
    """What a run found, and how much it did."""

    def __init__(self, seed):
        self.seed, self.faults = seed, []
        self.alike = collections.Counter()
        self.tries, self.compared, self.refused = (collections.Counter() for _ in range(3))

    def fault(self, name, number, what):
        self.faults.append((name, number, what))
        what = " ".join(what.split())
        kind = name, re.sub(r"[-\d.,]+", "", what)[:60]
        self.alike[kind] += 1
        if self.alike[kind] > 2:
            return
        print(
            f"python -m tests.fuzz --class {name} --seed {self.seed} --try {number}  # {what}",
            flush=True,
        )

    def done(self, name, compared, refused):
        self.tries[name] += 1
        self.compared[name] += compared
        self.refused[name] += refused

    def summary(self):
        lines = [
            f"{name}: {self.tries[name]} tries, {self.compared[name]} comparisons, "
            f"{self.refused[name]} refusals"
            for name in self.tries
        ]
        return "\n".join(
            [*lines, f"{len(self.faults)} faults of {len(self.alike)} kinds, seed {self.seed}"]
        )


def _messages(process, pipe):
    """What the child says; None where it dies or hangs."""
    buffer = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], LONGEST)
        chunk = os.read(pipe, 65536) if ready else b""
        if not chunk:
            if not ready:
                process.send_signal(signal.SIGABRT)  # faulthandler says where it hangs
            yield None
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


def run(names, seed, seconds=1e9, rounds=1e9, most_faults=1000):
    """Tries of these classes until the time is up; returns the report."""
    report, at = Report(seed), dict.fromkeys(names, 0)
    end = time.monotonic() + seconds
    while len(report.faults) < most_faults:
        reading, writing = os.pipe()
        options = {
            "pipe": writing,
            "seed": seed,
            "seconds": end - time.monotonic(),
            "rounds": rounds,
            "start": at,
        }
        command = [sys.executable, PROGRAM, "--child", json.dumps(options)]
        process = subprocess.Popen(command, pass_fds=[writing])
        os.close(writing)
        trying = None
        for message in _messages(process, reading):
            if message is None:
                status = process.wait()
                if trying is None:
                    raise RuntimeError(f"the child did not begin: status {status}")
                report.fault(*trying, f"the process ended or hung: status {status}")
                break
            kind, *rest = message
            if kind == "end":
                break
            if kind == "try":
                trying = rest
                at[rest[0]] = rest[1] + 1
            elif kind == "fault":
                report.fault(*rest)
                if len(report.faults) >= most_faults:
                    process.kill()
                    break
            else:
                report.done(*rest)
        os.close(reading)
        if message and message[0] == "end":
            process.wait()
            break
        rounds = max(rounds - 1, 0)
    return report


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random calls.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=10**9, help="stop after so many rounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", "--class", dest="only", help="one class, or several: a,b")
    parser.add_argument("--try", dest="number", type=int, help="this one alone, in this process")
    parser.add_argument("--table", action="store_true", help="the table of docs/testing.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        options = json.loads(given.child)
        return child(
            options["pipe"],
            options["seed"],
            options["seconds"],
            options["rounds"],
            options["start"],
        )
    if given.table:
        print("\n".join(f"| {' | '.join(row)} |" for row in table()))
        return 0
    names = given.only.split(",") if given.only else list(classes())
    if given.number is not None:
        begin()
        print(*run_one(names[0], given.seed, given.number), "compared, refused")
        return 0
    report = run(names, given.seed, given.minutes * 60, given.rounds)
    print(report.summary())
    return 1 if report.faults else 0
