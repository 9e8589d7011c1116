"""The training loop: `training` yields every epoch, `fit` runs it to its end.

A step is ``forward``, the loss, ``backward``, ``optimizer.step``, and nothing that the caller could
not write; the rest happens between epochs.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec

import numpy as np

from .. import _checks
from .._elsewhere import check_names
from .batches import Source, source_of, with_validation
from .console import Bar, Interrupts
from .history import History
from .metrics import Means, Scored, named_metrics
from .saved import Saved, check_optimizer, check_path
from .step import Step
from .trouble import Diverged, reason

_P = ParamSpec("_P")
Row = dict[str, float]


class Training:
    """What `training` returns: an iterable of the epochs, and what it has found so far.

    Attributes
    ----------
    history : History
    """

    def __init__(
        self,
        step: Step,
        sources: tuple[Source, Source | None],
        metrics: dict[str, Scored],
        saved: Saved,
        rng: np.random.Generator | None,
        limits: dict[str, Any],
    ) -> None:
        self.history = saved.history
        self._step, self._model = step, step.model
        self._train, self._validation = sources
        self._metrics, self._saved, self._rng, self._limits = metrics, saved, rng, limits

    def __iter__(self) -> Iterator[Row]:
        history, epochs = self.history, self._limits["epochs"]
        done = len(history["epoch"])
        self._stop_without_progress()  # of a run that is resumed
        with Bar(self._limits["progress"], epochs, done, self._train.steps) as bar:
            while not history.stopped and len(history["epoch"]) < epochs:
                with Interrupts() as interrupts:
                    row = self._epoch(bar, interrupts)
                if row is not None:
                    yield row
        with Interrupts():
            self._saved.take_best(self._model)

    def _epoch(self, bar: Bar, interrupts: Interrupts) -> Row | None:
        """Train and validate; None if it was interrupted before the end."""
        history, start = self.history, time.perf_counter()
        epoch = len(history["epoch"]) + 1
        trained, validated = Means(self._metrics), Means(self._metrics)
        self._steps(trained, bar, interrupts, epoch)
        if self._validation is not None and not interrupts.requested:
            self._evaluate(validated, interrupts)
        if interrupts.requested:
            loss = trained.values()["loss"]
            history.stopped = (
                f"interrupted in epoch {epoch} after {trained.steps} steps, mean loss {loss:.4g}"
            )
            return None
        row: Row = {"epoch": epoch, **trained.values()}
        if self._validation is not None:
            row |= validated.values("val_")
        row |= {"lr": self._lr(), "seconds": time.perf_counter() - start}
        self._saved.add(row, self._model)
        if bar:
            bar.tell(row)
        self._end_of_epoch(row)
        if interrupts.requested and not history.stopped:
            history.stopped = f"interrupted after epoch {epoch}"
        return row

    def _steps(self, means: Means, bar: Bar, interrupts: Interrupts, epoch: int) -> None:
        step, optimizer = self._step, self._step.optimizer
        for batch in self._train(self._rng):
            x, target, lengths, rows = batch
            y, value, dy = step.forward(x, target, lengths)
            if value - value != 0:
                why = reason(batch, self._model.params, y, self._lr())
                error = Diverged(
                    f"loss: expected a finite number, got {value} in epoch {epoch}, step "
                    f"{means.steps + 1}: {why}"
                )
                error.history = self.history
                raise error
            step.backward(dy)
            means.add(value, y, target, lengths, rows)
            if bar:
                bar.step(epoch, value, self._lr())
            if interrupts.requested:
                return
        if hasattr(optimizer, "flush"):
            optimizer.flush()

    def _evaluate(self, means: Means, interrupts: Interrupts) -> None:
        assert self._validation is not None
        for x, target, lengths, rows in self._validation():
            y = self._step.output(x, lengths, train=False)
            means.add(float(self._step.loss(y, target, lengths)[0]), y, target, lengths, rows)
            if interrupts.requested:
                return

    def _end_of_epoch(self, row: Row) -> None:
        history, limits = self.history, self._limits
        epoch = len(history["epoch"])
        if self._saved.path is not None and epoch % limits["every"] == 0:
            self._saved.write(self._model, self._rng)
        self._stop_without_progress()
        for callback in limits["callbacks"]:
            told = callback(row)
            if told is True or (isinstance(told, np.bool_) and told):
                history.stopped = f"stopped by a callback after epoch {epoch}"

    def _stop_without_progress(self) -> None:
        history, patience = self.history, self._limits["patience"]
        waited = len(history["epoch"]) - history.best_epoch
        if patience is not None and waited >= patience and not history.stopped:
            history.stopped = f"no lower {history.monitored} for {waited} epochs"

    def _lr(self) -> float:
        return float(self._saved.chain[0].value("lr"))


def _by_name(begin: Callable[_P, Training]) -> Callable[_P, Training]:
    """`begin`, but an unknown keyword is refused with the one that may be meant."""
    known = [*inspect.signature(begin).parameters]

    @functools.wraps(begin)
    def run(*args: _P.args, **options: _P.kwargs) -> Training:
        check_names(options, known)
        return begin(*args, **options)

    return run


@_by_name
def training(
    model: Any,
    loss: Callable[..., Any],
    optimizer: Any,
    x: Any,
    y: Any = None,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    validation: Any = None,
    shuffle: bool = True,
    metrics: Sequence[Any] = (),
    patience: int | None = None,
    best: bool = True,
    lengths: Any = None,
    batch_axis: int = 0,
    rng: np.random.Generator | None = None,
    progress: bool = True,
    callbacks: Sequence[Callable[[Row], Any]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
) -> Training:
    """Like `fit`, for a loop of one's own: ``for epoch in pyoptk.training(...)``.

    Yields a dict after each epoch: "epoch", "loss", metrics, "val_loss", "lr", "seconds". The
    object that it returns also has the `history`. The best weights are given back when the loop has
    ended, not after a `break`.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> from pyoptk.layers import Linear, Sequential
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((256, 2)).astype("float32")
    >>> model = Sequential(Linear(2, 16, "relu", rng=rng), Linear(16, 2, rng=rng))
    >>> opt = pyoptk.Adam(model.params, lr=0.01)
    >>> loss, labels = pyoptk.losses.cross_entropy, (x[:, 0] > x[:, 1]).astype(int)
    >>> for epoch in pyoptk.training(model, loss, opt, x, labels, epochs=30, rng=rng):
    ...     if epoch["loss"] < 0.1:
    ...         break
    >>> epoch["epoch"] < 30
    True
    """
    axis = batch_axis
    _checks.check_sizes(epochs=epochs, checkpoint_every=checkpoint_every)
    if patience is not None:
        _checks.check_sizes(patience=patience)
    _checks.check_switches(shuffle=shuffle, best=best, progress=progress, resume=resume)
    _checks.check_rng(rng)
    if resume or checkpoint is not None:
        check_path(checkpoint)
        every = f"1..{epochs}, because there are {epochs} epochs"
        _checks.check_integer("checkpoint_every", checkpoint_every, 1, epochs + 1, every)
    if not isinstance(callbacks, list | tuple) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks: expected a list or tuple of functions, got {callbacks!r}")
    chain = check_optimizer(optimizer, model)
    scored = named_metrics(metrics, axis == 0)
    step = Step(model, loss, axis == 0, optimizer, chain, scored.values())
    sources = with_validation(
        source_of(model, x, y, lengths, axis, batch_size, epochs), validation, axis, batch_size
    )
    if sources[1] is not None:
        taken = inspect.signature(model.forward).parameters
        if "train" not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            raise TypeError("model: expected a forward with train=, for validation, got none")
    names = ["loss", *scored]
    columns = names + [f"val_{name}" for name in names if sources[1] is not None]
    if rng is None and shuffle:
        rng = np.random.default_rng()
    keeps_best = best and sources[1] is not None
    saved = Saved(History(columns), chain, model, keeps_best, checkpoint, scored)
    if resume:
        saved.resume(model, rng if shuffle else None)
    limits = {
        "epochs": epochs,
        "patience": patience,
        "callbacks": tuple(callbacks),
        "every": checkpoint_every,
        "progress": progress,
    }
    return Training(step, sources, scored, saved, rng if shuffle else None, limits)


def _to_the_end(begin: Callable[_P, Training]) -> Callable[_P, History]:
    """`begin`, and all epochs; the arguments are listed once."""

    @functools.wraps(begin)
    def run(*args: _P.args, **options: _P.kwargs) -> History:
        running = begin(*args, **options)
        for _ in running:
            pass
        return running.history

    vars(run)["__signature__"] = inspect.signature(begin).replace(return_annotation="History")
    return run


fit = _to_the_end(training)
fit.__name__ = fit.__qualname__ = "fit"
fit.__doc__ = """Train a model in place, batch by batch; returns the history of the epochs.

    A step is ``y = model.forward(x)``, ``value, dy = loss(y, target)``, ``model.backward(dy)`` and
    ``optimizer.step(model.grads)``. Ctrl-C ends training after the running step, a second Ctrl-C at
    once. In both cases each step has happened or not.

    Parameters
    ----------
    model : object
        Has `params` and `grads`, mappings of names to arrays; ``forward(x)``, also with
        ``train=False`` for validation and, for sequences, ``lengths=``; and ``backward(dy)``.
    loss : function
        Takes the output and the targets of a batch; returns the loss, a number, and its gradient.
    optimizer : optimizer or wrapper
        Of ``model.params``. With a `LossScaler` the gradients are scaled; an `Accumulation` is
        flushed after each epoch. A `ReduceOnPlateau` among its hyper-parameters, or joined to other
        schedules there, is updated after each epoch with the loss (of validation where there is
        one); if its mode is "max", with the metric, of which there must be one.
    x, y : arrays
        Inputs and targets, `batch_axis` the axis of rows. Targets for each step of sequences have
        the first two axes of `x`; others have their rows on the first axis. Or `y` is None and `x`
        an iterable of batches (x, y) or (x, y, lengths), or a function that returns one per epoch.
    epochs, batch_size : int
        At least 1. The last batch of an epoch is smaller if it must be.
    validation : float, (x, y), (x, y, lengths) or batches, optional
        Evaluated after each epoch. A float is the share of the rows to use for it, the last ones,
        as in Keras: shuffle rows before that are sorted.
    shuffle : bool
        A new order of the rows in each epoch; batches that are given stay as they are.
    metrics : list or tuple
        "accuracy", or functions (y, target) that return a number, or a tuple that begins with it,
        as losses do. They see the output that was trained on, as the loss does.
    patience : int, optional
        Stop after so many epochs without a lower loss (of validation where there is one).
    best : bool
        Where there is validation, the model ends with the weights of the epoch with the lowest
        loss, also after Ctrl-C. The optimizer keeps its own state.
    lengths : integers [N], optional
        Of sequences. The model gets those of the batch; the loss and the metrics, too, if they have
        a parameter `lengths` and the output has steps, at least three axes (``batch_first=True`` is
        added for ``batch_axis=0``, if they know it).
    batch_axis : int
        0 for x [N, ...], 1 for sequences [T, N, I].
    rng : numpy.random.Generator, optional
        Shuffles; a new one by default.
    progress : bool
        Show a bar in a terminal or notebook, if tqdm is installed.
    callbacks : sequence of functions
        Called after each epoch with a dict, its row of the history. True stops training.
    checkpoint : path, optional
        A file in .npz or .safetensors, written with `pyoptk.save` after every `checkpoint_every`
        epochs: model, optimizer, rng, history and best weights.
    resume : bool
        Begin with what `checkpoint` holds, if there is such a file. Then the run is the one that
        was not interrupted, bit for bit, up to what batches and callbacks do by themselves.

    Returns
    -------
    History
        Means over the batches of an epoch, weighted by their rows.

    Raises
    ------
    TypeError, ValueError
        For arguments of another type, shape or range; the message names them.
    Diverged
        A FloatingPointError, if the loss is NaN or infinite; the message says what to look at, and
        `history` holds the epochs before.

    Examples
    --------
    A line, with a model of four lines:

    >>> import numpy as np, pyoptk
    >>> class Line:
    ...     params, grads = {"w": np.zeros(2)}, {"w": np.zeros(2)}
    ...
    ...     def forward(self, x, train=True):
    ...         self.x = x
    ...         return x * self.params["w"][0] + self.params["w"][1]
    ...
    ...     def backward(self, dy):
    ...         self.grads["w"][:] = (dy * self.x).sum(), dy.sum()
    >>> def mse(y, target):
    ...     return np.mean((y - target) ** 2), 2 * (y - target) / y.size
    >>> model, x = Line(), np.linspace(-1, 1, 64)
    >>> opt = pyoptk.Adam(model.params, lr=0.05)
    >>> rng = np.random.default_rng(0)
    >>> history = pyoptk.fit(model, mse, opt, x, 3 * x + 1, epochs=60, batch_size=8, rng=rng)
    >>> model.params["w"].round(2), history["loss"][-1] < 1e-4
    (array([3., 1.]), True)
    """
