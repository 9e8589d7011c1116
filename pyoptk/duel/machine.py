"""The machine: its processor and caches, and what a published figure needs beside it."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
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


def caches() -> dict[str, tuple[int, int]]:
    """The caches of the first core, as in L1d and L2: bytes, and how many cores share each.

    Empty if not known; macOS tells the sizes alone.
    """
    if sys.platform == "darwin":
        return {level: (size, 1) for level, size in _of_macos()}
    found = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with suppress(OSError, ValueError):
            names = "level", "type", "size", "shared_cpu_list"
            level, kind, size, cores = ((cache / name).read_text().strip() for name in names)
            ends = (part.partition("-") for part in cores.split(","))  # "0-7,16-23"
            shared = sum(int(b or a) - int(a) + 1 for a, _, b in ends)
            if kind != "Instruction":
                name = f"L{level}" + "d" * (kind == "Data")
                found[name] = int(size.removesuffix("K")) * 1024, shared
    return found


def _of_macos() -> Iterator[tuple[str, int]]:
    for level, key in (("L1d", "l1dcachesize"), ("L2", "l2cachesize"), ("L3", "l3cachesize")):
        command = ["/usr/sbin/sysctl", "-n", f"hw.{key}"]
        with suppress(OSError, ValueError, subprocess.SubprocessError):
            yield level, int(subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=5))


def cache_sizes() -> list[str]:
    """As in ``['L1d 32 KiB', 'L2 1 MiB']``."""
    units = ((2**20, "MiB"), (2**10, "KiB"))
    told = []
    for level, (size, _) in caches().items():
        unit, name = units[size < units[0][0]]
        told.append(f"{level} {size / unit:g} {name}")
    return told


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
