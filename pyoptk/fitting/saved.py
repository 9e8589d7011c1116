"""The memory of a run besides the model: its history, the best weights, and the checkpoint.

loop.py uses `Saved`; the range test uses `parts_of`, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from .. import _files, checkpoint
from .._memory import copies
from ..optim.stateful import Wrapper, at_once
from ..schedules import ReduceOnPlateau, _Made
from .history import History


def check_optimizer(optimizer: Any, model: Any) -> list[Any]:
    """The optimizer, then its wrappers from the inside out; raise unless it is the model's."""
    for name in ("params", "grads", "forward", "backward"):
        if not hasattr(model, name):
            raise TypeError(f"model: expected an object with {name}, got {type(model).__name__}")
    if not hasattr(optimizer, "step"):
        raise TypeError(f"optimizer: expected one, got {type(optimizer).__name__}")
    chain = [optimizer]
    while isinstance(chain[0], Wrapper):
        chain.insert(0, chain[0].opt)
    if hasattr(chain[0], "mine"):  # testing its class would import pyoptk.mpi
        raise TypeError(
            "optimizer: expected one of a single process, got Sharded, whose ranks bring "
            "micro-batches of their own; docs/mpi.md has the loop for it"
        )
    own, params = getattr(chain[0], "params", None), model.params
    if not isinstance(own, dict) or any(
        name not in params or array is not params[name] for name, array in own.items()
    ):
        raise ValueError(
            "optimizer: expected one that was made with model.params, got "
            f"{type(chain[0]).__name__} of other arrays"
        )
    if left := [name for name in model.grads if name not in own]:
        raise ValueError(
            "optimizer: expected one of all parameters that have gradients, got none for "
            f"{', '.join(map(repr, left))} (a gradient of None leaves a parameter alone)"
        )
    return chain


def check_path(path: Any) -> None:
    """Raise unless a checkpoint can have this name."""
    if path is None:
        raise ValueError("checkpoint: expected the path to resume from, got None")
    _files.suffix(path, "checkpoint")
    folder = os.path.dirname(os.path.abspath(os.fsdecode(path)))
    if not os.path.isdir(folder):
        raise ValueError(f"checkpoint: expected a folder that exists, got {folder}")


def parts_of(model: Any, chain: list[Any]) -> dict[str, Any]:
    """The parts of a checkpoint that hold all the state of a model and its optimizer."""
    whole = hasattr(model, "state_dict") and hasattr(model, "load_state_dict")
    parts = {"model": model if whole else dict(model.params)}
    return parts | {f"optimizer{i}": part for i, part in enumerate(chain)}


class Saved:
    """The history of a run, the weights of its best epoch, and its checkpoint.

    Parameters
    ----------
    chain : list
        The optimizer and its wrappers.
    keeps_best : bool
    path : path or None
        Of the checkpoint.
    metrics : names
    """

    def __init__(
        self,
        history: History,
        chain: list[Any],
        model: Any,
        keeps_best: bool,
        path: str | os.PathLike[str] | None,
        metrics: Iterable[str],
    ) -> None:
        self.history, self.chain, self.path = history, chain, path
        params = model.params if keeps_best else {}
        self.best = {name: np.array(array) for name, array in params.items()}
        groups = getattr(chain[0], "groups", {}).values()
        values = [v for own in (getattr(chain[0], "hyper", {}), *groups) for v in own.values()]
        self.plateaus = list({id(p): p for v in values for p in _plateaus(v)}.values())
        self.columns = {"min": history.monitored}
        if any(plateau.mode == "max" for plateau in self.plateaus):
            if len(names := [*metrics]) != 1:
                raise ValueError(
                    "metrics: expected one, for the ReduceOnPlateau whose mode is 'max', got "
                    f"{len(names)}"
                )
            self.columns["max"] = history.monitored.replace("loss", names[0])

    def add(self, row: dict[str, float], model: Any) -> None:
        """Take in an epoch, wholly or not at all: its row, its weights if it is the best so far."""
        optimizer = self.chain[0]
        watched = optimizer.watched if getattr(optimizer, "watch", False) else {}
        calls = self.history._adding(row) + self.history._adding_updates(row["epoch"], watched)
        for plateau in self.plateaus:
            fresh = plateau._after(row[self.columns[plateau.mode]])
            calls.append(partial(vars(plateau).update, fresh))
        if self.history._improves(row):
            calls += copies((array, model.params[name]) for name, array in self.best.items())
        at_once(calls)

    def take_best(self, model: Any) -> None:
        """Give the model the weights of its best epoch, once there is one."""
        if self.history["epoch"]:
            at_once(copies((model.params[name], array) for name, array in self.best.items()))

    def _parts(self, model: Any, rng: np.random.Generator | None) -> dict[str, Any]:
        run: dict[str, Any] = {"history": self.history, "best": self.best}
        run |= {} if rng is None else {"rng": rng}
        run |= {f"plateau{i}": schedule for i, schedule in enumerate(self.plateaus)}
        return parts_of(model, self.chain) | run

    def write(self, model: Any, rng: np.random.Generator | None) -> None:
        assert self.path is not None
        checkpoint.save(self.path, **self._parts(model, rng))

    def resume(self, model: Any, rng: np.random.Generator | None) -> None:
        """Load the checkpoint, if there is one."""
        assert self.path is not None
        if os.path.exists(self.path):
            checkpoint.load(self.path, **self._parts(model, rng))


def _plateaus(value: Any) -> list[ReduceOnPlateau]:
    """The `ReduceOnPlateau`s of a hyper-parameter, also within `schedules.join`."""
    if isinstance(value, ReduceOnPlateau):
        return [value]
    joined = value.arguments.get("schedules", ()) if isinstance(value, _Made) else ()
    return [plateau for schedule in joined for plateau in _plateaus(schedule)]
