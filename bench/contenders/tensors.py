"""What the contenders that step PyTorch's tensors share."""

import torch

LR = 1e-3


def steps(make, params, grads, **settings):
    """A step of an optimizer of these parameters, in PyTorch's memory, and what it changes."""
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    opt = make(tensors, lr=LR, **settings)
    return opt.step, lambda _: [t.detach() for t in tensors[:1]]
