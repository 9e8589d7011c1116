"""Linear regression: y = 3x + 2 with noise, recovered by Adam from float64 arrays.

No model can know slope and intercept better than the noise lets it: the yardstick is the least
squares solution and its standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pyoptk
from pyoptk.layers import Linear

from . import plot
from .parts import Extras, say_what_runs

SLOPE, INTERCEPT, NOISE = 3.0, 2.0, 0.5
ROWS = 200
EPOCHS = 500
LR = 0.1


@dataclass(frozen=True)
class Outcome:
    """Slope and intercept as trained, by least squares, and the latter's standard errors."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    fitted: NDArray[np.float64]
    exact: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    losses: list[float]


def fit(epochs: int, seed: int) -> Outcome:
    """Draw the points and fit the line with full-batch steps of Adam."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, ROWS)
    y = SLOPE * x + INTERCEPT + rng.normal(0, NOISE, ROWS)
    model = Linear(1, 1, dtype=np.float64, rng=rng)
    history = pyoptk.fit(
        model, pyoptk.losses.mse, pyoptk.Adam(model.params, lr=LR), x[:, None], y[:, None],
        epochs=epochs, batch_size=ROWS, shuffle=False, progress=False,
    )  # fmt: skip
    fitted = np.array([array.item() for array in model.params.values()])
    design = np.stack([x, np.ones(ROWS)], 1)
    solution, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    exact: NDArray[np.float64] = solution.astype(np.float64)
    covariance: NDArray[np.float64] = residual[0] / (ROWS - 2) * np.linalg.inv(design.T @ design)
    errors: NDArray[np.float64] = np.sqrt(np.diag(covariance))
    return Outcome(x, y, fitted, exact, errors, history["loss"])


def run(
    *,
    epochs: int | None = None,
    seed: int = 0,
    output: Path | None = Path("pyoptk-linear.png"),
) -> Outcome:
    """Fit the line, print the report, save the picture.

    Parameters
    ----------
    epochs : int or None
        Steps over all points; None: 500.
    seed : int
        Of the points.
    output : Path or None
        The picture; None for no picture.

    Returns
    -------
    Outcome
    """
    extras = Extras()
    outcome = fit(epochs or EPOCHS, seed)
    say_what_runs()
    print(f"y = {SLOPE:g}x + {INTERCEPT:g}, {ROWS} points with noise of {NOISE:g}")
    print(f"  {len(outcome.losses)} steps of Adam on all points, float64\n")
    print("                true      pyoptk   least squares   standard error")
    rows = zip(
        ("slope", "intercept"),
        (SLOPE, INTERCEPT),
        outcome.fitted,
        outcome.exact,
        outcome.standard_error,
        strict=True,
    )
    for name, true, fitted, exact, error in rows:
        print(f"  {name:9} {true:9.4f} {fitted:11.4f} {exact:15.4f} {error:16.4f}")
    if output is not None:
        extras.picture(lambda figure: plot.line(figure, outcome), output)
    extras.report()
    return outcome
