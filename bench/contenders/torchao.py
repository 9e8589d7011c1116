"""torchao's work: Adam8bit, which torch.compile compiles where it runs, in the first step."""

import runpy
from pathlib import Path

import torch
import torchao.optim

PACKAGES = ("torchao", "torch")
start = torch.set_num_threads
STEPS = runpy.run_path(str(Path(__file__).with_name("tensors.py")))["steps"]


def narrow(params, grads, *, optimizer, **storage):
    if (optimizer, storage) != ("Adam", {"state_dtype": "8bit"}):
        raise NotImplementedError
    return STEPS(torchao.optim.Adam8bit, params, grads)
