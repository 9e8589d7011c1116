"""What the demos share: the one error, and the optional extras.

`tqdm` and `matplotlib` are the extra ``demo``. Without them a demo runs all the same; what it then
cannot show is collected in an `Extras` and said at the end of the report.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import pyoptk

from .. import _interrupt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]


class DemoError(Exception):
    """The user's input cannot be used; the message is one line and names the place."""


def say_what_runs() -> None:
    """Print the first line of a report: version, instruction set, threads."""
    threads = pyoptk.get_num_threads()
    plural = "" if threads == 1 else "s"
    print(f"pyoptk {pyoptk.__version__}, {pyoptk.isa()}, {threads} thread{plural}\n")


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
