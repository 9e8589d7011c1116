"""`Stats` of a recurrent layer: its states, gates and gradients over time.

`Layer.stats` makes it from the memory that a pass leaves; csrc/kernels/rnn_layout.h describes that.
No pass calls this.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = NDArray[np.float64]

# The columns that a cell stores, in their order in memory; "": not used here.
COLUMNS = {
    "lstm": ("i", "f", "g", "o"),
    "lstm_coupled": ("f", "g", "o"),
    "gru": ("", "r", "z", "n"),
    "gru_before": ("r", "z", "n"),
    "rnn": ("a",),
    "lstm_normed": ("i", "f", "g", "o"),
    "gru_normed": ("r", "z", "n", ""),
}
_OF_TANH = ("g", "n", "h")  # in [-1, 1], not in [0, 1]
_PER_PANEL = 4  # vectors
_LINE = 64  # bytes of a cache line


class Stats(dict[str, dict[str, Values]]):
    """For each layer and direction, "l0", "l0_reverse" and so on, arrays [T] by name.

    They are over all units and all sequences that are not past their end; NaN if there are none.

    - "h", "c": the root mean square of the state after each step.
    - After forward, for each gate, such as "f": "f_low" and "f_high", the shares below 0.1 and
      above 0.9 (Karpathy et al. 2015); of what is a tanh, "g", "n" or the "h" of an `RNN`, below
      -0.9 and above 0.9; with relu "h_low" is the share of zeros. A gate at its bound passes next
      to no gradient.
    - After backward instead "gradient": the root mean square of the gradient of all
      pre-activations; an `RNN` does not keep it. If it falls or rises by powers of ten on its way
      back through time, it vanishes or explodes.
    """

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw all arrays over time, a row for each layer, as `History.plot` does."""
        from ..fitting.pictures import drawn, states

        return drawn(lambda figure: states(figure, self), path)


def stats_of(layer: Any) -> Stats:
    """The statistics of the last pass of a layer."""
    if layer.save == "minimal":
        raise RuntimeError("stats: expected a layer with save='full', got 'minimal'")
    kept, lengths, T, B, lanes, before_backward = layer._passes.kept()
    if not B:
        raise RuntimeError("stats: expected a batch of at least one row, got none")
    columns, found = COLUMNS[layer.cell], Stats()
    ends = np.full(B, T) if lengths is None else np.asarray(lengths)
    running = np.arange(T)[:, None] < ends
    for i, (gates, h, c) in enumerate(kept):
        level, reverse = divmod(i, layer.directions)
        order = slice(None, None, -1 if reverse else 1)  # memory is in the order of the steps
        mine: dict[str, Values] = {}
        H, states = layer.hidden_size, {"h": (h, layer.proj_size or layer.hidden_size)}
        if c.size:
            states["c"] = c, H
        for name, (state, units) in states.items():
            mine[name] = _rms(state.reshape(T + 1, B, -1)[1:, :, :units][order], running)
        if before_backward:
            for name, values in _saturating(layer, columns, gates, h, (T, B, lanes), order):
                low, high = _bounds(name, layer.relu)
                mine[f"{name}_low"] = _mean(values <= low, running)
                mine[f"{name}_high"] = _mean(values >= high, running)
        elif gates.size:
            of_all = _gates_of(layer, gates, (T, B, lanes))[:, order]
            mine["gradient"] = _rms(np.concatenate([*of_all], -1), running)
        found[f"l{level}{'_reverse' * reverse}"] = mine
    return found


def _bounds(name: str, relu: bool) -> tuple[float, float]:
    if relu:
        return 0.0, np.inf
    return (-0.9, 0.9) if name in _OF_TANH else (0.1, 0.9)


def _saturating(
    layer: Any,
    columns: tuple[str, ...],
    gates: Any,
    h: Any,
    sizes: tuple[int, int, int],
    order: slice,
) -> list[tuple[str, Any]]:
    """The gates by name, [T, B, H] each; of a plain RNN, which keeps none, the state."""
    if layer.cell == "rnn":
        T, B, _ = sizes
        return [("h", h.reshape(T + 1, B, -1)[1:, :, : layer.hidden_size][order])]
    values = _gates_of(layer, gates, sizes)[:, order]
    return [(name, values[k]) for k, name in enumerate(columns) if name]


def _gates_of(layer: Any, gates: Any, sizes: tuple[int, int, int]) -> Any:
    """[columns, T, B, H] from the memory of a layer."""
    (T, B, lanes), H = sizes, layer.hidden_size
    if not layer.layer_norm:
        return _unpacked(gates, T, B, H, lanes, len(COLUMNS[layer.cell]))
    line = _LINE // gates.itemsize  # rows [4, H], an odd number of lines apart: normed_layout.h
    row = (-(-4 * H // line) | 1) * line
    rows = gates[: T * B * row].reshape(T, B, row)[:, :, : 4 * H]
    return np.moveaxis(rows.reshape(T, B, 4, H), 2, 0)


def _unpacked(gates: Any, T: int, B: int, H: int, lanes: int, columns: int) -> Any:
    """[columns, T, B, H] from the panels in memory, [panels, T, B, _PER_PANEL * lanes]."""
    units, width = lanes * (_PER_PANEL if columns == 1 else 1), _PER_PANEL * lanes
    panels = -(-H // units)
    rows = gates[: panels * T * B * width].reshape(panels, T, B, width)
    values = np.empty((columns, T, B, H), gates.dtype)
    for panel in range(panels):
        at = panel * units
        n = min(units, H - at)
        of_panel = rows[panel, :, :, : columns * n].reshape(T, B, columns, n)
        values[..., at : at + n] = np.moveaxis(of_panel, 2, 0)
    return values


def _mean(values: Any, running: Any) -> Values:
    """The mean over the units of the running sequences at each step."""
    count = running.sum(1)
    sums = np.where(running, values.mean(-1, dtype=float), 0).sum(1)
    result: Values = np.where(count > 0, sums / np.maximum(count, 1), np.nan)
    return result


def _rms(values: Any, running: Any) -> Values:
    result: Values = np.sqrt(_mean(np.square(values, dtype=float), running))
    return result
