"""What the demos share: the one error, a dense layer, a stopwatch, and the optional extras.

`tqdm` and `matplotlib` are the extra ``demo``. Without them a demo runs all the same; what it then
cannot show is collected in an `Extras` and said at the end of the report.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import pyoptk

from .. import _interrupt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
Params = dict[str, Array]


class DemoError(Exception):
    """The user's input cannot be used; the message is one line and names the place."""


class Stopwatch:
    """Adds up the seconds spent inside ``with watch:``."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds += time.perf_counter() - self._start


class Dense:
    """``y = x @ weight.T + bias`` in NumPy; `backward` overwrites the arrays in `grads`.

    Parameters
    ----------
    inputs, outputs : int
        Features in and out; `weight` is float32 [outputs, inputs], `bias` [outputs].
    rng : numpy.random.Generator
        Draws the weights (He et al. 2015); the bias starts at 0.
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        weight = rng.normal(0.0, np.sqrt(2 / inputs), (outputs, inputs))
        self.params: Params = {
            "weight": weight.astype(np.float32),
            "bias": np.zeros(outputs, np.float32),
        }
        self.grads: Params = {name: np.zeros_like(p) for name, p in self.params.items()}
        self._x: Array | None = None

    def forward(self, x: Array) -> Array:
        """The output [B, outputs] for `x` [B, inputs], which is kept for `backward`."""
        self._x = x
        y: Array = x @ self.params["weight"].T + self.params["bias"]
        return y

    def backward(self, dy: Array) -> Array:
        """The gradient of the last `forward`'s input; overwrites `grads`."""
        if self._x is None:
            raise RuntimeError("backward: expected a forward call before it")
        np.matmul(dy.T, self._x, out=self.grads["weight"])
        dy.sum(0, out=self.grads["bias"])
        dx: Array = dy @ self.params["weight"]
        return dx


def say_what_runs() -> None:
    """Print the first line of a report: version, instruction set, threads."""
    threads = pyoptk.get_num_threads()
    plural = "" if threads == 1 else "s"
    print(f"pyoptk {pyoptk.__version__}, {pyoptk.isa()}, {threads} thread{plural}\n")


def gather(**layers: Mapping[str, Any]) -> Params:
    """One dict of the layers' arrays themselves, not copies, under ``layer.name``."""
    return {
        f"{layer}.{name}": array
        for layer, arrays in layers.items()
        for name, array in arrays.items()
    }


class Extras:
    """The optional packages: used where installed, otherwise remembered for the report.

    Attributes
    ----------
    rank : int or None
        Of MPI: only the first one shows anything.
    """

    def __init__(self, rank: int | None = None) -> None:
        self.rank = rank
        self._missing: dict[str, str] = {}  # by package, what the demo does without

    def progress(self, work: Iterable[int], title: str) -> Iterable[int]:
        """`work` behind a progress bar, where there is tqdm and a terminal or MPI to show it."""
        if self.rank:
            return work
        try:
            from tqdm import tqdm
        except ImportError:
            self._missing["tqdm"] = "no progress bar"
            return work
        hidden = None if self.rank is None else False  # mpiexec hides the terminal behind a pipe
        bar: Iterable[int] = tqdm(work, desc=title, leave=False, disable=hidden)
        return bar

    def picture(self, draw: Callable[[Figure], None], path: Path) -> None:
        """Let `draw` fill a matplotlib figure, save it at `path` and say so."""
        try:
            from matplotlib.figure import Figure

            from .plot import fit
        except ImportError:
            self._missing["matplotlib"] = "no picture"
            return
        figure, image = Figure(layout="constrained"), io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a script that the font lacks
            draw(figure)
            fit(figure)
            figure.savefig(image, format="png", dpi=120)
        try:
            with _interrupt.held():
                path.write_bytes(image.getbuffer())
        except OSError as error:
            raise DemoError(f"{path}: cannot save the picture: {error.strerror}") from error
        print(f"\npicture: {path}")

    def report(self) -> None:
        """Print what was missing, and the command that installs it."""
        for package, lack in self._missing.items():
            print(f"{lack}: {package} is not installed")
        if self._missing:
            print(f"to install: python -m pip install {' '.join(self._missing)}")
