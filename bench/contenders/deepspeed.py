"""DeepSpeed's work: CPUAdam, its AVX kernel for offloaded optimizers, compiled where it runs.

Its best settings: state in float32, parameters in PyTorch's memory, threads by `set_num_threads`
(its kernel uses the same OpenMP); clipping is PyTorch's, as in its own training loop on a CPU.
"""

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam

PACKAGES = ("deepspeed", "torch")
LR = 1e-3
start = torch.set_num_threads


def step(params, grads, *, optimizer, max_norm=None, dtype=torch.float32, **more):
    if optimizer not in ("Adam", "AdamW") or more:
        raise NotImplementedError
    tensors = [torch.nn.Parameter(torch.tensor(p, dtype=dtype)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad, dtype=dtype)
    opt = DeepSpeedCPUAdam(tensors, lr=LR, adamw_mode=optimizer == "AdamW")

    def work():
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, max_norm)
        opt.step()

    return work, lambda _: [t.detach().float() for t in tensors[:1]]


def narrow(params, grads, *, optimizer, state_dtype="float32", master=None):
    """States of float32, the others are worse; beside a master, all else is bfloat16.

    What a step adds to such a parameter is rounded to the nearest: it keeps no rest.
    """
    dtype = torch.bfloat16 if master else torch.float32
    return step(params, grads, optimizer=optimizer, dtype=dtype)
