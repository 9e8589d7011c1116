"""`Sharded`: one optimizer on several ranks. The top of __init__.py says how it works."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _checks, checkpoint
from .._held import Averaged, quietly
from .._pieces import Pieces
from ..optim.base import Optimizer, Uncopied
from ..optim.hyper import Grads
from ..optim.narrow import dtypes_of
from ..optim.stateful import Restoring, at_once
from ..params import Arrays, Params
from . import arguments, states
from .exchange import Exchange
from .shards import GRAIN, Array
from .transport import exchange_of

# What is computed over all ranks, and therefore not by the optimizer of a shard.
_OURS = {"grad_scale": 1.0, "max_norm": None, "on_nonfinite": "propagate", "zero_grad": False}
_SHOWN = ("hyper", "groups", "steps", "skipped", "value")  # of the shadow


class Sharded(Uncopied):
    """An optimizer whose states are divided between the ranks of an MPI communicator.

    Parameters, states and norms have the same bits for any number of ranks, for one process without
    MPI, and for a plain ``optimizer_class(params, **settings)`` that steps with the mean gradient.
    Methods are collective unless they say otherwise: every rank calls them, in the same order.

    Parameters
    ----------
    optimizer_class : class
        `pyoptk.Adam`, say. Not `LAMB`, whose norms are those of whole arrays.
    params : array, or sequence or dict of arrays, nested or not
        As for the optimizer, on every rank. Changed in place: at first to those of rank 0.
    comm : mpi4py.MPI.Comm or None
        An intracommunicator, to be freed after this object, if at all. None: this process alone.
    micro : int
        Micro-batches of a step, over all ranks. The order of additions depends on it.
    reduction : {"mean", "sum"}
        What a step uses. For the mean the sum is multiplied by ``1 / micro``.
    bucket : int
        Elements that travel together, at least 4,096. Two buckets are the memory that `Sharded`
        needs beside the states, the shard's gradient, and, for a rank with k > 1 micro-batches,
        about ``log2(k)`` gradients. On one machine a thread takes some 256 KiB instead of buckets.
    **settings
        Hyper-parameters of the optimizer, the same on every rank; each is an attribute, too, to be
        assigned on every rank. `cautious` and `max_norm_per_array` are refused. `state_dtype` and
        `master` work; gradients may be of 16 bits where an optimizer takes them, and sums of them
        are float32.

    Attributes
    ----------
    mine : range
        Which of the micro-batches 0..micro-1 this rank brings; empty if there are more ranks.
    optimizer : Optimizer
        That of this rank's shard, with its part of the states. Assign to the `Sharded` instead.

    Raises
    ------
    TypeError, ValueError
        As from the optimizer; on all ranks, if an argument differs between them, also in `step`.

    Examples
    --------
    >>> import numpy as np, pyoptk, pyoptk.mpi
    >>> w = np.array([3.0, -2.0])
    >>> opt = pyoptk.mpi.Sharded(pyoptk.SGD, w, micro=2, lr=0.5)  # comm=MPI.COMM_WORLD
    >>> gradients = np.array([1.0, 0.0]), np.array([3.0, 2.0])
    >>> for k in opt.mine:
    ...     opt.add(gradients[k])
    >>> opt.step()
    >>> w
    array([ 2. , -2.5])
    """

    optimizer: Optimizer
    _norm: float | None
    _tree: Params
    _shadow: Optimizer
    _alone: bool
    _rows: list[Array]  # the parameters
    _exchange: Exchange
    _factor: float  # of the sum
    _to_zero: list[Array]  # gradients, after the step
    _nothing: Array

    def __init__(
        self,
        optimizer_class: type[Optimizer],
        params: Arrays,
        comm: Any = None,
        *,
        micro: int = 8,
        reduction: str = "mean",
        bucket: int = 1 << 20,
        **settings: Any,
    ) -> None:
        arguments.check_class(optimizer_class)
        arguments.check_comm(comm)
        micro = _checks.check_integer("micro", micro, 1, 2**31, "an integer >= 1")
        bucket = _checks.check_integer("bucket", bucket, GRAIN, 2**40, f"an integer >= {GRAIN:,}")
        _checks.check_choice("reduction", reduction, ("mean", "sum"))
        self._tree = Params(params, dtypes_of(settings.get("dtype")))
        self._exchange = exchange_of(self._tree, comm, micro, bucket)
        self._alone, self._rows = self._exchange.size == 1, self._exchange._rows
        shown: Any = self._tree.like([row[:0] for row in self._rows])
        if self._alone:  # a generator is used up
            shown = self._tree.arrays if isinstance(params, Iterator) else params
        parts = [(i, 0, row.size) for i, row in enumerate(self._rows)]
        self._shadow = states.made_of_parts(optimizer_class, shown, parts, settings)
        self.optimizer = self._shadow
        for name, value in (*self._shadow.hyper.items(), ("groups", self._shadow.groups)):
            arguments.refuse(name, value)
        self._factor = 1 / micro if reduction == "mean" else 1.0
        self._to_zero, self._norm, self._nothing = [], None, np.empty(0, self._exchange.dtype)
        told = {**settings, **self._shadow.hyper}
        told["groups"] = told.pop("groups", None), self._shadow._plan.settings.merged  # the last
        self._exchange.agree(arguments.digests(
            optimizer_class=optimizer_class.__qualname__, micro=micro, reduction=reduction,
            bucket=bucket, **told,
        ))  # fmt: skip
        if not self._alone:
            pieces = self._exchange.pieces
            parts = [(p.param, p.begin // states.BLOCK, self._rows[p.param].size) for p in pieces]
            own = settings | _OURS | self._settings(self._shadow.groups)
            cls, parts = states.of_shard(optimizer_class), [*parts, (0, 0, 0)]
            self.optimizer = states.made_of_parts(cls, self._views(), parts, own, told | _OURS)

    def _views(self) -> dict[arguments.PieceName, Array]:
        """The pieces of this rank, and one without elements that every pattern finds.

        The latter is of 16 bits, if any parameter is, so that there is something for `master`.
        """
        shadow, keys, views = self._shadow, self._tree.keys or [None], {}
        every = shadow.groups or {}
        for i, begin, end, _ in self._exchange.pieces:
            patterns, decays = shadow._kinds[shadow._of[i]]
            groups = [k for k, pattern in enumerate(every) if pattern in patterns]
            name = arguments.piece_name(f"{i}:{begin}", groups, decays, repr(keys[i]))
            views[name] = self._rows[i][begin:end]
        views[arguments.piece_name("none", range(len(every)), True, "None")] = min(
            self._rows, key=lambda row: row.itemsize
        )[:0]
        return views

    def _settings(self, given: Any) -> dict[str, Any]:
        """The patterns of groups of the shadow, for the names of pieces."""
        groups = {
            f"*<{k}>*": {name: value for name, value in own.items() if name not in _OURS}
            for k, own in enumerate((given or {}).values())
        }
        return {"groups": groups, "no_decay": (), "decay_mask": ["*<decay>*"]}

    @property
    def grad_norm(self) -> float | None:
        """As that of an optimizer. Not collective."""
        return self._shadow.grad_norm if self._alone else self._norm

    @property
    def mine(self) -> range:
        """Which of the micro-batches 0..micro-1 this rank brings."""
        return self._exchange.mine

    # ---- adding ----------------------------------------------------------------------------------

    def add(self, grads: Grads) -> None:
        """Add gradients of this rank's next micro-batch; send what is complete. Not collective.

        The last micro-batch is not copied if it needs no addition here: leave its gradients as they
        are until `step` returns.

        Parameters
        ----------
        grads : array, or sequence or dict of arrays, nested or not
            In the structure of `params`, or a dict with some of its keys, as a backward pass
            delivers them. Only read, or, for `zero_grad`, set to zero by the end of `step`. None
            counts as zeros; a parameter does not change if all micro-batches have None for it.

        Raises
        ------
        TypeError, ValueError
            For a gradient that does not fit or comes once too often; nothing has been added then.
        """
        with self._tree.held.locked("add", True, True):
            self._add(grads)

    def _add(self, grads: Grads) -> None:
        quietly(at_once, self._adding(grads)[0])
        quietly(self._exchange.send)

    def _adding(self, grads: Grads) -> tuple[list[Any], list[tuple[int, Any, Array]]]:
        """The calls that add gradients, and what they add: see `adding`."""
        zeroes = self._shadow._plan.zeroes() if self._shadow._plan.zero_grad else []
        to_zero = None if self._alone else self._to_zero  # else the optimizer does it
        return arguments.adding(self._exchange, self._tree, grads, zeroes, to_zero)

    # ---- stepping --------------------------------------------------------------------------------

    def step(self, grads: Grads = None) -> None:
        """Change every parameter in place, once, by the gradients of all micro-batches.

        Parameters
        ----------
        grads : as for `add`, optional
            This rank's last micro-batch, or what is left of it.

        Raises
        ------
        TypeError, ValueError
            As from `add`.
        RuntimeError
            If gradients of this rank are missing; in one of two threads at once.
        FloatingPointError
            On all ranks, for ``on_nonfinite="raise"``; the micro-batches are dropped.
        """
        plain = self._alone and len(self.mine) == self._factor == 1
        if plain and grads is not None and not self._exchange.begun:
            self.optimizer.step(grads)
            return
        with self._tree.held.locked("step", True):
            (self._step_alone if self._alone else self._step_together)(grads)

    def _step_together(self, last: Grads) -> None:
        self._exchange.located = -1  # gradients may have changed since
        if last is not None:
            self._add(last)
        self._check_complete(self._exchange.seen, self._exchange.given.tobytes())
        for one in (self.optimizer, self._shadow):
            one._prepare(one._plan, one._plan.settings)
        quietly(self._exchange.locate)
        try:
            with self._exchange:
                quietly(self._take_step)
                self._exchange.settle()
            at_once([partial(grad.__setitem__, ..., 0) for grad in self._to_zero])
        finally:
            self._to_zero.clear()
            self._exchange.begin()

    def _check_complete(self, seen: NDArray[np.intp], given: bytes) -> None:
        """Raise unless there are all micro-batches of this rank, for the arrays of the caller."""
        if (least := seen.min()) < len(self.mine):
            raise RuntimeError(
                f"step: expected {len(self.mine)} micro-batches of this rank before it, got "
                f"{least} of {arguments.label(self._tree, int(seen.argmin()))}"
            )
        self._tree.held.look(given)

    def _step_alone(self, last: Grads) -> None:
        """Add, step, and forget the micro-batches: no exception arrives in between."""
        exchange = self._exchange
        calls, added = ([], []) if last is None else self._adding(last)
        seen, given = exchange.seen.copy(), exchange.given.tolist()
        sums = list(exchange.levels[0])
        for i, grad, array in added:
            seen[i] += 1
            given[i] = given[i] or grad is not None
            sums[i] = array if sums[i] is None else sums[i]  # the sum will be in the first one
        self._check_complete(seen, bytes(given))
        self.optimizer._prepare(self.optimizer._plan, self.optimizer._plan.settings)
        grads = [one if some else None for one, some in zip(sums, given, strict=True)]
        drop = exchange.beginning()
        try:
            quietly(self._run, grads, self._factor, calls, drop)
        except FloatingPointError:
            at_once(drop)
            raise

    def _take_step(self) -> None:
        """Step this rank's shard, unless a gradient is not finite."""
        shadow, exchange = self._shadow, self._exchange
        scale, clip = self._factor * shadow.value("grad_scale"), 1.0
        most, heed = shadow.value("max_norm"), shadow.hyper["on_nonfinite"]
        exchange.note(shadow._plan)
        sums = exchange.finish(most is not None or heed != "propagate")
        self._norm = None
        if most is not None or heed != "propagate":
            norm, norms = exchange.norm(sums)
            self._norm = scale * norm
            if heed != "propagate" and not math.isfinite(self._norm):
                if heed == "raise":
                    exchange.agreed = True
                    arguments.refuse_nonfinite(self._tree, norms)
                for opt in (shadow, self.optimizer):
                    opt._plan.skipped += 1
                return
            if most is not None and most < math.inf and self._norm != 0:
                ratio = np.float64(most) / (self._norm + shadow.value("max_norm_eps"))
                clip = 1.0 if ratio > 1 else float(ratio)  # a NaN stays one
        grads: list[Array | None] = [*sums, self._nothing]
        if not exchange.given.all():
            pieces = zip(exchange.pieces, sums, strict=True)
            grads[:-1] = [one if exchange.given[p.param] else None for p, one in pieces]
        self._run(grads, scale * clip, (), (), exchange.near)
        shadow._plan.count_step(exchange.given.tobytes())

    def _run(
        self, grads: list[Any], factor: float, first: Any, then: Any, near: Pieces | None = None
    ) -> None:
        plan = self.optimizer._plan
        with plan.held.locked("step", not self._alone):
            at_once([*first, partial(plan.run_step, grads, factor, False, near), *then])

    # ---- looking and loading ---------------------------------------------------------------------

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within ``with opt.averaged():`` the parameters are their moving averages, on all ranks.

        They change in place. Each rank keeps a copy; at the end, also by an exception, it restores
        its parameters by itself, bit for bit. A step within is refused.
        """
        return self.optimizer.averaged() if self._alone else self._averaged_everywhere()

    @contextlib.contextmanager
    def _averaged_everywhere(self) -> Iterator[None]:
        own, lock = self.optimizer._params.held, self._tree.held.locked("averaged", True)
        with lock, Averaged(own, self.optimizer._averages(), self._tree.held):
            with lock, self._exchange:  # until here
                self._exchange.gather()
            yield

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise."""
        checkpoint.check_mapping(state, "state")
        if self._alone:
            self._shadow.check_state_dict(state)
            return
        state = states.as_ours(state, self._shadow, self._tree)
        expected = states.whole_states(self._shadow, self._tree)
        found = {key: array for key, array in state.items() if key in expected}
        checkpoint.check_arrays(expected, found, "state")
        self._shadow.check_state_dict(self._numbers_of(state))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a whole state, of any number of ranks or of the optimizer itself. Not collective.

        ``pyoptk.load(path, params=params, opt=opt)`` calls it: do that on every rank. An exception
        at any moment finds all of the state loaded or nothing.

        Raises
        ------
        TypeError, ValueError
            As from the optimizer; nothing has been changed then.
        """
        self.check_state_dict(state)
        if self._alone:
            self._shadow.load_state_dict(state)
            return
        shadow, pieces = self._shadow, self._exchange.pieces
        state, writes = states.with_our_masters(state, shadow, self._tree)
        if writes:  # not within averaged()
            self.optimizer._params.held.locked("load_state_dict")
        ours = shadow._loaded(self._numbers_of(states.as_ours(state, shadow, self._tree)))
        own = states.of_pieces(state, self._tree, pieces, self.optimizer)
        own["steps"] = np.array([*(state["steps"][piece.param] for piece in pieces), 0])
        own |= {name: state[name] for name in ("calls", "skipped")}
        for name, value in ours[1].hyper.items():
            if name not in _OURS and not callable(value):
                own[f"hyper.{name}"] = value
        for pattern, group in self._settings(ours[1].groups)["groups"].items():
            own |= {f"groups.{pattern}.{n}": v for n, v in group.items() if not callable(v)}
        loaded = ((shadow, ours), (self.optimizer, self.optimizer._loaded(own)))
        calls = [partial(one._plan.restore, *values) for one, values in loaded]
        writing: list[Any] = [partial(array.__setitem__, ..., values) for array, values in writes]
        Restoring([*calls, partial(at_once, writing)]).__exit__()  # all, whatever is raised

    def _numbers_of(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state with the shadow's arrays, which have no elements."""
        own = self._shadow.state_dict().items()
        arrays = {key: v for key, v in own if isinstance(v, np.ndarray) and key != "steps"}
        return {**state, **arrays}

    def __getattr__(self, name: str) -> Any:
        shadow = vars(self).get("_shadow")
        if shadow is None or not (name in shadow.hyper or name in _SHOWN):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(shadow, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Sharded.__annotations__:
            super().__setattr__(name, value)
            return
        arguments.refuse(name, value)
        setattr(self._shadow, name, value)
        if name not in _OURS and not self._alone:
            own = self._settings(self._shadow.groups).get(name, value)
            states.assign(self.optimizer, name, own)

    def __repr__(self) -> str:
        return f"Sharded({self._shadow!r}, rank {self._exchange.rank} of {self._exchange.size})"
