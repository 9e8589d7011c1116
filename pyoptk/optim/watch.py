"""`Watched`: statistics of an optimizer's last step, `watch` and `watched`.

The sums are made by the step itself (csrc/kernels/watch.h). base.py makes it part of `Optimizer`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _checks, _optim

_COLUMNS = (
    "grad_norm",
    "param_norm",
    "update_norm",
    "largest_grad",
    "clipped",
    "zeros",
    "nonfinite",
)


class Watched:
    """The part of an optimizer that reports what its steps do."""

    _plan: Any
    _params: Any

    @property
    def watch(self) -> bool:
        """Whether steps are watched, see `watched`; may be assigned. Off at first, not saved.

        A watched step has the same bits and takes about a fifth longer, where elements are clipped
        half as long again.
        """
        return self._plan.watch is not None

    @property
    def watched(self) -> Any:
        """What the last watched step did to each parameter, in the structure of `params`.

        For each a dict of numbers, or None if the step left it alone or there was none yet. Of
        gradients with `SparseRows` it is about their rows. The same for any number of threads.

        - ``grad_norm``, ``param_norm``, ``update_norm``: Euclidean norms of the gradient, after
          `grad_scale` and before clipping, of the parameter after the step, and of its change. They
          are sums of squares: 0 for numbers below 1e-160, infinite above 1e150.
        - ``ratio``: ``update_norm / param_norm``, about 1e-3 where training goes well.
        - ``largest_grad``: the largest magnitude in the gradient.
        - ``clipped``, ``zeros``, ``nonfinite``: the shares of its elements beyond `clip_value`,
          equal to 0, and NaN or infinite.
        - ``lr``: the effective learning rate, the median of ``|change / gradient|`` over 32
          elements at equal distances; NaN if all these gradients are 0.

        Raises
        ------
        RuntimeError
            If `watch` is off.

        Examples
        --------
        >>> import numpy as np, pyoptk
        >>> opt = pyoptk.SGD({"w": np.ones(4)}, lr=0.5)
        >>> opt.watch = True
        >>> opt.step({"w": np.array([3.0, 4.0, 0.0, 0.0])})
        >>> w = opt.watched["w"]
        >>> w["grad_norm"], w["update_norm"], w["zeros"], w["lr"]
        (5.0, 2.5, 0.5, 0.5)
        """
        watch = self._plan.watch
        if watch is None:
            raise RuntimeError("watched: expected an optimizer with watch = True, got False")
        return self._params.like(_told(watch.told, len(self._params.names)))

    def _set_watch(self, value: Any) -> None:
        on = _checks.check_switch("watch", value)
        self._plan.watch = (self._plan.watch or _optim.Watch()) if on else None


def _told(told: Any, count: int) -> list[dict[str, float] | None]:
    """For each of `count` parameters the numbers of its row, or of its rows together.

    Parameters
    ----------
    told : tuple or None
        See `_optim.Watch`.

    Returns
    -------
    list
        None for a parameter that the step left alone.
    """
    if told is None:
        return [None] * count
    rows, owners, sizes, scale = told
    mine = [owners == i for i in range(count)]
    return [_together(rows[own], sizes[own], scale) if own.any() else None for own in mine]


def _together(rows: NDArray[np.float64], sizes: NDArray[Any], scale: float) -> dict[str, float]:
    norms, shares = np.sqrt((rows[:, :3] ** 2).sum(0)), np.average(rows[:, 4:7], 0, sizes)
    rates = rows[:, len(_COLUMNS) :]
    rates = rates[np.isfinite(rates)]
    values = [scale * norms[0], *norms[1:], scale * rows[:, 3].max(), *shares]
    row = dict(zip(_COLUMNS, map(float, values), strict=True))
    row["ratio"] = row["update_norm"] / row["param_norm"] if row["param_norm"] else np.nan
    row["lr"] = float(np.median(rates)) if rates.size else np.nan
    return row
