"""Averaged weights, for evaluation: `Lookahead` and `SWA`.

A moving average needs no wrapper: it is `ema_decay` of every optimizer. What a step or an update
changes is in stateful.py.
"""

from __future__ import annotations

from typing import Any

from .._held import Averaged
from ..params import Arrays, Params
from .base import Optimizer
from .stateful import LookaheadSteps, SWAUpdates, Wrapper, shown


class Lookahead(LookaheadSteps):
    """Lookahead (Zhang et al. 2019, algorithm 1): slow weights that follow those of `opt`.

    After every k steps of `opt`, ``slow += alpha * (p - slow); p = slow``. The state of `opt`
    stays as it is (in Optax, ``reset_state=False``). The slow weights begin at the parameters.

    Parameters
    ----------
    opt : optimizer or wrapper
        Of parameters that are not float16 or bfloat16; others raise a TypeError.
    k : int
        Steps between two updates of the slow weights, at least 1 (Optax's ``sync_period``).
    alpha : float
        Step size of the slow weights, in [0, 1] (Optax's ``slow_step_size``).

    Attributes
    ----------
    count : int
        The number of steps since the last update of the slow weights.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.zeros(1)
    >>> lookahead = pyoptk.Lookahead(pyoptk.SGD(w, lr=1.0), k=2, alpha=0.5)
    >>> for _ in range(3):
    ...     stepped = lookahead.step(np.ones(1))
    ...     print(w, lookahead.slow)
    [-1.] [0.]
    [-1.] [-1.]
    [-2.] [-1.]
    """

    _numbers = ("k", "alpha", "count")

    def __init__(self, opt: Optimizer | Wrapper, k: int = 5, alpha: float = 0.5) -> None:
        super().__init__(opt)
        if any(self._tree.held.kinds):
            raise TypeError(
                "opt: expected parameters of float32 or float64, whose way to the slow weights is "
                "not rounded to 16 bits, got narrow ones"
            )
        self.k, self.alpha = k, alpha
        self._slow = [param.copy() for param in self._tree.arrays]
        self._own = self._tree.named("slow", shown(self._slow))

    @property
    def slow(self) -> Any:
        """The slow weights, in the structure of the optimizer's `params`; changed by `step`."""
        return self._tree.like(list(self._own.values()))

    def averaged(self) -> Averaged:
        """Within ``with lookahead.averaged():`` the parameters are the slow weights.

        They change in place. At the end they are restored bit for bit. A step within is refused.
        """
        return Averaged(self._tree.held, self._slow)


class SWA(SWAUpdates):
    """Stochastic weight averaging (Izmailov et al. 2018): the unweighted mean of some parameters.

    The first update copies p; after n updates, ``average += (p - average) / (n + 1)``. This is
    PyTorch's ``get_swa_avg_fn``, bit for bit. `AveragedModel` uses ``_foreach_lerp_`` by default,
    whose last bits differ.

    Parameters
    ----------
    params : array, or sequence or dict of arrays, nested or not
        As for an optimizer. Changed only within `averaged`.

    Attributes
    ----------
    count : int
        The number of updates.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> w = np.array([1.0, 5.0])
    >>> swa = pyoptk.SWA(w)
    >>> for _ in range(3):
    ...     swa.update()
    ...     w += 2  # in place of training
    >>> with swa.averaged():
    ...     print(w)
    [3. 7.]
    >>> w
    array([ 7., 11.])
    """

    _numbers = ("count",)

    def __init__(self, params: Arrays) -> None:
        self._tree = Params(params)
        self._averages = [param.copy() for param in self._tree.arrays]
        self._own = self._tree.named("average", shown(self._averages))
        self.count = 0

    @property
    def weights(self) -> Any:
        """The averages, in the structure of `params`; the parameters at first, before `update`."""
        return self._tree.like(list(self._own.values()))

    def averaged(self) -> Averaged:
        """Within ``with swa.averaged():`` the parameters are their averages.

        They are swapped in place, and back again, bit for bit. Take no step within; an update is
        refused.

        Raises
        ------
        RuntimeError
            If there was no `update` yet.
        """
        if self.count == 0:
            raise RuntimeError("averaged: expected an update() before it, got none")
        return Averaged(self._tree.held, self._averages)
