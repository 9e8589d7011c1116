"""Which public names the API reference shows, page by page.  tests/test_site.py: all of them."""

from collections.abc import Iterator
from types import ModuleType

import pyoptk
import pyoptk.reference
from pyoptk import fitting, optim, scan
from pyoptk.optim import adam, classic

LAYERS = ("LSTM", "GRU", "RNN", "minGRU", "minLSTM")
FILES = ("save", "load")
MACHINE = (
    "get_num_threads", "set_num_threads", "threads_backend", "isa", "isas", "use_isa",
    "release_memory",
)  # fmt: skip
AROUND = ("Accumulation", "Lookahead", "SWA", "LossScaler")


def public(module: ModuleType) -> tuple[str, ...]:
    """The names that a module offers: __all__, or what is defined in it."""
    here = (n for n, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__)
    return tuple(getattr(module, "__all__", [n for n in here if not n.startswith("_")]))


# The module of each page and its names, in the order in which they are shown.
PAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "optimizers": {"pyoptk": ("Optimizer", *classic.__all__, *adam.__all__)},
    "around": {
        "pyoptk": (*AROUND, "SparseRows", *(n for n in optim.__all__ if n[0].islower())),
    },
    "recurrent": {"pyoptk": (*LAYERS, *scan.__all__)},
    "layers": {"pyoptk.layers": public(pyoptk.layers)},
    "losses": {"pyoptk.losses": public(pyoptk.losses)},
    "training": {"pyoptk": tuple(fitting.__all__)},
    "schedules": {"pyoptk.schedules": public(pyoptk.schedules)},
    "files": {"pyoptk": (*FILES, *MACHINE)},
    "kernels": {"pyoptk.kernels": public(pyoptk.kernels)},
    "reference": {"pyoptk.reference": public(pyoptk.reference)},
    "mpi": {"pyoptk.mpi": ("Sharded", "save", "shared")},  # importing it needs mpi4py
}
MODULES = ("kernels", "layers", "losses", "schedules")  # in pyoptk.__all__, pages of their own


def shown(page: str) -> Iterator[tuple[str, str]]:
    """The module and the name of everything on a page."""
    for module, names in PAGES[page].items():
        for name in dict.fromkeys(names):
            yield module, name
