"""A classifier, 64 -> 64 -> 10 with ReLU and softmax, trained by five optimizers of pyoptk.

The data are scikit-learn's 1,797 handwritten digits of 8 by 8 pixels where it is installed, and
otherwise ten clouds of points in 20 dimensions that are made up here; the report says which. A
fifth of the rows is kept for the test. All optimizers start from the same weights and see the same
batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pyoptk
from pyoptk.layers import Linear, Sequential

from . import plot
from .parts import Array, Extras, say_what_runs

EPOCHS = 20
BATCH = 64


# Each learning rate is the best of 1e-3, 3e-3, 1e-2, ... 1 by the training loss after 20 epochs.
OPTIMIZERS: dict[str, Callable[[Mapping[str, Array]], pyoptk.Optimizer]] = {
    "Adam": lambda params: pyoptk.Adam(params, lr=3e-2),
    "RMSprop": lambda params: pyoptk.RMSprop(params, lr=1e-2),
    "AdaGrad": lambda params: pyoptk.AdaGrad(params, lr=3e-1),
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
    model = Sequential(Linear(data.x.shape[1], 64, "relu", rng=rng), Linear(64, 10, rng=rng))
    optimizer = OPTIMIZERS[name](model.params)
    start = time.perf_counter()
    history = pyoptk.fit(
        model, pyoptk.losses.cross_entropy, optimizer, data.x, data.labels,
        epochs=epochs, batch_size=BATCH, rng=rng, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    right = model.predict(data.test_x).argmax(1) == data.test_labels
    return Outcome(optimizer.value("lr"), history["loss"], float(right.mean()), seconds)


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
    print("  optimizer      lr   training loss   test accuracy   seconds")
    for name, outcome in outcomes.items():
        print(
            f"  {name:9} {outcome.lr:7g} {outcome.losses[-1]:15.4f} {outcome.accuracy:15.1%}"
            f" {outcome.seconds:9.2f}"
        )
    if output is not None:
        extras.picture(
            lambda figure: plot.losses(figure, outcomes, f"{data.title}\n{title}"), output
        )
    extras.report()
    return outcomes
