"""Fused optimizer steps and LSTM layers that train from NumPy, in place, on a CPU.

>>> import numpy as np, pyoptk
>>> w = np.array([3.0, -2.0], np.float32)
>>> opt = pyoptk.Adam(w, lr=0.1)
>>> for _ in range(300):
...     opt.step(2 * w)  # the gradient of w @ w
>>> bool(abs(w).max() < 1e-3)
True
"""

from . import _interrupt  # noqa: F401  (first: the rest takes long)

try:
    from . import _core  # noqa: F401  (first, for the message below)
except ModuleNotFoundError as error:
    if error.name not in ("pyoptk._core", "_core"):
        raise
    raise ImportError(
        "pyoptk is not compiled here. In a source checkout run `pip install -e .` first; an "
        "ordinary install is hidden by the folder pyoptk when Python starts in the checkout."
    ) from error

from importlib.metadata import version as _version

from . import kernels, layers, losses, optim, schedules
from ._core import (
    get_num_threads,
    isa,
    isas,
    set_num_threads,
    threads_backend,
    use_isa,
)
from ._sparse import SparseRows
from .checkpoint import load, save
from .optim import (
    SWA,
    Accumulation,
    Lookahead,
    LossScaler,
    Optimizer,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
)
from .optim.adam import *
from .optim.classic import *
from .optim.lamb import *
from .optim.lion import *
from .rnn import LSTM, RNN

__version__ = _version("pyoptk")

__all__ = [
    "LSTM",
    "RNN",
    "SWA",
    "Accumulation",
    "Lookahead",
    "LossScaler",
    "Optimizer",
    "SparseRows",
    "clip_by_global_norm",
    "clip_by_value",
    "get_num_threads",
    "global_norm",
    "isa",
    "isas",
    "kernels",
    "layers",
    "load",
    "losses",
    "save",
    "schedules",
    "set_num_threads",
    "threads_backend",
    "use_isa",
]
__all__ += [name for name in optim.__all__ if name not in __all__]
