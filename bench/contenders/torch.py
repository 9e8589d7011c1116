"""PyTorch's work in the rows of single kernels, after that of pyoptk/duel/contenders/torch.py."""

from functools import partial

import torch

LR = 1e-3


def array(x, y, *, function):
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    utils, param = torch.nn.utils, torch.nn.Parameter(torch.zeros_like(x))
    param.grad = x
    if function == "dropout":
        return partial(torch.nn.functional.dropout, x, 0.2)
    calls = {
        "global_norm": partial(utils.get_total_norm, [x]),
        "clip_by_global_norm": partial(utils.clip_grad_norm_, [param], 0.1),
        "clip_by_value": partial(utils.clip_grad_value_, [param], 1e-3),
    }
    work = calls.get(function) or partial(getattr(torch, function), x, out=y)
    return work, lambda _: [x, y]


def matmul(a, b, c):
    return partial(torch.mm, *map(torch.from_numpy, (a, b)), out=torch.from_numpy(c)), lambda _: [c]


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
