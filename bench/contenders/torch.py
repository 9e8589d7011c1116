"""PyTorch's work in the rows of single kernels, after that of pyoptk/duel/contenders/torch.py."""

from functools import partial

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
