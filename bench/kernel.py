"""The rows of the kernels, for pytest (conftest.py) and for two commits side by side (compare.py).

A row is a kernel x dtype x size x threads x contender. Each bench_*.py names its KERNELS, those
that are NOT_IN_TORCH, and SIZES; its functions `ours`, `twin`, `roof` and `torch` return the call
to time and, where something must be done before each call, a function that does it and returns what
the `setup` of pytest-benchmark may. `work` tells the bytes or FLOPs in it, `describe` the size in
words.
"""

import importlib.util
import runpy
from pathlib import Path

import pyoptk

PACKAGES = ("pyoptk",)
HERE = Path(__file__).parent
FILES = sorted(p.name for p in HERE.glob("bench_*.py") if "\nKERNELS = " in p.read_text())
CONTENDERS = ["ours", "twin", "roof"]
if importlib.util.find_spec("torch") is not None:
    CONTENDERS.append("torch")


def rows_of(module, quick):
    """Kernel, dtype, size, threads and contender; quick: two sizes and one thread."""
    all_threads = pyoptk.get_num_threads()
    for name in module.KERNELS:
        for dtype in ("float32", "float64"):
            for size in module.SIZES[:2] if quick else module.SIZES:
                for threads in (1,) if quick else sorted({1, all_threads}):
                    for contender in CONTENDERS:
                        if contender != "torch" or name not in module.NOT_IN_TORCH:
                            yield name, dtype, size, threads, contender


def kernel(file, name, dtype, size, *, threads):
    """A task for `pyoptk.bench.duel`: what `ours` of a file times, and what comes before it."""
    size = tuple(size) if isinstance(size, list) else size
    pyoptk.set_num_threads(threads)
    made = runpy.run_path(str(HERE / file))["ours"](name, dtype, size, threads)
    if not isinstance(made, tuple):
        return made, list
    call, before = made

    def work():
        positional, named = before() or ((), {})
        call(*positional, **named)

    return work, list
