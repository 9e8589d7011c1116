"""Helpers that call the command line, for the tests of the demos."""

from pathlib import Path

import numpy as np

from pyoptk.__main__ import main
from pyoptk.demo import series

SEASONAL, CHANGE, TREND = series.seasonal_naive, series.seasonal_change, series.linear_trend


def call(*arguments):
    """Runs `python -m pyoptk` with these arguments in this process; returns the exit status."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


def write(cells, header="day,x", name="own.csv"):
    """Writes a CSV file with one row per cell into the current folder."""
    rows = [f"d{k},{cell}" for k, cell in enumerate(cells, 1)]
    Path(name).write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return name


def wave(rows=120):
    """Cells of a series with a period of 4 and noise, as text."""
    rng = np.random.default_rng(0)
    return [f"{v:.4f}" for v in np.sin(np.arange(rows) * np.pi / 2) + rng.normal(0, 0.1, rows)]


def swapped(cells, **changes):
    """`cells` with ``r7="text"`` in row 7, which is line 8 of the file."""
    cells = list(cells)
    for row, text in changes.items():
        cells[int(row[1:]) - 1] = text
    return cells
