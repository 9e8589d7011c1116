"""PyTorch's work.

Its best settings: `set_num_threads`; tensors in its own memory, on cache lines; gradients set to
None rather than zeroed where nobody asks for zeros; its fused optimizers where it has them, and
`foreach` and the plain loop as contenders of their own ("fastest" is fused or else foreach). Layers
are those of `torch.nn`, time first, which go to oneDNN in float32. Where bfloat16 is asked for,
they are the fastest here of float32, autocast and, unless weights are trained, modules of bfloat16.
"""

from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

PACKAGES = ("torch",)
LR = 1e-3
FUSED = ("Adam", "AdamW", "SGD", "AdaGrad")
THEIRS = {"AdaGrad": "Adagrad"}  # where it has another name
HOW = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}


def start(threads, implementation):
    """The other ways of its optimizers do nothing else."""
    global WAY
    WAY = implementation
    torch.set_num_threads(threads)
    return ["step"] if implementation in ("foreach", "for-loop") else None


def step(
    params, grads, *, optimizer, max_norm=None, ema_decay=None, zero_grad=False, **settings
):  # fmt: skip
    """One step over a list of parameters; clipping, averages and zeros as its users add them."""
    way = WAY if WAY != "fastest" else "fused" if optimizer in FUSED else "foreach"
    theirs = getattr(torch.optim, THEIRS.get(optimizer, optimizer), None)
    if theirs is None or (way == "fused" and optimizer not in FUSED):
        raise NotImplementedError
    if settings.keys() & {"state_dtype", "master"}:
        raise NotImplementedError
    tensors = [nn.Parameter(torch.tensor(p)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    opt = theirs(tensors, lr=LR, **settings, **HOW[way])
    averages = [t.detach().clone() for t in tensors] if ema_decay is not None else []

    def work():
        if max_norm is not None:
            nn.utils.clip_grad_norm_(tensors, max_norm, foreach=way != "for-loop")
        opt.step()
        if ema_decay is not None:
            torch._foreach_lerp_(averages, [t.detach() for t in tensors], 1 - ema_decay)
        if zero_grad:
            opt.zero_grad(set_to_none=False)

    return work, lambda _: [*(t.detach() for t in tensors[:1]), *averages[:1]]


def filled(module, weights):
    """The module with these weights."""
    for param, value in zip(module.parameters(), weights, strict=True):
        param.data = torch.tensor(value)
    return module


class Normed(nn.Module):
    """A layer-normalized "LSTM" or "GRU", which PyTorch has not: a loop over steps."""

    def __init__(self, cell, I, H, dtype):
        super().__init__()
        rows = (4 if cell == "LSTM" else 3) * H
        shapes = {"weight_ih": (rows, I), "weight_hh": (rows, H)}
        shapes |= dict.fromkeys(("bias_ih", "bias_hh", "gain_ih", "gain_hh"), (rows,))
        shapes |= dict.fromkeys(("gain_c", "bias_c"), (H,)) if cell == "LSTM" else {}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, dtype=dtype)))
        self.H, self.step = H, self.lstm if cell == "LSTM" else self.gru

    def forward(self, x, *state):
        state = state or [x.new_zeros(x.shape[1], self.H)] * 2
        outputs = []
        for x_t in self.normed(x @ self.weight_ih.T, self.gain_ih, self.bias_ih):
            h_t = self.normed(state[0] @ self.weight_hh.T, self.gain_hh, self.bias_hh)
            state = self.step(x_t, h_t, *state)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def normed(self, a, gain, bias):
        """Over all units of an LSTM; of a GRU over those of r and z, and over those of n."""
        sizes = [a.shape[-1]] if self.step == self.lstm else [2 * self.H, self.H]
        parts = zip(*(v.split(sizes, -1) for v in (a, gain, bias)), strict=True)
        return torch.cat([nn.functional.layer_norm(v, v.shape[-1:], *w) for v, *w in parts], -1)

    def lstm(self, x, h, _, c):
        i, f, g, o = (x + h).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        normed = nn.functional.layer_norm(c, c.shape[-1:], self.gain_c, self.bias_c)
        return o.sigmoid() * normed.tanh(), c

    def gru(self, x, h, before, *_):
        r, z = (x + h)[:, : 2 * self.H].sigmoid().chunk(2, 1)
        n = (x[:, 2 * self.H :] + r * h[:, 2 * self.H :]).tanh()
        return ((1 - z) * n + z * before,)


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def layer(x, dy, weights, lengths=None, *, compute=None, **how):
    if compute is None:
        return layer_in(nullcontext, torch.tensor(x).dtype, x, dy, weights, lengths, **how)
    given = x, dy, weights, lengths
    modes = (autocast, torch.float32), (nullcontext, torch.bfloat16), (nullcontext, torch.float32)
    return [partial(layer_in, *mode, *given, **how) for mode in modes]


def layer_in(
    context, dtype, x, dy, weights, lengths, *, cell, layers=1, directions=1,
    layer_norm=False, **form,
):  # fmt: skip
    if form.keys() - {"proj_size"}:
        raise NotImplementedError
    x, dy = torch.tensor(x, dtype=dtype, requires_grad=True), torch.tensor(dy, dtype=dtype)
    sizes = x.shape[2], weights[-1].shape[1] if form else dy.shape[2] // directions, layers
    if layer_norm:
        made = Normed(cell, *sizes[:2], x.dtype)
    else:
        made = getattr(nn, cell)(*sizes, bidirectional=directions == 2, **form)
    y, packed = None, nn.utils.rnn.pack_padded_sequence
    filled(made, weights).to(dtype)
    if lengths is not None:  # the ends of sequences are not in its output
        lengths = torch.tensor(lengths)
        dy = packed(dy, lengths).data

    def forward():
        nonlocal y
        made.zero_grad(set_to_none=True)
        x.grad = None
        with context():
            y = made(x)[0] if lengths is None else made(packed(x, lengths))[0].data

    def outcome(_):
        grads = [x.grad, *(param.grad for param in made.parameters())]
        found = [y.detach()] if x.grad is None else grads
        return [array.float() if array.dtype == torch.bfloat16 else array for array in found]

    return (forward, lambda: y.backward(dy.to(y.dtype))), outcome


def stream(x, dy, weights, *, cell, **form):
    if form:
        raise NotImplementedError
    x = torch.tensor(x[0])
    made = getattr(nn, f"{cell}Cell")(x.shape[1], dy.shape[2], dtype=x.dtype)
    return partial(filled(made, weights).requires_grad_(False).forward, x)


def scan(a, b, dh):
    """In logarithms, because it has no operator for this; a loop over time takes longer still."""
    a, b = (torch.tensor(array, requires_grad=True) for array in (a, b))
    dh, h = torch.from_numpy(dh), None

    def forward():
        nonlocal h
        a.grad = b.grad = None
        sums = a.log().cumsum(0)
        h = (sums + (b.log() - sums).logcumsumexp(0)).exp()

    def outcome(_):
        return [h.detach(), *([] if a.grad is None else (a.grad, b.grad))]

    return (forward, lambda: h.backward(dh)), outcome


def train(model, loss, x, y, forward, context=nullcontext):
    """A training step with Adam."""
    opt = torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def work():
        opt.zero_grad(set_to_none=True)
        with context():
            found = loss(forward(x), y)
        found.backward()
        opt.step()

    return work


def forecaster(windows, targets, weights):
    """LSTM(64) -> LSTM(32) -> Linear(1), MSE, Adam."""
    made = nn.ModuleList([nn.LSTM(1, 64), nn.LSTM(64, 32), nn.Linear(32, 1)])
    lower, upper, head = filled(made, weights)
    x, y = torch.tensor(windows), torch.tensor(targets)[:, None]

    def forward(x):
        return head(upper(lower(x)[0])[0][-1])

    return train(made, nn.MSELoss(), x, y, forward), lambda _: [forward(x).detach()]


def mlp(x, labels, weights, *, compute=None):
    """The whole training step in PyTorch: Linear and ReLU, cross-entropy, Adam."""
    contexts = [nullcontext] if compute is None else [autocast, nullcontext]
    return [partial(mlp_in, context, x, labels, weights) for context in contexts]


def mlp_in(context, x, labels, weights):
    linears = [nn.Linear(w.shape[1], w.shape[0]) for w in weights[::2]]
    hidden = [part for linear in linears[:-1] for part in (linear, nn.ReLU())]
    made = filled(nn.Sequential(*hidden, linears[-1]), weights)
    batch = torch.tensor(x), torch.tensor(labels)
    work = train(made, nn.CrossEntropyLoss(), *batch, made, context)
    return work, lambda _: [p.detach() for p in made.parameters()]


classifier, fitted = mlp, forecaster  # where pyoptk has models and `fit`
