"""The optimizers for PyTorch: `torch.optim.Optimizer`s whose step is one compiled sweep on the CPU.

Each takes what its namesake in `torch.optim` takes, has its names of groups and states, and
loads its checkpoints, which it loads in turn; see docs/torch.md. Needs PyTorch 2.10 or later, which
``import pyoptk`` does not import.
"""

try:
    import torch as _torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("pyoptk.torch needs PyTorch: pip install 'pyoptk[torch]'") from error

if not hasattr(_torch.Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(f"torch: expected version 2.10 or later, got {_torch.__version__}")

from . import adam, classic
from .adam import *
from .base import TorchOptimizer
from .classic import *

__all__ = ["TorchOptimizer"]
__all__ += adam.__all__
__all__ += classic.__all__
