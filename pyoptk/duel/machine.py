"""The machine: its processor and caches, and what a published figure needs beside it."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
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


def cache_sizes() -> list[str]:
    """The caches of the first core, as in ``['L1d 32 KiB', 'L2 1 MiB']``; empty if not known."""
    if sys.platform == "darwin":
        return _cache_sizes_of_macos()
    sizes = []
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (cache / name).read_text().strip() for name in ("level", "type", "size")
            )
            if kind != "Instruction":
                suffix = "d" if kind == "Data" else ""
                sizes.append(f"L{level}{suffix} {_bytes(int(size.removesuffix('K')) * 1024)}")
        except (OSError, ValueError):
            continue
    return sizes


def _cache_sizes_of_macos() -> list[str]:
    sizes = []
    for title, key in (("L1d", "l1dcachesize"), ("L2", "l2cachesize"), ("L3", "l3cachesize")):
        try:
            command = ["/usr/sbin/sysctl", "-n", f"hw.{key}"]
            text = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=5
            ).stdout
            sizes.append(f"{title} {_bytes(int(text))}")
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
    return sizes


def _bytes(size: int) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


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
