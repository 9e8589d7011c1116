"""PyTorch's work.

Its best settings: `set_num_threads`; tensors in its own memory, on cache lines; gradients set to
None rather than zeroed where nobody asks for zeros; its fused optimizers where it has them (Adam,
AdamW, SGD, Adagrad), and `foreach` and the plain loop as contenders of their own. Layers are
`torch.nn.LSTM`, time first, which goes to oneDNN in float32.
"""

from __future__ import annotations

from typing import Any

PACKAGES = ("torch",)
LR = 1e-3
FUSED = ("Adam", "AdamW", "SGD", "AdaGrad")
HOW: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
}


def _start(threads: int) -> Any:
    import torch

    torch.set_num_threads(threads)
    return torch


def step(
    params: Any,
    grads: Any,
    *,
    optimizer: str,
    threads: int,
    implementation: str = "fused",
    max_norm: float | None = None,
    ema_decay: float | None = None,
    zero_grad: bool = False,
    **settings: Any,
) -> Any:
    """One step over a list of parameters; clipping, averages and zeros as its users add them."""
    torch = _start(threads)
    if implementation == "fused" and optimizer not in FUSED:
        raise NotImplementedError
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    cls = getattr(torch.optim, {"AdaGrad": "Adagrad"}.get(optimizer, optimizer))
    opt = cls(tensors, lr=LR, **settings, **HOW[implementation])
    each = implementation == "for-loop"
    averages = [t.detach().clone() for t in tensors] if ema_decay is not None else []

    def work() -> None:
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, max_norm, foreach=not each)
        opt.step()
        if ema_decay is not None:
            torch._foreach_lerp_(averages, [t.detach() for t in tensors], 1 - ema_decay)
        if zero_grad:
            opt.zero_grad(set_to_none=False)

    return work, lambda: [*(t.detach() for t in tensors[:1]), *averages[:1]]


def lstm(
    x: Any,
    dy: Any,
    weights: Any,
    *,
    threads: int,
    implementation: str = "fused",
    packed: bool = False,
    layers: int = 1,
    directions: int = 1,
) -> Any:
    """Forward and backward with the gradient of the input."""
    torch = _start(threads)
    if implementation != "fused":  # that is about optimizers
        raise NotImplementedError
    T, B, _ = x.shape
    x, dy = torch.tensor(x), torch.tensor(dy)
    x.requires_grad_()
    layer = torch.nn.LSTM(
        x.shape[2],
        dy.shape[2] // directions,
        layers,
        bidirectional=directions == 2,
        dtype=x.dtype,
    )
    for param, value in zip(layer.parameters(), weights, strict=True):
        param.data = torch.tensor(value)
    rnn = torch.nn.utils.rnn
    lengths = torch.linspace(T, T // 2, B).to(torch.int64) if packed else None
    if packed:  # the ends of sequences are not in its output
        dy = rnn.pack_padded_sequence(dy, lengths).data

    def work() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        if packed:
            layer(rnn.pack_padded_sequence(x, lengths))[0].data.backward(dy)
        else:
            layer(x)[0].backward(dy)

    return work, lambda: [x.grad, *(p.grad for p in layer.parameters())]


def forecaster(
    windows: Any, targets: Any, weights: Any, *, threads: int, implementation: str = "fused"
) -> Any:
    """LSTM(64) -> LSTM(32) -> Linear(1), MSE, Adam."""
    torch = _start(threads)
    if implementation != "fused":
        raise NotImplementedError
    nn = torch.nn
    layers = nn.ModuleList([nn.LSTM(1, 64), nn.LSTM(64, 32), nn.Linear(32, 1)])
    flat = [array for layer in weights for array in layer]
    for param, value in zip(layers.parameters(), flat, strict=True):
        param.data = torch.tensor(value)
    opt = torch.optim.Adam(layers.parameters(), lr=LR, fused=True)
    x, y, loss = torch.tensor(windows), torch.tensor(targets)[:, None], nn.MSELoss()

    def forward() -> Any:
        lower, upper, head = layers
        return head(upper(lower(x)[0])[0][-1])

    def work() -> None:
        opt.zero_grad(set_to_none=True)
        loss(forward(), y).backward()
        opt.step()

    return work, lambda: [forward().detach()]


def mlp(x: Any, labels: Any, weights: Any, *, threads: int, implementation: str = "fused") -> Any:
    """The whole training step in PyTorch: Linear and ReLU, cross-entropy, Adam."""
    torch = _start(threads)
    if implementation != "fused":
        raise NotImplementedError
    nn = torch.nn
    linears = [nn.Linear(w.shape[1], w.shape[0]) for w, _ in weights]
    hidden = [part for linear in linears[:-1] for part in (linear, nn.ReLU())]
    model = nn.Sequential(*hidden, linears[-1])
    flat = [array for layer in weights for array in layer]
    for param, value in zip(model.parameters(), flat, strict=True):
        param.data = torch.tensor(value)
    opt = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    x, labels, loss = torch.tensor(x), torch.tensor(labels), nn.CrossEntropyLoss()

    def work() -> None:
        opt.zero_grad(set_to_none=True)
        loss(model(x), labels).backward()
        opt.step()

    return work, lambda: [p.detach() for p in model.parameters()]
