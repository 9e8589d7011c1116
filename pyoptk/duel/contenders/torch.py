"""PyTorch's work.

Its best settings: `set_num_threads`; tensors in its own memory, on cache lines; gradients set to
None rather than zeroed where nobody asks for zeros; its fused optimizers where it has them, and
`foreach` and the plain loop as contenders of their own ("fastest" is fused or else foreach). Layers
are those of `torch.nn`, time first, which go to oneDNN in float32.
"""

from functools import partial

PACKAGES = ("torch",)
LR = 1e-3
FUSED = ("Adam", "AdamW", "SGD", "AdaGrad")
THEIRS = {"AdaGrad": "Adagrad"}  # where it has another name
HOW = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}


def start(threads, implementation="fused"):
    """The module; its ways other than "fused" are for optimizers alone."""
    import torch

    if implementation not in ("fused", "fastest"):
        raise NotImplementedError
    torch.set_num_threads(threads)
    return torch


def step(
    params, grads, *, optimizer, threads, implementation="fused",
    max_norm=None, ema_decay=None, zero_grad=False, **settings,
):  # fmt: skip
    """One step over a list of parameters; clipping, averages and zeros as its users add them."""
    torch = start(threads)
    if implementation == "fastest":
        implementation = "fused" if optimizer in FUSED else "foreach"
    theirs = getattr(torch.optim, THEIRS.get(optimizer, optimizer), None)
    if theirs is None or (implementation == "fused" and optimizer not in FUSED):
        raise NotImplementedError
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    opt = theirs(tensors, lr=LR, **settings, **HOW[implementation])
    each = implementation == "for-loop"
    averages = [t.detach().clone() for t in tensors] if ema_decay is not None else []

    def work():
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, max_norm, foreach=not each)
        opt.step()
        if ema_decay is not None:
            torch._foreach_lerp_(averages, [t.detach() for t in tensors], 1 - ema_decay)
        if zero_grad:
            opt.zero_grad(set_to_none=False)

    return work, lambda: [*(t.detach() for t in tensors[:1]), *averages[:1]]


def filled(torch, module, weights):
    """The module with these weights."""
    for param, value in zip(module.parameters(), weights, strict=True):
        param.data = torch.tensor(value)
    return module


def layer(
    x, dy, weights, lengths=None, *, cell, threads, implementation="fused",
    part="", layers=1, directions=1,
):  # fmt: skip
    """Forward and backward with the gradient of the input."""
    torch = start(threads, implementation)
    nn, x, dy = torch.nn, torch.tensor(x), torch.tensor(dy)
    I, H = x.shape[2], dy.shape[2] // directions
    if part == "step":
        made = filled(torch, getattr(nn, f"{cell}Cell")(I, H, dtype=x.dtype), weights)
        return partial(made.requires_grad_(False).forward, x[0]), list
    made = getattr(nn, cell)(I, H, layers, bidirectional=directions == 2, dtype=x.dtype)
    filled(torch, made, weights)
    x.requires_grad_()
    y = None
    if lengths is not None:  # the ends of sequences are not in its output
        ends = torch.tensor(lengths)
        dy = nn.utils.rnn.pack_padded_sequence(dy, ends).data

    def forward():
        nonlocal y
        made.zero_grad(set_to_none=True)
        x.grad = None
        given = x if lengths is None else nn.utils.rnn.pack_padded_sequence(x, ends)
        y = made(given)[0]
        y = y if lengths is None else y.data

    def backward():
        y.backward(dy)

    def both():
        forward()
        backward()

    if part == "forward":
        return forward, lambda: [y.detach()]
    work, more = (backward, {"before": forward}) if part else (both, {})
    return work, lambda: [x.grad, *(p.grad for p in made.parameters())], more


def train(torch, model, loss, x, y, forward):
    """A training step with Adam."""
    opt = torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def work():
        opt.zero_grad(set_to_none=True)
        loss(forward(x), y).backward()
        opt.step()

    return work


def forecaster(windows, targets, weights, *, threads, implementation="fused"):
    """LSTM(64) -> LSTM(32) -> Linear(1), MSE, Adam."""
    torch = start(threads, implementation)
    nn = torch.nn
    flat = [array for layer in weights for array in layer]
    made = nn.ModuleList([nn.LSTM(1, 64), nn.LSTM(64, 32), nn.Linear(32, 1)])
    lower, upper, head = filled(torch, made, flat)
    x, y = torch.tensor(windows), torch.tensor(targets)[:, None]

    def forward(x):
        return head(upper(lower(x)[0])[0][-1])

    return train(torch, made, nn.MSELoss(), x, y, forward), lambda: [forward(x).detach()]


def mlp(x, labels, weights, *, threads, implementation="fused"):
    """The whole training step in PyTorch: Linear and ReLU, cross-entropy, Adam."""
    torch = start(threads, implementation)
    nn = torch.nn
    linears = [nn.Linear(w.shape[1], w.shape[0]) for w, _ in weights]
    hidden = [part for linear in linears[:-1] for part in (linear, nn.ReLU())]
    model = nn.Sequential(*hidden, linears[-1])
    filled(torch, model, [array for layer in weights for array in layer])
    x, labels = torch.tensor(x), torch.tensor(labels)
    work = train(torch, model, nn.CrossEntropyLoss(), x, labels, model)
    return work, lambda: [p.detach() for p in model.parameters()]
