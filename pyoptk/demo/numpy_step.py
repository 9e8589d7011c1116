"""The forecaster's training step in NumPy alone, from the twins in `pyoptk.reference`.

It is what the demo's speed is compared with: the same weights, batch, loss, clipping and Adam.
"""

from __future__ import annotations

import numpy as np

from pyoptk import reference

from .parts import Array

Params = dict[str, Array]


class NumpyForecaster:
    """LSTM(64) -> LSTM(32) -> Linear(1) with MSE, clipping by global norm and Adam, in NumPy.

    Parameters
    ----------
    params : dict of arrays
        The parameters of a `Forecaster`'s model; copied.
    lr, max_norm : float
        As the `Adam` of `Forecaster` has them; the rest of Adam as by default there.
    """

    def __init__(self, params: Params, *, lr: float, max_norm: float) -> None:
        self.params = {name: p.copy() for name, p in params.items()}
        self.lr, self.max_norm = lr, max_norm
        self.m = {name: np.zeros_like(p) for name, p in params.items()}
        self.v = {name: np.zeros_like(p) for name, p in params.items()}
        self.steps = 0

    def step(self, windows: Array, targets: Array) -> float:
        """One training step on windows [T, B, 1] and targets [B]; the loss before it."""
        lower = self._lstm("0", windows)
        upper = self._lstm("1", lower[0][1:])
        weight, last = self.params["3.weight"], upper[0][-1]
        error = (last @ weight.T + self.params["3.bias"])[:, 0] - targets
        d = error[:, None] * np.float32(2 / error.size)
        dy = np.zeros((*windows.shape[:2], 32), np.float32)
        dy[-1] = d @ weight
        dx, upper_grads = self._lstm_backward("1", lower[0][1:], upper, dy)
        _, lower_grads = self._lstm_backward("0", windows, lower, dx)
        head_grads = {"3.weight": d.T @ last, "3.bias": d.sum(axis=0)}
        self._adam({**lower_grads, **upper_grads, **head_grads})
        return float(np.mean(error**2))

    def _weights(self, layer: str) -> list[Array]:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return [self.params[f"{layer}.{name}"] for name in names]

    def _lstm(self, layer: str, x: Array) -> tuple[Array, Array, Array]:
        """States h and c [T+1, B, H] and gates of a layer that starts from zero."""
        w_ih, w_hh, b_ih, b_hh = self._weights(layer)
        zero = np.zeros((x.shape[1], w_hh.shape[1]), np.float32)
        return reference.lstm_forward(x, zero, zero, w_ih, w_hh, b_ih, b_hh)

    def _lstm_backward(
        self, layer: str, x: Array, saved: tuple[Array, Array, Array], dy: Array
    ) -> tuple[Array, Params]:
        """The gradient of the layer's input, and its weights' gradients by name."""
        w_ih, w_hh, *_ = self._weights(layer)
        zero = np.zeros(dy.shape[1:], np.float32)
        dx, _, _, dw_ih, dw_hh, db = reference.lstm_backward(x, *saved, w_ih, w_hh, dy, zero, zero)
        grads = {"weight_ih_l0": dw_ih, "weight_hh_l0": dw_hh, "bias_ih_l0": db, "bias_hh_l0": db}
        return dx, {f"{layer}.{name}": grad for name, grad in grads.items()}

    def _adam(self, grads: Params) -> None:
        self.steps += 1
        norm = reference.global_norm(list(grads.values()))
        for name, param in self.params.items():
            reference.adam(
                param,
                grads[name],
                self.m[name],
                self.v[name],
                step=self.steps,
                lr=self.lr,
                beta1=0.9,
                beta2=0.999,
                eps=1e-8,
                amsgrad=False,
                amsgrad_on_corrected=False,
                eps_hat=False,
                weight_decay=0.0,
                decoupled=False,
                maximize=False,
                grad_scale=min(1.0, self.max_norm / (norm + 1e-6)),
                clip_value=None,
                cautious=False,
            )
