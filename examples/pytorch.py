"""PyTorch with pyoptk's steps; instead of torch.optim or DeepSpeed's CPUAdam, one line changes.

opt = torch.optim.AdamW(params, lr=0.01)                    # before
opt = deepspeed.ops.adam.DeepSpeedCPUAdam(params, lr=0.01)  # or this, which wants a compiler
opt = pyoptk.torch.AdamW(params, lr=0.01)                   # after
"""

import torch

import pyoptk.torch

torch.manual_seed(0)
angle = torch.rand(500) * 9
kind = torch.arange(500) % 2
x = torch.stack([angle.cos(), angle.sin()], 1) * (angle + kind * torch.pi)[:, None] / 9
model = torch.nn.Sequential(
    torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(),
    torch.nn.Linear(64, 2),
)  # fmt: skip
opt = pyoptk.torch.AdamW(model.named_parameters(), lr=0.01, max_norm=1.0)  # clips in the same sweep
scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.01, total_steps=300)
for _ in range(300):
    opt.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), kind)
    loss.backward()
    opt.step()
    scheduler.step()
right = (model(x).argmax(1) == kind).float().mean().item()
print(f"{right:.1%} of two spirals told apart; the last gradient's norm was {opt.grad_norm:.3f}")

again = torch.optim.AdamW(model.parameters())  # a checkpoint of either is one of the other
again.load_state_dict(opt.state_dict())
