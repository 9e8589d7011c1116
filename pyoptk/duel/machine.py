"""The machine: its processor and caches, and what a published figure needs beside it."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyoptk


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    with suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def caches() -> list[tuple[int, str, int, int]]:
    """Of the first core: level, type, bytes, and how many cores share it; empty if not known."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with suppress(OSError, ValueError):
            level, kind, size, shared = (
                (folder / name).read_text().strip()
                for name in ("level", "type", "size", "shared_cpu_list")
            )
            parts = (part.partition("-") for part in shared.split(","))  # "0-7,16-23"
            cores = sum(int(b or a) - int(a) + 1 for a, _, b in parts)
            found.append((int(level), kind, int(size.removesuffix("K")) * 1024, cores))
    if sys.platform == "darwin":
        for level, kind, key in ((1, "Data", "l1d"), (2, "", "l2"), (3, "", "l3")):
            command = ["/usr/sbin/sysctl", "-n", f"hw.{key}cachesize"]
            with suppress(OSError, ValueError, subprocess.SubprocessError):
                told = subprocess.run(command, capture_output=True, timeout=5, check=True)
                found.append((level, kind, int(told.stdout), 1))
    return found


def cache_sizes() -> list[str]:
    """The caches in words, as in ``['L1d 32 KiB', 'L2 1 MiB']``."""

    def words(size: int) -> str:
        return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"

    known = [cache for cache in caches() if cache[1] != "Instruction"]
    return [f"L{level}{'d' * (kind == 'Data')} {words(size)}" for level, kind, size, _ in known]


def threads(k: int) -> str:
    """A number of threads in words."""
    return f"{k} thread{'s' * (k != 1)}"


def note(result: dict[str, Any]) -> str:
    """What stands under a picture."""
    told = result["machine"]
    return f"{told['cpu']}, {threads(result['threads'])}, {told['date']}"


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
