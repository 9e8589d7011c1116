"""`History`: the numbers of every epoch, as data, as a table and as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

from .. import _files
from ..checkpoint import check_arrays
from ..optim.stateful import at_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 12  # rows of the printed table


class History(dict[str, list[float]]):
    """What `fit` returns: a dict of lists with an entry for each epoch. Prints as a table.

    The keys are "epoch" (from 1), "loss", the metrics, the same with ``"val_"`` where there is
    validation, "lr" (after the epoch) and "seconds".

    Attributes
    ----------
    stopped : str
        Why training ended before the last epoch; "" if it did not.
    updates : dict
        With ``optimizer.watch = True``: for each parameter a dict of lists, what `watched` told
        after the last step of each epoch, and "epoch". Not saved: a resumed run begins anew.

    Examples
    --------
    >>> import pyoptk
    >>> history = pyoptk.History(["loss", "val_loss"])
    >>> history.append({"epoch": 1, "loss": 0.5, "val_loss": 0.75, "lr": 0.1, "seconds": 2.0})
    >>> history["val_loss"], history.best_epoch
    ([0.75], 1)
    >>> history
    epoch  loss  val_loss   lr  seconds
        1   0.5      0.75  0.1     2.00  best
    """

    def __init__(self, columns: Iterable[str] = ()) -> None:
        if isinstance(columns, str):
            raise TypeError(f"columns: expected a list of names, got {columns!r}")
        super().__init__((name, []) for name in ("epoch", *columns, "lr", "seconds"))
        self.stopped = ""
        self.updates: dict[str, dict[str, list[float]]] = {}

    def append(self, row: dict[str, float]) -> None:
        """Add an epoch; a ValueError if it lacks a column, and then nothing is added."""
        at_once(self._adding(row))

    def _adding(self, row: Mapping[str, float]) -> list[Callable[[], None]]:
        """The calls that `append` makes."""
        if missing := [name for name in self if name not in row]:
            raise ValueError(f"row: expected all of {', '.join(self)}, got no {missing[0]!r}")
        return [partial(values.append, row[name]) for name, values in self.items()]

    def add_updates(self, epoch: int, watched: Mapping[str, Mapping[str, float] | None]) -> None:
        """Add an optimizer's `watched`; nothing for parameters that the step did not change."""
        at_once(self._adding_updates(epoch, watched))

    def _adding_updates(
        self, epoch: float, watched: Mapping[str, Mapping[str, float] | None]
    ) -> list[Callable[[], None]]:
        """The calls that `add_updates` makes."""
        calls: list[Callable[[], None]] = []
        for name, told in watched.items():
            row = {} if told is None else {"epoch": epoch, **told}
            if row and name not in self.updates:
                calls.append(partial(self.updates.update, {name: {k: [row[k]] for k in row}}))
            else:
                calls += [partial(self.updates[name][k].append, v) for k, v in row.items()]
        return calls

    def state_dict(self) -> dict[str, list[float]]:
        """The lists by name, its own."""
        return dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the epochs of another history with the same columns; nothing changes on an error."""
        self.check_state_dict(state)
        at_once([partial(own.__setitem__, slice(None), state[name]) for name, own in self.items()])

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise."""
        check_arrays(self, state, "history")
        epochs = len(state["epoch"])
        for name, column in state.items():
            if odd := [v for v in column if isinstance(v, bool) or not isinstance(v, Real)]:
                raise TypeError(f"history[{name!r}]: expected numbers, got {odd[0]!r}")
            if len(column) != epochs:
                raise ValueError(
                    f"history[{name!r}]: expected {epochs} numbers, as 'epoch' has, got "
                    f"{len(column)}"
                )

    @property
    def monitored(self) -> str:
        """The name of what is minimized: "val_loss" if there is validation, else "loss"."""
        return "val_loss" if "val_loss" in self else "loss"

    def _improves(self, row: Mapping[str, float]) -> bool:
        """Whether `row`, of the next epoch, would be the best."""
        lows = (math.inf if math.isnan(v) else v for v in self[self.monitored])
        return not self["epoch"] or row[self.monitored] < min(lows)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the lowest `monitored`; 0 before the first one."""
        found = [math.inf if math.isnan(v) else v for v in self[self.monitored]]
        return int(self["epoch"][found.index(min(found))]) if found else 0

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line with the names, then one for each epoch, every number with all its digits.

        An existing file is replaced.
        """
        lines = [self, *zip(*self.values(), strict=True)]
        text = "".join(",".join(map(str, line)) + "\n" for line in lines)
        _files.replace(path, lambda file: bool(file.write(text.encode())))

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw loss and metrics over the epochs; needs matplotlib, the extra ``plot``.

        Parameters
        ----------
        path : str or PathLike, optional
            Save the picture there, in the format of the suffix. Without it the figure is one of
            pyplot: a notebook shows it, elsewhere `matplotlib.pyplot.show()` does.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        from .pictures import drawn, epochs

        return drawn(lambda figure: epochs(figure, self), path)

    def plot_updates(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw what each parameter's steps were like: update / parameter, norms of gradients.

        Where training goes well, an update is about a thousandth of its parameter; the band is a
        factor of ten around that. Lines far below it do not learn, lines above it may diverge.
        Gradient norms that fall from layer to layer vanish, those that grow explode.

        Parameters and returns as in `plot`.

        Raises
        ------
        ValueError
            If nothing was watched; set ``optimizer.watch = True`` before `fit`.
        ImportError
            Without matplotlib.
        """
        if not self.updates:
            raise ValueError("updates: expected optimizer.watch = True during fit, got no updates")
        from .pictures import drawn, updates

        return drawn(lambda figure: updates(figure, self.updates), path)

    def __repr__(self) -> str:
        if not self["epoch"]:
            return f"no epochs{f'; {self.stopped}' if self.stopped else ''}"
        best = self.best_epoch
        rows = [
            [*(_text(name, values[i]) for name, values in self.items()), "best" * (epoch == best)]
            for i, epoch in enumerate(self["epoch"])
        ]
        if len(rows) > _SHOWN:
            rows[_SHOWN // 3 : _SHOWN // 3 - _SHOWN] = [["..."] * len(self) + [""]]
        cells = [[*self, ""], *rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join([*lines, *([self.stopped] if self.stopped else [])])

    __str__ = __repr__


def _text(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "seconds" else f"{value:.4g}"
