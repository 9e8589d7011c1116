"""A recurrent policy learns to remember: policy gradients, thousands of tiny steps a second.

16 mice run along corridors. A light at the entrance, left or right, says where the cheese is at the
end, 3 to 8 steps later. Episodes begin at any step of a row: `resets` say where.
"""

import sys
import time

import numpy as np

import pyoptk
from pyoptk.layers import Linear, Sequential

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
rng = np.random.default_rng(0)
B, T = 16, 32


class Corridors:
    """B episodes at a time; each begins anew after its end."""

    def __init__(self):
        self.left = np.zeros(B, int)  # steps to the end
        self.light = np.zeros(B)
        self.begins = np.ones(B, bool)

    def look(self):
        """What the mice see: the light if they are at the entrance, the end, and a constant."""
        self.left[self.begins] = rng.integers(3, 9, self.begins.sum())
        self.light[self.begins] = rng.choice([-1, 1], self.begins.sum())
        seen = np.stack([self.light * self.begins, self.left == 0, np.ones(B)], axis=1)
        return seen.astype(np.float32), self.begins

    def act(self, action):
        """The reward of turning left (0) or right (1), which only counts at the end."""
        end = self.left == 0
        right = action == (self.light > 0)
        self.begins, self.left = end, self.left - 1
        return np.where(end, np.where(right, 1.0, -1.0), 0.0), end


memory, head = pyoptk.GRU(3, 16, rng=rng), Linear(16, 3, rng=rng)  # two actions and the value
model = Sequential(memory, head)
optimizer = pyoptk.Adam(model.params, lr=0.01, max_norm=1.0)
world, state, curve, start = Corridors(), np.zeros((1, B, 16), np.float32), [], time.perf_counter()
seen, begins = world.look()
for k in range(1, rounds + 1):
    before = state
    x, rewards = np.empty((T, B, 3), np.float32), np.empty((T, B), np.float32)
    resets, ends, actions = np.empty((T, B), bool), np.empty((T, B), bool), np.empty((T, B), int)
    for t in range(T):
        x[t], resets[t] = seen, begins
        state[:, begins] = 0
        y, (state,) = model.step(seen, [state])
        actions[t] = rng.random(B) < 1 / (1 + np.exp(y[:, 0] - y[:, 1]))
        rewards[t], ends[t] = world.act(actions[t])
        seen, begins = world.look()
    # The same steps again, all at once, for the gradient; and the value of where they lead.
    y = head.forward(memory.forward(x, before, resets=resets)[0])
    values = np.concatenate([y[:, :, 2], model.step(seen, [state])[0][None, :, 2]])
    advantages = pyoptk.gae(rewards, values, ends, gamma=0.95, lam=0.9)
    _, dpolicy = pyoptk.losses.cross_entropy(y[:, :, :2], actions)
    _, dvalue = pyoptk.losses.mse(y[:, :, 2], advantages + values[:-1])
    dy = np.concatenate([dpolicy * advantages[:, :, None], dvalue[:, :, None]], axis=2)
    memory.backward(head.backward(dy), need_dx=False)
    optimizer.step(model.grads)
    curve.append(rewards[ends].mean())
    if k % 20 == 0:
        rate = k * T * B / (time.perf_counter() - start)
        print(f"round {k}: mean reward {np.mean(curve[-20:]):5.2f}, {rate:,.0f} steps a second")
