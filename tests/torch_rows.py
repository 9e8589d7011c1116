"""Settings of PyTorch's optimizers that reach every branch, and a model to train."""

import copy

import pytest

torch = pytest.importorskip("torch")
ours = pytest.importorskip("pyoptk.torch")

# name in PyTorch, settings
ROWS = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    ("RMSprop", {"alpha": 0.9, "maximize": True}),
    ("Adadelta", {"weight_decay": 0.1, "rho": 0.95}),
    ("Rprop", {"etas": (0.4, 1.3), "step_sizes": (1e-5, 1.0)}),
    ("Adam", {"weight_decay": 0.1, "amsgrad": True}),
    ("Adam", {"betas": (0.8, 0.99), "decoupled_weight_decay": True, "fused": True}),
    ("AdamW", {"foreach": True, "maximize": True}),
    ("AdamW", {"amsgrad": True, "eps": 1e-4}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 0.01}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"weight_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adamax", {"weight_decay": 0.1}),
]
IDS = [" ".join([name, *settings]) for name, settings in ROWS]
ALONE = [("AdaBelief", {}), ("Lion", {"weight_decay": 0.1}), ("LAMB", {})]  # not in PyTorch
DTYPES = [torch.float32, torch.float64]
# Operations are the same, in another order; PyTorch's NAdam has its product of mu in float32.
CLOSE = {torch.float32: 3e-6, torch.float64: 1e-12}


def theirs(name):
    return getattr(torch.optim, name)


def mine(name):
    return getattr(ours, {"Adagrad": "AdaGrad"}.get(name, name))


def close_for(name, dtype):
    return 1e-8 if name == "NAdam" and dtype == torch.float64 else CLOSE[dtype]


def assert_close(a, b, name="SGD"):
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=close_for(name, p.dtype))


class Task:
    """A model with fixed data, and a copy of it."""

    def __init__(self, dtype=torch.float32, seed=0):
        made = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = torch.nn.Sequential(
                torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
            ).to(dtype)
        self.copy = copy.deepcopy(self.model)
        self.x = torch.randn(16, 4, dtype=dtype, generator=made)
        self.y = torch.randn(16, 2, dtype=dtype, generator=made)

    def loss(self, model):
        return ((model(self.x) - self.y) ** 2).mean()

    def train(self, model, opt, steps, scheduler=None):
        losses = []
        for _ in range(steps):
            opt.zero_grad()
            loss = self.loss(model)
            loss.backward()
            opt.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(loss.item())
        return losses
