"""Optimizers in NumPy: `pyoptk.reference`, and all that goes on around its rules."""

import fnmatch
import inspect
import math

import numpy as np

import pyoptk
from pyoptk import _optim, kernels, reference


class Twin:
    """An optimizer in NumPy: `pyoptk.reference`, and all that goes on around a rule."""

    def __init__(self, opt, keywords, keys, arrays):
        self.kernel = opt.state_dict()["kernel"]
        self.rule = getattr(reference, self.kernel)
        self.hyper = dict(opt.hyper)
        self.names = [""] if keys is None else [str(key) for key in keys]
        self.groups = dict(keywords.get("groups") or {})
        no_decay, mask = keywords.get("no_decay", ()), keywords.get("decay_mask")
        self.decays = [
            (mask is None or _any(name, mask)) and not _any(name, no_decay) for name in self.names
        ]
        self.master, self.state_dtype = keywords.get("master"), keywords.get("state_dtype")
        self.halves = [array.dtype.itemsize == 2 for array in arrays]
        self.params = [
            np.array(listed(opt.state_values("master"))[i] if half else array, copy=True)
            for i, (array, half) in enumerate(zip(arrays, self.halves, strict=True))
        ]
        names = [n for n in opt.state if n not in ("master", "remainder") and n[-6:] != "_scale"]
        self.states = [
            {name: listed(opt.state_values(name))[i] for name in names} for i in range(len(arrays))
        ]
        self.words = [
            {name for name in names if listed(opt.state[name])[i].dtype == np.uint32}
            for i in range(len(arrays))
        ]
        self.steps, self.calls, self.skipped = [0] * len(arrays), 0, 0
        self.factor, self.skips, self.norm = 1.0, False, None
        self.takes = inspect.signature(getattr(kernels, self.kernel)).parameters

    def settings(self, i):
        """Those of parameter i, as numbers."""
        mine = dict(self.hyper)
        for pattern, own in self.groups.items():
            if fnmatch.fnmatchcase(self.names[i], pattern):
                mine |= own
        if not self.decays[i]:
            mine["weight_decay"] = 0.0
        return {k: _number(v(self.calls) if callable(v) else v) for k, v in mine.items()}

    def scale(self):
        return self.settings(0)["grad_scale"] * self.factor if self.params else 1.0

    def exact_norm(self, grads):
        """Of the scaled gradients, as exactly as can be."""
        total = np.longdouble(0)
        for grad in grads:
            if grad is not None:
                g = reference.touched_rows(grad.indices, grad.values)[1] if is_rows(grad) else grad
                with np.errstate(all="ignore"):
                    total += np.sum(np.asarray(wide(g)).astype(np.longdouble) ** 2)
        return float(abs(self.scale()) * np.sqrt(total))

    def step(self, grads, norm):
        """A step; `norm` is the library's if it has one. Returns whether it was taken."""
        first = self.settings(0)
        scale = self.scale()
        if not math.isfinite(self.exact_norm(grads)):
            if self.skips or first["on_nonfinite"] == "skip":
                self.skipped += 1
                return False
            if first["on_nonfinite"] == "raise":
                raise FloatingPointError
        clips = first["max_norm"] is not None and first["max_norm"] != math.inf
        for i, grad in enumerate(grads):
            if grad is not None:
                if clips and first["max_norm_per_array"]:
                    norm = scale * pyoptk.global_norm(self._summed(grad, self.params[i].dtype))
                self._step_one(i, grad, scale * (_clipped(norm, first) if clips else 1.0))
        self.calls += 1
        return True

    def _summed(self, grad, dtype):
        """The arrays whose norm is that of a gradient: itself, or the sums of rows."""
        if is_rows(grad):
            return list(reference.touched_rows(grad.indices, grad.values)[1])
        return [np.array(wide(grad), dtype)]

    def _step_one(self, i, grad, scale):
        mine = self.settings(i) | {"grad_scale": scale}
        self.steps[i] += 1
        param, states = self.params[i], dict(self.states[i])
        ema = states.pop("ema", None)
        hyper = {k: v for k, v in mine.items() if k in self.takes}
        with np.errstate(all="ignore"):
            if is_rows(grad):
                rows, grad = reference.touched_rows(grad.indices, grad.values)
                parts = [a[rows] for a in (param, *states.values())]
                named = dict(zip(states, parts[1:], strict=True))
                self.rule(parts[0], grad, **named, step=self.steps[i], **hyper)
                for array, part in zip((param, *states.values()), parts, strict=True):
                    array[rows] = part
            else:
                self.rule(
                    param,
                    np.asarray(wide(grad), param.dtype),
                    **states,
                    step=self.steps[i],
                    **hyper,
                )
            if ema is not None:
                real, decay = param.dtype.type, mine["ema_decay"]
                ema[...] = real(decay) * ema + real(1 - decay) * param
            self._store(i, param, states)
            if ema is not None and mine["ema_from_first_step"] and self.steps[i] == 1:
                ema[...] = param

    def _store(self, i, param, states):
        """Round what is stored in fewer bits."""
        if self.halves[i] and self.master == "stochastic":
            halves = reference.round_by_chance(param, seed=i, step=self.steps[i])
            param[...] = reference.from_bfloat16(halves)
        for name in self.words[i]:
            positive = name in ("v", "s", "vmax")
            slot = [state for state, _, _ in _optim.ROWS[self.kernel].states].index(name)
            words = reference.encode_state(
                states[name], self.state_dtype,
                positive=positive, seed=i, step=self.steps[i], state=slot,
            )  # fmt: skip
            values = reference.decode_state(*words, param.size, positive=positive)
            states[name][...] = values.reshape(param.shape)


def _clipped(norm, hyper):
    """The factor of a gradient whose norm is this."""
    with np.errstate(all="ignore"):
        ratio = float(np.float64(hyper["max_norm"]) / np.float64(norm + hyper["max_norm_eps"]))
    return 1.0 if ratio > 1 or norm == 0 else ratio


def _any(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _number(value):
    if value is None or isinstance(value, bool | np.bool_ | str):
        return value
    return float(value)


def wide(array):
    """The numbers of a gradient or parameter; uint16 stands for bfloat16."""
    array = np.asarray(array)
    return reference.from_bfloat16(array) if array.dtype == np.uint16 else array


def rounded_like(array, values):
    """float32 in the dtype of a parameter."""
    if array.dtype == np.uint16:
        return reference.round_bfloat16(values)
    with np.errstate(over="ignore"):
        return values.astype(array.dtype)


def is_rows(grad):
    return isinstance(grad, pyoptk.SparseRows)


def listed(values):
    """What stands in dicts and lists."""
    if isinstance(values, dict | list | tuple):
        below = values.values() if isinstance(values, dict) else values
        return [one for value in below for one in listed(value)]
    return [values]
