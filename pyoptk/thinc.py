"""The optimizers of thinc and spaCy, in one sweep over memory for each parameter.

In a configuration of spaCy one line changes::

    [training.optimizer]
    @optimizers = "pyoptk.Adam.v1"

Arguments are those of thinc's own "Adam.v1", "RAdam.v1" and "SGD.v1", and results are the same to
rounding: clipping, update, decay, moving average and the zeroing of the gradient are one pass over
its arrays. Other arrays than NumPy's of float32 are thinc's to step. Needs thinc 8.3 or later
(extra `thinc`), which ``import pyoptk`` does not import.
"""

# No annotations as strings: thinc checks a configuration by the types of a signature.
from typing import Any

import numpy as np
from numpy.typing import NDArray
from thinc import optimizers as _theirs
from thinc.optimizers import ADAM_DEFAULTS, SGD_DEFAULTS

try:
    from thinc.optimizers import ScheduleT
except ImportError:  # thinc 8, which spaCy 3 has
    from thinc.optimizers import FloatOrSeq as ScheduleT

from ._optim import ROWS, sweep
from ._places import states_beside

__all__ = ["SGD", "Adam", "RAdam", "ThincOptimizer"]

_FALLBACKS: dict[str, dict[str, Any]] = {
    "adam": {**ROWS["adam"].fallbacks, "eps_hat": True},
    "radam": ROWS["radam"].fallbacks,
    "sgd": ROWS["sgd"].fallbacks,
}


def _is_plain(array: Any) -> bool:
    flags = array.flags if type(array) is np.ndarray and array.dtype == np.float32 else None
    return flags is not None and flags.c_contiguous and flags.writeable and flags.aligned


class ThincOptimizer(_theirs.Optimizer):
    """A thinc optimizer whose call is one compiled sweep: use `Adam`, `RAdam` or `SGD`.

    `mom1`, `mom2`, `averages`, schedules and `last_score` are thinc's.

    Raises
    ------
    ValueError
        From a call, for a hyper-parameter out of range, such as a NaN.
    """

    def __call__(
        self,
        key: tuple[int, str],
        weights: NDArray[Any],
        gradient: NDArray[Any],
        *,
        lr_scale: float = 1.0,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Step one parameter in place, and set its gradient to zero; returns both."""
        if len(gradient) < 1:
            return weights, gradient
        if not (_is_plain(weights) and _is_plain(gradient)):
            found: tuple[NDArray[Any], NDArray[Any]] = super().__call__(
                key, weights, gradient, lr_scale=lr_scale
            )
            return found
        count = self.nr_update[key] + 1
        which, numbers, max_norm = self._numbers(key, count, lr_scale)
        if numbers.pop("into_gradient"):
            gradient += numbers["weight_decay"] * weights
            numbers["weight_decay"] = 0.0
        ema = self._arrays(key, weights, which)
        if which != "sgd":
            numbers["m"], numbers["v"] = self.mom1[key], self.mom2[key]
        sweep(which, ema, max_norm, param=weights.reshape(-1), grad=gradient.reshape(-1), **numbers)
        self.nr_update[key] = count
        return weights, gradient

    def _numbers(
        self, key: tuple[int, str], count: int, lr_scale: float
    ) -> tuple[str, dict[str, Any], float | None]:
        """The kernel and its numbers for a step; the largest norm of the gradient, or None.

        thinc decays what the update has made, ``p = (p - lr * u) * (1 - lr * L2)``. The kernels
        decay first, ``p = p * shrink - lr * u``: the same if lr is multiplied by shrink.
        """

        def value(schedule: Any) -> float:
            if not callable(schedule):  # in thinc 8: the number that it is now
                return float(schedule)
            return float(schedule(self.step, key=key, last_score=self.last_score))

        beta1, beta2, lr, decay = map(value, (self.b1, self.b2, self.learn_rate, self.L2))
        which = "radam" if self.use_radam else "adam" if beta1 > 0 and beta2 > 0 else "sgd"
        if which == "sgd" and beta2 > 0:
            raise NotImplementedError("beta1: expected a number > 0 with beta2 > 0, got 0")
        numbers = dict(_FALLBACKS[which])
        numbers |= {"beta1": beta1, "beta2": beta2, "eps": value(self.eps), "zero_grad": True}
        numbers["into_gradient"] = decay != 0 and not self.L2_is_weight_decay
        numbers["step"] = count + (which == "radam")  # thinc's corrects for one step more
        rate = lr if which == "radam" else lr * lr_scale  # whose lr_scale is of the decay alone
        numbers["lr"], numbers["weight_decay"] = rate, decay
        if not numbers["into_gradient"] and decay != 0:
            lost = lr * lr_scale * decay
            numbers["lr"] = rate * (1 - lost)
            numbers["weight_decay"] = lost / numbers["lr"] if numbers["lr"] else 0.0
            numbers["decoupled"] = True
        if self.averages is not None:
            numbers["ema_decay"] = min((1.0 + count) / (10.0 + count), 0.9999)
        return which, numbers, value(self.grad_clip) or None

    def _arrays(self, key: tuple[int, str], weights: NDArray[Any], which: str) -> Any:
        """Make the states of a parameter before its first step; returns its average, or None."""
        missing = [d for d in (self.mom1, self.mom2) if which != "sgd" and key not in d]
        missing += [self.averages] if self.averages is not None and key not in self.averages else []
        if missing:
            place = [(weights.ctypes.data, weights.shape)]
            made = states_beside(place, len(missing), weights.dtype)[0]
            for states, array in zip(missing, made, strict=True):
                states[key] = array if states is self.averages else array.reshape(-1)
        return None if self.averages is None else self.averages[key].reshape(-1)


def Adam(
    learn_rate: ScheduleT = ADAM_DEFAULTS["learn_rate"],
    *,
    L2: ScheduleT = ADAM_DEFAULTS["L2"],
    beta1: ScheduleT = ADAM_DEFAULTS["beta1"],
    beta2: ScheduleT = ADAM_DEFAULTS["beta2"],
    eps: ScheduleT = ADAM_DEFAULTS["eps"],
    grad_clip: ScheduleT = ADAM_DEFAULTS["grad_clip"],
    L2_is_weight_decay: bool = True,
    use_averages: bool = True,
) -> ThincOptimizer:
    """thinc's "Adam.v1", registered as "pyoptk.Adam.v1"; arguments are the same."""
    return ThincOptimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


def RAdam(
    learn_rate: ScheduleT = ADAM_DEFAULTS["learn_rate"],
    *,
    beta1: ScheduleT = ADAM_DEFAULTS["beta1"],
    beta2: ScheduleT = ADAM_DEFAULTS["beta2"],
    eps: ScheduleT = ADAM_DEFAULTS["eps"],
    L2: ScheduleT = ADAM_DEFAULTS["L2"],
    L2_is_weight_decay: bool = True,
    grad_clip: ScheduleT = ADAM_DEFAULTS["grad_clip"],
    use_averages: bool = True,
) -> ThincOptimizer:
    """thinc's "RAdam.v1", registered as "pyoptk.RAdam.v1"; arguments are the same."""
    return ThincOptimizer(
        learn_rate,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        L2=L2,
        use_averages=use_averages,
        use_radam=True,
    )


def SGD(
    learn_rate: ScheduleT,
    *,
    L2: ScheduleT = SGD_DEFAULTS["L2"],
    grad_clip: ScheduleT = SGD_DEFAULTS["grad_clip"],
    L2_is_weight_decay: bool = True,
    use_averages: bool = True,
) -> ThincOptimizer:
    """thinc's "SGD.v1", registered as "pyoptk.SGD.v1"; arguments are the same."""
    return ThincOptimizer(
        learn_rate,
        L2=L2,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        beta1=0.0,
        beta2=0.0,
        use_averages=use_averages,
    )
