"""DeepSpeed's work: CPUAdam, its AVX kernel for offloaded optimizers, compiled where it runs.

Its best settings: state in float32, parameters in PyTorch's memory, threads by `set_num_threads`
(its kernel uses the same OpenMP); clipping is PyTorch's, as in its own training loop on a CPU.
"""

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam

PACKAGES = ("deepspeed", "torch")
LR = 1e-3
start = torch.set_num_threads


def step(params, grads, *, optimizer, max_norm=None, **more):
    if optimizer not in ("Adam", "AdamW") or more:
        raise NotImplementedError
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    opt = DeepSpeedCPUAdam(tensors, lr=LR, adamw_mode=optimizer == "AdamW")

    def work():
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, max_norm)
        opt.step()

    return work, lambda _: [t.detach() for t in tensors[:1]]


def narrow(params, grads, *, optimizer, state_dtype):
    """With states of float32: its others are of the dtype of the parameter."""
    return step(params, grads, optimizer=optimizer)
