"""`Optimizer`, the base class of all optimizers.

The constructor acquires the memory of the parameters. `step` checks the gradients and runs one
compiled sweep over the model. Defaults are PyTorch's; a keyword selects other formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from .. import _checks, _optim
from .._arguments import Declared
from .._elsewhere import no_attribute, question
from .._held import Averaged
from .._memory import apart
from .._plan import Plan
from ..checkpoint import check_arrays, check_mapping
from ..params import Array, Arrays, Params
from .hyper import Grads, Settings, Switch, Value, at_step, lrs_at_step, override
from .like import settings_like
from .narrow import Stored, as_stored, check_storage, dtypes_of
from .watch import Watched

if TYPE_CHECKING:
    from dataclasses import KW_ONLY, InitVar


class Uncopied:
    """Base class of objects that refuse to be copied or pickled: they belong to certain arrays."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__}: cannot be copied or pickled, because it belongs to the arrays "
            "of its parameters; make a new one and use state_dict and load_state_dict"
        )


class Optimizer(Watched, Stored, Uncopied, Declared):
    """Base class of all optimizers: use `SGD`, `Adam` and so on.

    Every hyper-parameter is an attribute that can be read and assigned at any time; a value out of
    range is refused and changes nothing. What all optimizers take:

    params : array, or sequence or dict of arrays, nested or not
        float32 or float64 (all the same), C-contiguous, of any shape; beside float32 there may be
        float16 and bfloat16 (from ml_dtypes), see `master`. Changed in place by `step`.
        The name of an array in nested dicts is its keys, joined by dots: "lower.weight".
    lr : float
        Learning rate, >= 0.
    weight_decay : float
        Decay, >= 0: ``g += weight_decay * p``, or, if `decoupled`, ``p *= 1 - lr * weight_decay``
        (Loshchilov & Hutter 2019).
    maximize : bool
        Ascend the gradient instead of descending.
    cautious : bool
        Apply only the elements of the update that have the sign of the gradient, divided by their
        share of the array, which counts as 1e-3 at least (Liang et al. 2024). For optimizers with
        momentum, not for `LAMB`.
    grad_scale : float
        Factor of every gradient, applied first; for example 1 / loss scale.
    clip_value : float or None
        Then clips each element to [-clip_value, clip_value].
    max_norm : float or None
        Scales all gradients together so that their global norm, after `grad_scale`, is at most this
        (PyTorch's ``clip_grad_norm_``, before `clip_value`); `grad_norm` tells the norm before.
    max_norm_eps : float
        The factor of that is ``min(1, max_norm / (norm + max_norm_eps))``.
    max_norm_per_array : bool
        Scale each gradient by its own norm instead. Not to be changed later.
    ema_decay : float or None
        Keep a moving average of the parameters, ``ema = ema_decay * ema + (1 - ema_decay) * p``
        after each step, in the same sweep over memory; it begins at the parameters. See `averaged`.
    ema_from_first_step : bool
        Let it begin at the parameters after the first step instead.
    zero_grad : bool
        Set every gradient to zero once it is used, in the same sweep: ready to be added to.
    on_nonfinite : {"propagate", "skip", "raise"}
        What a NaN or an infinity in a gradient does: goes through; leaves the whole step undone,
        counted in `skipped`; raises a FloatingPointError that names the gradient, nothing changed.
    groups : dict of dicts
        Hyper-parameters for some parameters: ``{"embedding*": {"lr": 1e-4}}``. The names are shell
        patterns of the keys of `params` (of "0", "1", ... for a sequence); later ones win. May be
        assigned like a hyper-parameter, with the same patterns.
    state_dtype : {"float32", "bfloat16", "8bit"}
        How the states (not the average of the weights) are stored between steps: those of float32
        parameters of `SGD` with momentum, `AdaGrad`, `RMSprop`, `Adam`, `AdamW`, `NAdam` and `Lion`
        may take 2 bytes or 1 an element instead of 4, rounded by chance so that their mean is
        right (docs/semantics.md). Not to be changed later, nor is the next.
    min_8bit_size : int
        With "8bit", states of parameters of fewer elements stay float32.
    master : {"float32", "remainder", "stochastic"}
        How parameters of 16 bits, which are too coarse for most updates, are stepped; must be given
        where there are any. "float32": a float32 copy, `state["master"]`, is stepped, and each
        parameter is that rounded to the nearest. "remainder", for bfloat16: the same with the lower
        16 bits alone. "stochastic", for bfloat16: rounded by chance. Not to be changed later.
    dtype : {"bfloat16"}, optional
        Then parameters and gradients of uint16 are taken as bfloat16.
    no_decay : list or tuple of str
        Patterns of parameters without weight decay, ``["*bias*"]``; each must match one.
    decay_mask : list or tuple of str, or None
        Patterns of the parameters with weight decay, ``["*weight"]``; None: all.

    Any number among them may be a function of the number of steps taken, 0 before the first, for
    example one of `pyoptk.schedules`; `value` tells what it is now.

    Raises
    ------
    TypeError
        For arrays that are not float32 or float64, or not all of one of them.
    ValueError
        For parameters that are read-only, not C-contiguous or overlapping, and for hyper-parameters
        out of range (NaN, negative, a beta outside [0, 1)).
    """

    _kernel: ClassVar[str]
    params: Arrays
    lr: Value
    _: KW_ONLY
    decoupled: bool = False
    maximize: bool = False
    cautious: bool = False
    grad_scale: Value = 1.0
    clip_value: Value | None = None
    max_norm: Value | None = None
    max_norm_eps: Value = 1e-6
    max_norm_per_array: bool = False
    ema_decay: Value | None = None
    ema_from_first_step: bool = False
    zero_grad: bool = False
    on_nonfinite: str = "propagate"
    groups: Mapping[str, Mapping[str, Any]] | None = None
    state_dtype: InitVar[str] = "float32"
    min_8bit_size: InitVar[int] = 4096
    master: InitVar[str | None] = None
    dtype: InitVar[str | None] = None
    no_decay: InitVar[Sequence[str]] = ()
    decay_mask: InitVar[Sequence[str] | None] = None

    def _begin(self, given: dict[str, Any]) -> None:
        row = _optim.ROWS[self._kernel]
        shared = Optimizer._arguments
        _checks.check_arguments(given, (*row.fields, *row.starts, "weight_decay", *shared))
        start = {name: given.pop(name) for name in row.starts}
        params, groups = given.pop("params"), given.pop("groups")
        mask, no_decay = given.pop("decay_mask"), given.pop("no_decay")
        tree = Params(params, dtypes_of(given.pop("dtype")))
        storage = {name: given.pop(name) for name in ("state_dtype", "min_8bit_size", "master")}
        groups = {} if groups is None else groups
        mask = _checks.check_patterns("decay_mask", ("*",) if mask is None else mask, tree.names)
        no_decay = _checks.check_patterns("no_decay", no_decay, tree.names)
        _checks.check_groups(groups, given, tree.names)
        overrides = [override(name, groups, no_decay, mask) for name in tree.names]
        kinds = list(dict.fromkeys(overrides))
        of = [kinds.index(kind) for kind in overrides]
        if _checks.check_switch("max_norm_per_array", given["max_norm_per_array"]):
            kinds, of = overrides, list(range(len(overrides)))
        settings = Settings.of(kinds, given, groups)
        first = at_step(0, settings.merged)
        check_storage(self._kernel, {**given, **first[0], **storage}, tree)
        rest = settings, start, *storage.values(), self.__dict__.get("_parts")  # these of mpi
        plan = Plan(tree.held, self._kernel, of, first, *rest)
        self.__dict__.update(params=params, _params=tree, _kinds=kinds, _of=of, _plan=plan)

    @property
    def hyper(self) -> Mapping[str, Any]:
        """The hyper-parameters by name, as they were given."""
        settings: Settings = self._plan.settings
        return settings.hyper

    @classmethod
    def like(cls, library: str, params: Arrays, **given: Any) -> Self:
        """This optimizer with the switches and the defaults of another library.

        Parameters
        ----------
        library : {"torch", "keras", "optax", "onnx", "sklearn"}
            A library that has this optimizer; docs/semantics.md lists the differences.
        params, **given
            As for the class itself, or by the library's names; what is given takes precedence.

        Raises
        ------
        TypeError, ValueError
            As from the class, and for what only that library can do.

        Examples
        --------
        >>> import numpy as np, pyoptk
        >>> opt = pyoptk.Adam.like("keras", np.zeros(2), learning_rate=0.5)
        >>> opt.lr, opt.eps
        (0.5, 1e-07)
        """
        return cls(params, **settings_like(cls, library, given))

    def step(self, grads: Grads) -> None:
        """Change every parameter in place, once, by its gradient.

        Parameters
        ----------
        grads : array, or sequence or dict of arrays, nested or not
            In the structure of `params`: the same keys, shapes and dtype; beside parameters of
            float32 or 16 bits any of float32, float16 and bfloat16. With None instead of an
            array or of a dict within, the parameters, their states and step counts do not change;
            with `SparseRows`, only some rows do. Gradients are only read, and may be reused after
            the call. One that is not C-contiguous is copied first. No gradient may overlap a
            parameter.

        Raises
        ------
        TypeError, ValueError
            If a gradient is missing, of another shape or dtype, or overlaps a parameter; if a
            function of the step returns what its hyper-parameter cannot be; if an entry of `params`
            is another array than at first, or one with a gradient was made read-only (to freeze a
            parameter, let its gradient be None).
        FloatingPointError
            With ``on_nonfinite="raise"``, for a gradient with a NaN or an infinity.
        RuntimeError
            Within `averaged`, and while another thread is in this optimizer's step.

        The message names what is wrong, and nothing has been changed.
        """
        plan = self._plan
        if plan.settings.scheduled:
            self._prepare(plan, plan.settings)
        plan.step(grads)

    @staticmethod
    def _prepare(plan: Plan, settings: Settings) -> None:
        """Evaluate the schedules for the next step; repeated calls have no further effect."""
        if settings.scheduled == {"lr"}:
            plan.set_lr(lrs_at_step(plan.calls, settings.merged))
        elif settings.scheduled:
            plan.configure(at_step(plan.calls, settings.merged))

    def value(self, name: str, param: Any = None) -> Any:
        """The value of a hyper-parameter in the next step; a schedule is evaluated.

        Parameters
        ----------
        name : str
        param : key of `params`, optional
            Return the value for this parameter, which `groups`, `no_decay` or `decay_mask` may set.

        Raises
        ------
        ValueError
            For an unknown name or key.
        """
        _checks.check_choice("name", name, self.hyper)
        value = self.hyper[name]
        if param is not None:
            keys = self._params.keys or []
            _checks.check_choice("param", param, keys)
            numbers, functions = self._plan.settings.merged[self._of[keys.index(param)]]
            value = {**numbers, **functions}[name]
        return value(self._plan.calls) if callable(value) else value

    @property
    def steps(self) -> Any:
        """The number of steps that each parameter has taken, in the structure of `params`."""
        return self._params.like(self._plan.steps())

    @property
    def grad_norm(self) -> float | None:
        """The global norm of the last step's gradients before clipping; None without `max_norm`."""
        norm: float | None = self._plan.grad_norm()
        return norm

    @property
    def skipped(self) -> int:
        """The number of steps skipped because of ``on_nonfinite="skip"``."""
        return int(self._plan.skipped)

    @property
    def ema(self) -> Any:
        """The moving averages, in the structure of `params`; a RuntimeError without `ema_decay`."""
        return self._params.like(self._averages())

    def _averages(self) -> list[Array]:
        if "ema" not in self._plan.states:
            raise RuntimeError("ema: expected an optimizer made with ema_decay, got None for that")
        averages: list[Array] = self._plan.states["ema"]
        return averages

    def averaged(self) -> Averaged:
        """Within ``with opt.averaged():`` the parameters are their moving averages.

        They change in place. At the end they are restored bit for bit, whatever happened to them.

        Raises
        ------
        RuntimeError
            Without `ema_decay`, within another `averaged`, and from a step within this one.
        """
        return Averaged(self._params.held, self._averages())

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs besides the parameters: a dict of arrays and numbers.

        The arrays are the optimizer's own, not copies. Schedules are left out: the program makes
        them again.
        """
        out: dict[str, Any] = {"kernel": self._kernel}
        for name, arrays in self._plan.states.items():
            named = self._params.named(name, arrays)
            out |= {key: array for key, array in named.items() if array is not None}
        out["steps"] = np.array(self._plan.steps(), np.int64)
        out["calls"], out["skipped"] = int(self._plan.calls), int(self._plan.skipped)
        return out | {name: v for name, v in self._settings().items() if not callable(v)}

    def _settings(self) -> dict[str, Any]:
        settings = {f"hyper.{name}": value for name, value in self.hyper.items()}
        for pattern, own in self._plan.settings.groups.items():
            settings |= {f"groups.{pattern}.{name}": value for name, value in own.items()}
        return settings

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of an optimizer of the same class and parameters; copies the arrays.

        A hyper-parameter that is a schedule, here or in the saved optimizer, keeps its value here.
        States that were saved with another `state_dtype` or `master` are stored as this optimizer
        has them; a "master" in `state` then sets the parameters, too (docs/semantics.md).

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, or an array has another shape or dtype; nothing has
            been changed then.
        """
        self._plan.restore(*self._loaded(state))

    def _loaded(self, state: Mapping[str, Any]) -> tuple[Any, ...]:
        """What `Plan.restore` takes; raises what `check_state_dict` would raise."""
        settings = self.check_state_dict(state)
        state, writes = as_stored(self, apart(state, self.state_dict().values()))
        plan, named = self._plan, self._params.named
        states = {name: [state.get(k) for k in named(name, a)] for name, a in plan.states.items()}
        counts = state["steps"], state["calls"], state["skipped"]
        return at_step(state["calls"], settings.merged), settings, states, *counts, writes

    def check_state_dict(self, state: Mapping[str, Any]) -> Settings:
        """Raise what `load_state_dict` would raise; returns the settings that it would set."""
        check_mapping(state, "state")
        state, _ = as_stored(self, state)
        settings = self._settings()
        expected = {k: v for k, v in self.state_dict().items() if k not in settings}
        check_arrays(expected, {k: v for k, v in state.items() if k not in settings}, "state")
        _checks.check_state(self._kernel, state)
        settings |= {k: state[k] for k, v in settings.items() if k in state and not callable(v)}
        hyper = {name: settings[f"hyper.{name}"] for name in self.hyper}
        given = self._plan.settings.groups.items()
        groups = {p: {name: settings[f"groups.{p}.{name}"] for name in own} for p, own in given}
        new = Settings.of(self._kinds, hyper, groups)
        self._plan.check(at_step(state["calls"], new.merged))
        return new

    @property
    def state(self) -> dict[str, Any]:
        """The state arrays by name, each in the structure of `params`; changed by `step`.

        A narrow state (`state_dtype`) is an array of words; `state_values` tells its numbers.
        """
        return {name: self._params.like(arrays) for name, arrays in self._plan.states.items()}

    def __getattr__(self, name: str) -> Any:
        settings = self._plan.settings if "_plan" in self.__dict__ else None
        known = () if settings is None else (*settings.hyper, "groups")
        if settings is None or name not in known:
            raise no_attribute(self, name, *known)
        if name == "groups":
            return settings.groups
        return Switch(settings.hyper[name]) if name == "zero_grad" else settings.hyper[name]

    def __setattr__(self, name: str, value: Any) -> None:
        hyper, groups = dict(self.hyper), self._plan.settings.groups
        if name == "watch":
            self._set_watch(value)
            return
        if name == "groups":
            _checks.check_groups(value, hyper, self._params.names, list(groups))
            groups = value
        elif name in hyper:
            hyper[name] = value
        elif value is getattr(self, name, object()):
            return  # `opt.ema *= 2` has changed the array, then sets the same one again
        else:
            raise AttributeError(
                f"{type(self).__name__} has no hyper-parameter {name!r}"
                + (question(name, hyper) or f", only {', '.join(hyper)}")
            )
        settings = Settings.of(self._kinds, hyper, groups)
        self._plan.configure(at_step(self._plan.calls, settings.merged), settings)

    def __repr__(self) -> str:
        shown = {**self.hyper, "groups": self.groups or None}
        settings = [f"{n}={v!r}" for n, v in shown.items() if v != self._arguments[n].default]
        return f"{type(self).__name__}({', '.join(settings)})"
