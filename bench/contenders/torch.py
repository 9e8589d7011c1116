"""PyTorch's work in the rows of single kernels, after that of pyoptk/duel/contenders/torch.py.

Where bfloat16 is asked for, arrays are of bfloat16.
"""

import runpy
from functools import partial
from pathlib import Path

import torch

LR = 1e-3


def function(arrays, *, name, arguments):
    x, *others = map(torch.from_numpy, arrays)
    utils, param = torch.nn.utils, torch.nn.Parameter(torch.zeros_like(x))
    param.grad = x
    if name == "dropout":
        return partial(torch.nn.functional.dropout, x, arguments["p"])
    theirs = {
        "global_norm": (utils.get_total_norm, [x]),
        "clip_by_global_norm": (utils.clip_grad_norm_, [param]),
        "clip_by_value": (utils.clip_grad_value_, [param]),
    }
    call, *given = theirs.get(name) or (getattr(torch, name), x, *others[:-1])
    out = {"out": others[-1]} if others else {}
    return partial(call, *given, **arguments, **out), lambda _: arrays


def both_ways(function, x, *params, dy, dtype=None):
    """`function` of x and of parameters, and its backward."""
    given = [torch.tensor(a, dtype=dtype, requires_grad=True) for a in (x, *params)]
    y, dy = None, torch.tensor(dy, dtype=dtype)

    def forward():
        nonlocal y
        for tensor in given:
            tensor.grad = None
        y = function(*given)
        return [y.detach()]

    def backward():
        y.backward(dy)
        return [tensor.grad for tensor in given]

    return (forward, backward), lambda found: [array.to(torch.float64) for array in found]


def linear(x, w, b, dy, *, compute=None):
    f, dtype = torch.nn.functional, torch.bfloat16 if compute else None
    return both_ways(lambda x, w, b: f.relu(f.linear(x, w, b)), x, w, b, dy=dy, dtype=dtype)


def layer_norm(x, gain, bias, dy):
    f = torch.nn.functional
    return both_ways(
        lambda x, gain, bias: f.layer_norm(x, x.shape[1:], gain, bias), x, gain, bias, dy=dy
    )


def loss(x, labels, targets, *, function):
    f = torch.nn.functional
    calls = {
        "softmax_cross_entropy": (f.cross_entropy, labels),
        "mse": (f.mse_loss, targets),
        "bce_with_logits": (f.binary_cross_entropy_with_logits, targets),
    }
    call, target = calls[function]
    x, target = torch.tensor(x, requires_grad=True), torch.from_numpy(target)

    def work():
        x.grad = None
        found = call(x, target)
        found.backward()
        return [found.detach(), x.grad]

    return work, list


def narrow(params, grads, *, optimizer, **storage):
    """Its fused step in float32: its other states are of the dtype of the parameter."""
    steps = runpy.run_path(str(Path(__file__).with_name("tensors.py")))["steps"]
    return steps(getattr(torch.optim, optimizer), params, grads, fused=True)


def halves(params, grads, *, optimizer, state_dtype, master):
    """Its fused step of bfloat16, which has its states in bfloat16, too, rounded to the nearest."""
    steps = runpy.run_path(str(Path(__file__).with_name("tensors.py")))["steps"]
    make = getattr(torch.optim, optimizer)
    return steps(make, params, grads, dtype=torch.bfloat16, fused=True)


def touched_rows(table, indices, values, *, optimizer, dense=False, **settings):
    """With its sparse optimizers; not coalesced, as a gradient comes from an embedding."""
    if dense:
        raise NotImplementedError
    table, i, values = map(torch.from_numpy, (table, indices, values))
    torch.sparse.check_sparse_tensor_invariants.disable()
    theirs = {"AdaGrad": "Adagrad", "Adam": "SparseAdam"}.get(optimizer, optimizer)
    tensor = torch.nn.Parameter(table)
    opt = getattr(torch.optim, theirs)([tensor], lr=LR)

    def work():
        shape = tensor.shape
        tensor.grad = torch.sparse_coo_tensor(i[None], values, shape, check_invariants=False)
        opt.step()

    return work, lambda _: [table[i[:4]]]
