"""PyTorch's gradients of a layer under autocast to bfloat16: ``autocast.py CELL GIVEN FOUND``.

accuracy.py runs this file in a Python that has torch and may lack pyoptk. GIVEN has x, the gradient
of y and the weights; FOUND gets dx and the gradients of the weights.
"""

import sys

import numpy as np
import torch

cell, given, found = sys.argv[1:]
x, dy, *weights = (torch.from_numpy(array) for array in np.load(given).values())
layer = getattr(torch.nn, cell)(x.shape[2], dy.shape[2])
for param, weight in zip(layer.parameters(), weights, strict=True):
    param.data = weight
x.requires_grad_()
with torch.autocast("cpu", torch.bfloat16):
    y = layer(x)[0]
y.backward(dy.to(y.dtype))
grads = [x.grad, *(param.grad for param in layer.parameters())]
np.savez(found, *(grad.float().numpy() for grad in grads))
