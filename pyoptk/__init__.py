"""Fused optimizer steps and LSTM layers that train from NumPy, in place, on a CPU.

>>> import numpy as np, pyoptk
>>> w = np.array([3.0, -2.0], np.float32)
>>> opt = pyoptk.Adam(w, lr=0.1)
>>> for _ in range(300):
...     opt.step(2 * w)  # the gradient of w @ w
>>> bool(abs(w).max() < 1e-3)
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _interrupt  # noqa: F401  (first: the rest takes long)

try:
    from ._core import VERSION as _version  # first, for the message below
except ModuleNotFoundError as error:
    if error.name != "pyoptk._core":
        raise
    raise ImportError(
        "pyoptk is not compiled here. In a source checkout run `pip install -e .` first; an "
        "ordinary install is hidden by the folder pyoptk when Python starts in the checkout."
    ) from error

from . import kernels, optim, scan
from ._core import (
    get_num_threads,
    isa,
    isas,
    release_memory,
    set_num_threads,
    threads_backend,
    use_isa,
)
from ._sparse import SparseRows
from .checkpoint import load, save
from .optim import *
from .optim.adam import *
from .optim.classic import *
from .rnn import GRU, LSTM, RNN
from .scan import *

if TYPE_CHECKING:
    from . import layers, losses, schedules
    from .fitting import Diverged, History, LRRange, Training, fit, lr_range_test, training
    from .rnn.minimal import minGRU, minLSTM

__version__: str = _version
__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Diverged",
    "History",
    "LRRange",
    "SparseRows",
    "Training",
    "fit",
    "get_num_threads",
    "isa",
    "isas",
    "kernels",
    "layers",
    "load",
    "losses",
    "lr_range_test",
    "minGRU",
    "minLSTM",
    "release_memory",
    "save",
    "schedules",
    "set_num_threads",
    "threads_backend",
    "training",
    "use_isa",
]
__all__ += optim.__all__
__all__ += scan.__all__


def __getattr__(name: str) -> Any:
    """Import what not every program needs when it is first used."""
    if name in ("layers", "losses", "schedules"):
        return import_module(f".{name}", __name__)
    if name not in __all__:
        known = import_module(".layers", __name__).__all__
        where = f"; did you mean pyoptk.layers.{name}?" if name in known else ""
        raise AttributeError(f"module 'pyoptk' has no attribute {name!r}{where}")
    found = import_module(".rnn.minimal" if name.startswith("min") else ".fitting", __name__)
    globals()[name] = getattr(found, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
