"""The loop in a terminal: Ctrl-C (`Interrupts`) and the progress bar (`Bar`)."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Any, Self


class Interrupts:
    """Within ``with Interrupts() as interrupts:`` Ctrl-C only sets `interrupts.requested`.

    A second Ctrl-C raises KeyboardInterrupt, unless `patient`. It replaces Python's own
    handler only, and only in the main thread.
    """

    def __init__(self, patient: bool = False) -> None:
        self.requested, self.patient = False, patient
        self._set = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if before is signal.default_int_handler or (
                isinstance(before, _Handler) and before.of() is None
            ):
                signal.signal(signal.SIGINT, _Handler(self))
                self._set = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._set:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Handler:
    """The handler of Ctrl-C for an `Interrupts`; after its end, Python's own.

    An exception within the bytecode of the `with` itself can leave this handler behind.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self.of = weakref.ref(interrupts)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        interrupts = self.of()
        if interrupts is None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if interrupts is None or (interrupts.requested and not interrupts.patient):
            signal.default_int_handler(number, frame)
        else:
            interrupts.requested = True


def _tqdm() -> Any:
    """tqdm for this terminal or notebook; None where there is neither, or no tqdm."""
    notebook = "ipykernel" in sys.modules
    if not notebook and not (sys.stderr and sys.stderr.isatty()):
        return None
    widgets = notebook and importlib.util.find_spec("ipywidgets")
    try:
        return importlib.import_module("tqdm.notebook" if widgets else "tqdm").tqdm
    except ImportError:
        return None


class Bar:
    """A progress bar over all steps, drawn ten times a second; nothing without a terminal."""

    def __init__(self, shown: bool, epochs: int, done: int, steps: int | None) -> None:
        tqdm = _tqdm() if shown else None
        self.epochs, self.next, self.pending, self.told = epochs, 0.0, 0, ""
        total = None if steps is None else epochs * steps
        first = done * (steps or 0)
        self.bar: Any = tqdm and tqdm(total=total, initial=first, unit="step", dynamic_ncols=True)

    def __bool__(self) -> bool:
        return self.bar is not None

    def step(self, epoch: int, loss: float, lr: float) -> None:
        """Count a step; show it if it is time."""
        self.pending += 1
        if (now := time.perf_counter()) >= self.next:
            self.next = now + 0.1
            self.bar.set_description_str(f"epoch {epoch}/{self.epochs}", refresh=False)
            self.bar.set_postfix_str(f"loss {loss:.4g}, lr {lr:.3g}{self.told}", refresh=False)
            self.flush()

    def tell(self, row: dict[str, float]) -> None:
        """Show the results of the last validation from now on."""
        self.told = "".join(f", {k} {v:.4g}" for k, v in row.items() if k.startswith("val_"))

    def flush(self) -> None:
        self.bar.update(self.pending)
        self.pending = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.flush()
            self.bar.close()
