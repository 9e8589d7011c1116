"""One try: its random numbers, its arrays, and the calls that are watched."""

import os
import re
import traceback
import warnings
import zlib

import numpy as np

from .arrays import Memory

# A sanitizer needs more stack, and its shadow memory is larger than any limit.
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")

# What a refusal may be. Its message begins with the name of what is wrong; a MemoryError says how
# much was wanted.
REFUSALS = (TypeError, ValueError, RuntimeError, MemoryError, FloatingPointError)
_NAMED = re.compile(r"(?s)[^\s:\[]*(\[.*?\][\w.]*)*(\(.*?\))?: ")


class Fault(AssertionError):
    """The library did what it may not do."""


class Refused:
    """In place of a result."""

    def __init__(self, error):
        self.error = error

    def __repr__(self):
        return f"{type(self.error).__name__}: {self.error}"


class Try:
    def __init__(self, name, seed, number):
        self.rng = np.random.default_rng([zlib.crc32(name.encode()), seed, number])
        self.memory = Memory(self.rng)
        self.compared = self.refused = 0

    # ---- random choices

    def chance(self, p):
        return bool(self.rng.random() < p)

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def size(self, most=40):
        """Often small, often beside a power of two."""
        kind = self.rng.random()
        if kind < 0.3:
            return int(self.rng.integers(0, 4))
        if kind < 0.6:
            return max(0, 2 ** int(self.rng.integers(0, 7)) + int(self.rng.integers(-1, 2)))
        return int(self.rng.integers(0, most + 1))

    def normal(self, shape, dtype, scale=1.0):
        return np.array(scale * self.rng.standard_normal(shape), dtype)

    def place(self, values, layout="C"):
        return self.memory.place(values, layout)

    # ---- calls

    def call(self, function, *args, writes=(), refusal_writes=(), same=None, must=None, **kwargs):
        """The result, or `Refused`: then nothing has been written.

        Parameters
        ----------
        writes : arrays
            What a call that succeeds may write.
        refusal_writes : arrays
            What even one that is refused may write.
        same : function
            Whose result a refusal must not change.
        must : bool, optional
            Whether the call has to be refused, or not to be.
        """
        self.memory.save()
        before = same() if same else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = function(*args, **kwargs)
        except Exception as error:
            check_refusal(error)
            if must is False:
                raise Fault(f"refused what is right: {type(error).__name__}: {error}") from error
            wrote, allowed = self.memory.written_outside(refusal_writes), "refused, but wrote"
            if same:
                equal("state after a refusal", same(), before)
            self.refused += 1
            result = Refused(error)
        else:
            if must is True:
                raise Fault(f"took what is wrong: {_shown(function, args, kwargs)}")
            wrote, allowed = self.memory.written_outside(writes), "wrote"
        if wrote:
            raise Fault(f"{allowed} {wrote}: {_shown(function, args, kwargs)}")
        return result

    def equal(self, what, ours, theirs):
        self.compared += 1
        equal(what, ours, theirs)

    def check(self, true, what):
        self.compared += 1
        if not true:
            raise Fault(what)


def check_refusal(error):
    """Raise `Fault` unless this is how the library refuses."""
    if isinstance(error, Fault):
        raise error
    named = _NAMED.match(str(error))
    if isinstance(error, MemoryError):
        named = re.search(r"\d", str(error))
    if not isinstance(error, REFUSALS) or not named:
        trace = traceback.extract_tb(error.__traceback__)
        where = trace[-1] if trace else traceback.FrameSummary("nowhere", 0, "")
        raise Fault(
            f"refused in foreign words ({where.filename.rpartition('/')[2]}:{where.lineno}): "
            f"{type(error).__name__}: {str(error)[:300]}"
        ) from error


def equal(what, ours, theirs):
    """Raise `Fault` unless both have the same structure, dtypes and bits; one NaN is another."""
    if isinstance(theirs, dict):
        if not isinstance(ours, dict) or list(ours) != list(theirs):
            raise Fault(f"{what}: other keys: {ours!r:.200} for {theirs!r:.200}")
        for key, value in theirs.items():
            equal(f"{what}[{key!r}]", ours[key], value)
    elif isinstance(theirs, list | tuple):
        if len(ours) != len(theirs):
            raise Fault(f"{what}: {len(ours)} for {len(theirs)}")
        for i, value in enumerate(theirs):
            equal(f"{what}[{i}]", ours[i], value)
    elif isinstance(theirs, np.ndarray):
        if not isinstance(ours, np.ndarray) or (ours.shape, ours.dtype) != (
            theirs.shape,
            theirs.dtype,
        ):
            raise Fault(f"{what}: {_kind(ours)} for {_kind(theirs)}")
        wrong = ~((ours == theirs) | (_nan(ours) & _nan(theirs)))
        if wrong.any():
            raise Fault(
                f"{what}: {np.count_nonzero(wrong)} of {wrong.size} differ, first at "
                f"{np.unravel_index(np.argmax(wrong), wrong.shape)}: "
                f"{ours[wrong][0]!r} for {theirs[wrong][0]!r}"
            )
    elif not (ours == theirs or (_nan(ours) and _nan(theirs))):
        raise Fault(f"{what}: {ours!r:.200} for {theirs!r:.200}")


def copied(state):
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    return state.copy() if isinstance(state, np.ndarray) else state


def _nan(x):
    return x != x  # noqa: PLR0124 (also of dtypes that np.isnan does not take)


def _kind(value):
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _shown(function, args, kwargs):
    name = getattr(function, "__qualname__", None) or type(function).__name__
    given = [_short(a) for a in args] + [f"{k}={_short(v)}" for k, v in kwargs.items()]
    return f"{name}({', '.join(given)})"


def _short(value):
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"<{value.dtype} {value.shape}>"
    try:
        return f"{value!r:.150}"
    except Exception:  # noqa: BLE001
        return f"<{type(value).__name__}>"
