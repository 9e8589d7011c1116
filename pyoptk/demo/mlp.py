"""A classifier, 64 -> 64 -> 10 with ReLU and softmax, trained by five optimizers of pyoptk.

The data are scikit-learn's 1,797 handwritten digits of 8 by 8 pixels where it is installed, and
otherwise ten clouds of points in 20 dimensions that are made up here; the report says which. A
fifth of the rows is kept for the test. All optimizers start from the same weights and see the same
batches. The layers are NumPy; the weights are changed in place by pyoptk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pyoptk

from . import plot
from .parts import Array, Dense, Extras, Params, Stopwatch, gather, say_what_runs

EPOCHS = 20
BATCH = 64


# Each learning rate is the best of 1e-3, 3e-3, 1e-2, ... 1 by the training loss after 20 epochs.
OPTIMIZERS: dict[str, Callable[[Params], pyoptk.Optimizer]] = {
    "Adam": lambda params: pyoptk.Adam(params, lr=3e-2),
    "RMSprop": lambda params: pyoptk.RMSprop(params, lr=1e-2),
    "AdaGrad": lambda params: pyoptk.AdaGrad(params, lr=1e-1),
    "momentum": lambda params: pyoptk.SGD(params, lr=3e-1, momentum=0.9),
    "SGD": lambda params: pyoptk.SGD(params, lr=1.0),
}


@dataclass(frozen=True)
class Data:
    """Inputs [N, features] in about 0 to 1 and classes [N], for training and for the test."""

    title: str
    x: Array
    labels: NDArray[np.intp]
    test_x: Array
    test_labels: NDArray[np.intp]


@dataclass(frozen=True)
class Outcome:
    """One optimizer's learning rate, mean loss per epoch, accuracy on the test rows, and time."""

    lr: float
    losses: list[float]
    accuracy: float
    seconds: float
    seconds_in_pyoptk: float


class Classifier:
    """Dense, ReLU, Dense, softmax; `backward` overwrites the arrays in `grads`."""

    def __init__(self, inputs: int, rng: np.random.Generator) -> None:
        self.hidden, self.output = Dense(inputs, 64, rng), Dense(64, 10, rng)
        self.params = gather(hidden=self.hidden.params, output=self.output.params)
        self.grads = gather(hidden=self.hidden.grads, output=self.output.grads)

    def forward(self, x: Array) -> Array:
        """Logits [B, 10] for inputs [B, features]."""
        self._active = np.maximum(self.hidden.forward(x), 0)
        return self.output.forward(self._active)

    def loss(self, x: Array, labels: NDArray[np.intp]) -> float:
        """The mean cross-entropy, whose gradients it leaves in `grads`."""
        rows = np.arange(labels.size)
        logits = self.forward(x)
        logits -= logits.max(1, keepdims=True)
        total = np.log(np.exp(logits).sum(1))
        dlogits = np.exp(logits - total[:, None])
        dlogits[rows, labels] -= 1
        dlogits /= labels.size
        self.hidden.backward(self.output.backward(dlogits) * (self._active > 0))
        return float(np.mean(total - logits[rows, labels]))


def load(rng: np.random.Generator) -> Data:
    """The digits, or clouds of points without scikit-learn; shuffled and split by `rng`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        title = "made-up data: ten clouds of points in 20 dimensions"
        labels = np.arange(1800) % 10
        centres = rng.normal(size=(10, 20))
        x = (centres[labels] + rng.normal(size=(1800, 20))) / 4
    else:
        title = "handwritten digits of scikit-learn, 8 by 8 pixels"
        x, labels = load_digits(return_X_y=True)
        x = x / 16
    order = rng.permutation(labels.size)
    test, training = np.split(order, [labels.size // 5])
    x32: Array = x.astype(np.float32)
    labels = labels.astype(np.intp)
    return Data(title, x32[training], labels[training], x32[test], labels[test])


def train(name: str, data: Data, epochs: int, seed: int) -> Outcome:
    """Train a new classifier with the optimizer `name`; `seed` gives weights and batches."""
    rng = np.random.default_rng(seed)
    model = Classifier(data.x.shape[1], rng)
    optimizer = OPTIMIZERS[name](model.params)
    batches = -(-data.labels.size // BATCH)
    watch, losses = Stopwatch(), []
    start = time.perf_counter()
    for _ in range(epochs):
        total = 0.0
        for batch in np.array_split(rng.permutation(data.labels.size), batches):
            total += model.loss(data.x[batch], data.labels[batch]) * batch.size
            with watch:
                optimizer.step(model.grads)
        losses.append(total / data.labels.size)
    seconds = time.perf_counter() - start
    right = model.forward(data.test_x).argmax(1) == data.test_labels
    return Outcome(optimizer.value("lr"), losses, float(right.mean()), seconds, watch.seconds)


def run(
    *,
    epochs: int | None = None,
    seed: int = 0,
    output: Path | None = Path("pyoptk-mlp.png"),
) -> dict[str, Outcome]:
    """Train with each optimizer, print the report, save the picture.

    Parameters
    ----------
    epochs : int or None
        None: 20.
    seed : int
        Of the split, the initial weights and the batches.
    output : Path or None
        The picture; None for no picture.

    Returns
    -------
    dict
        An `Outcome` per optimizer.
    """
    extras = Extras()
    data = load(np.random.default_rng(seed))
    features = data.x.shape[1]
    title = f"{features} -> 64 -> 10, ReLU and softmax"
    say_what_runs()
    real = " (handwritten digits, if scikit-learn is installed)" if "made-up" in data.title else ""
    print(data.title + real)
    print(f"  rows   {data.labels.size} for training, {data.test_labels.size} for the test")
    print(f"  model  {title}, batches of {BATCH}\n", flush=True)
    names = list(OPTIMIZERS)
    outcomes = {}
    for k in extras.progress(range(len(names)), "optimizers"):
        outcomes[names[k]] = train(names[k], data, epochs or EPOCHS, seed)
    print("  optimizer      lr   training loss   test accuracy   seconds   in pyoptk")
    for name, outcome in outcomes.items():
        print(
            f"  {name:9} {outcome.lr:7g} {outcome.losses[-1]:15.4f} {outcome.accuracy:15.1%}"
            f" {outcome.seconds:9.2f} {outcome.seconds_in_pyoptk / outcome.seconds:11.0%}"
        )
    if output is not None:
        extras.picture(
            lambda figure: plot.losses(figure, outcomes, f"{data.title}\n{title}"), output
        )
    extras.report()
    return outcomes
