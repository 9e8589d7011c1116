"""Models, losses and data in NumPy for the tests of `pyoptk.fitting`."""

import numpy as np


class Dense:
    """One tanh layer and one linear layer, 3 -> 4 -> 2; params and grads in a dict each."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        shapes = {"w0": (4, 3), "b0": (4,), "w1": (2, 4)}
        self.params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        self.grads = {name: np.zeros_like(array) for name, array in self.params.items()}

    def forward(self, x, *, train=True):
        h = np.tanh(x @ self.params["w0"].T + self.params["b0"])
        if train:
            self.kept = x, h
        return h @ self.params["w1"].T

    def backward(self, dy):
        x, h = self.kept
        dz = dy @ self.params["w1"] * (1 - h * h)
        self.grads["w1"][...] = dy.T @ h
        self.grads["w0"][...], self.grads["b0"][...] = dz.T @ x, dz.sum(0)


class Recurrent:
    """A recurrent layer as a model, with its state in checkpoints."""

    def __init__(self, layer):
        self.layer, self.params, self.grads = layer, layer.params, layer.grads
        self.state_dict, self.load_state_dict = layer.state_dict, layer.load_state_dict
        self.check_state_dict = layer.check_state_dict

    def forward(self, x, *, lengths=None, train=True):
        return self.layer.forward(x, lengths=lengths, train=train)[0]

    def backward(self, dy):
        self.layer.backward(dy, need_dx=False)


def mse(y, target):
    return np.mean((y - target) ** 2), 2 * (y - target) / y.size


def masked_mse(y, target, *, lengths=None, batch_first=False):
    time, batch = (1, 0) if batch_first else (0, 1)
    inside = np.arange(y.shape[time])[:, None] < lengths
    inside = (inside.T if batch == 0 else inside)[..., None]
    error = np.where(inside, y - target, 0)
    return np.sum(error**2) / inside.sum(), (2 * error / inside.sum()).astype(y.dtype)


def data(n=22, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    return x, np.tanh(x @ rng.standard_normal((3, 2)))


def flat(model):
    return np.concatenate([array.ravel() for array in model.params.values()])
