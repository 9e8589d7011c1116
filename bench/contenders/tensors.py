"""What the contenders that step PyTorch's tensors share."""

import torch

LR = 1e-3


def steps(make, params, grads, dtype=None, **settings):
    """A step of an optimizer of these parameters, in PyTorch's memory, and what it changes.

    `dtype`: that of the tensors, if it is not that of the arrays.
    """
    tensors = [torch.nn.Parameter(torch.tensor(p, dtype=dtype)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad, dtype=dtype)
    opt = make(tensors, lr=LR, **settings)
    return opt.step, lambda _: [t.detach().float() if dtype else t.detach() for t in tensors[:1]]
