"""PyTorch's work in the rows of single kernels, after that of pyoptk/duel/contenders/torch.py."""

from functools import partial

LR = 1e-3


def tensors(threads, *arrays):
    import torch

    torch.set_num_threads(threads)
    return torch, *(torch.from_numpy(array) for array in arrays)


def array(x, y, *, function, threads, implementation):
    torch, x, y = tensors(threads, x, y)
    utils = torch.nn.utils
    param = torch.nn.Parameter(torch.zeros_like(x))
    param.grad = x
    calls = {
        "dropout": partial(torch.nn.functional.dropout, x, 0.2),
        "global_norm": partial(utils.get_total_norm, [x]),
        "clip_by_global_norm": partial(utils.clip_grad_norm_, [param], 0.1),
        "clip_by_value": partial(utils.clip_grad_value_, [param], 1e-3),
    }
    if function in calls:
        return calls[function], list if function == "dropout" else lambda: [x, y]
    return partial(getattr(torch, function), x, out=y), lambda: [x, y]


def matmul(a, b, c, *, threads, implementation):
    torch, a, b, c = tensors(threads, a, b, c)
    return partial(torch.mm, a, b, out=c), lambda: [c]


def touched_rows(
    table, indices, values, *, optimizer, threads, implementation, dense=False, **settings
):  # fmt: skip
    """With its sparse optimizers; not coalesced, as a gradient comes from an embedding."""
    if dense:
        raise NotImplementedError
    torch, table, i, values = tensors(threads, table, indices, values)
    torch.sparse.check_sparse_tensor_invariants.disable()
    theirs = {"AdaGrad": "Adagrad", "Adam": "SparseAdam"}.get(optimizer, optimizer)
    tensor = torch.nn.Parameter(table)
    opt = getattr(torch.optim, theirs)([tensor], lr=LR)

    def work():
        shape = tensor.shape
        tensor.grad = torch.sparse_coo_tensor(i[None], values, shape, check_invariants=False)
        opt.step()

    return work, lambda: [table[i[:4]]]
