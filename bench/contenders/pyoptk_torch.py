"""The work of pyoptk.torch: steps over the tensors of PyTorch, in PyTorch's memory."""

import runpy
from pathlib import Path

import torch

import pyoptk
import pyoptk.torch

PACKAGES = ("pyoptk", "torch")
NAMES = ("weight_decay", "momentum", "max_norm", "state_dtype", "master", "dtype")
STEPS = runpy.run_path(str(Path(__file__).with_name("tensors.py")))["steps"]


def start(threads):
    pyoptk.set_num_threads(threads)
    torch.set_num_threads(threads)


def step(params, grads, *, optimizer, **settings):
    if not hasattr(pyoptk.torch, optimizer) or settings.keys() - set(NAMES):
        raise NotImplementedError
    return STEPS(getattr(pyoptk.torch, optimizer), params, grads, **settings)


def halves(params, grads, **settings):
    return step(params, grads, dtype=torch.bfloat16, **settings)


narrow = step
