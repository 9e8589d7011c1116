"""What a published figure needs beside it: the machine, the day, the command."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

import pyoptk


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    with suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def without_folders(word: str) -> str:
    """A path as others may repeat it: from the current folder, or its last part alone."""
    path = Path(word)
    if not path.is_absolute():
        return word
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def describe() -> dict[str, object]:
    """Machine, date and command line, for a result that is kept."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "isa": pyoptk.isa(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *map(without_folders, sys.orig_argv[1:])]),
    }
