"""What a published figure needs beside it: the machine, the day, the command."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

import pyoptk


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(
                line.split(":")[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the source tree that this package stands in, if it does; "" otherwise."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def describe() -> dict[str, object]:
    """Machine, date and command line, for a result that is kept."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "isa": pyoptk.isa(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
    }
