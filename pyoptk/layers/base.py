"""`Layer`, the base class of the layers of this package and of a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from .. import _checks
from .._bound import Array, Bound, unknown
from .._elsewhere import check_names
from .._sequences import plain

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Elsewhere:
    """An attribute of other libraries' layers: reading it raises an error that says ours."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, of: object, owner: type) -> Any:
        if of is None:
            raise AttributeError(f"{owner.__name__} has no attribute {self.name!r}")
        return unknown(of, self.name)


class Layer(Bound, quick=True):
    """Base of a layer: parameters by name, copies, state dicts. A subclass writes two methods.

    At its end `forward` sets ``self._kept`` to what `backward` needs, if `train`.
    `backward` calls ``self._take()``, which returns it once.

    Parameters
    ----------
    shapes : mapping of names to shapes, optional
        Of the parameters, which start at 0.
    dtype : float32 or float64
        Of the parameters.

    Attributes
    ----------
    params, grads : dicts of arrays
        Views into `flat_params` and `flat_grads`, which a model moves into its own buffers.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> class Scale(pyoptk.layers.Layer):
    ...     def __init__(self, size):
    ...         super().__init__({"weight": (size,)})
    ...         self.params["weight"][...] = 1
    ...
    ...     def forward(self, x, *, train=True):
    ...         self._kept = x if train else self._kept
    ...         return x * self.params["weight"]
    ...
    ...     def backward(self, dy, *, need_dx=True, accumulate=False):
    ...         x = self._take()
    ...         dweight = (dy * x).sum(axis=0)
    ...         self.grads["weight"][...] = dweight + accumulate * self.grads["weight"]
    ...         return dy * self.params["weight"] if need_dx else None
    >>> model = pyoptk.layers.Sequential(pyoptk.layers.Linear(3, 2), Scale(2))
    >>> list(model.params)
    ['0.weight', '0.bias', '1.weight']
    """

    dtype: np.dtype[Any]
    _kept: Any = None  # from the last forward with train=True, until a backward takes it

    def __new__(cls, *_: Any, **keywords: Any) -> Self:
        """Refuse keywords of other libraries, with a message that names ours."""
        known = inspect.signature(cls.__init__).parameters
        if all(known[name].kind != inspect.Parameter.VAR_KEYWORD for name in known):
            check_names(keywords, [*known][1:])
        return super().__new__(cls)

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.dtype = _checks.check_float_dtype(dtype)
        if not isinstance(shapes, Mapping | None):
            raise TypeError(f"shapes: expected a dict of names and shapes or None, got {shapes!r}")
        self._shape_of = dict(shapes or {})
        self._bind_anew(None, None)

    def forward(self, x: Any, *, train: bool = True) -> Any:
        """The output for x; with `train` it keeps what `backward` needs."""
        raise NotImplementedError

    def backward(self, dy: Any, *, need_dx: bool = True, accumulate: bool = False) -> Any:
        """The gradient of x, or None; fills `grads`, or adds to them if `accumulate`."""
        raise NotImplementedError

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shape_of

    def _fresh(self) -> dict[str, Any]:
        return {"_kept": None}

    def _due(self) -> Any:
        """What the last forward kept; a backward sets it to None at its end."""
        if self._kept is None:
            raise RuntimeError(_checks.NO_FORWARD)
        return self._kept

    def _take(self) -> Any:
        """What the last forward kept, for one backward."""
        kept, self._kept = self._due(), None
        return kept

    def _after(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of the output for one of the input, sizes or letters, for summaries."""
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def floats(name: str, x: Any) -> Array:
    """x as a contiguous array, float32 or float64."""
    given = plain(name, x, "float32 or float64")
    if given.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32 or float64, got {_checks.got(given, x)}")
    return given if given.flags.c_contiguous else np.ascontiguousarray(given)


def gradient(dy: Any, like: Array) -> Array:
    """dy as a contiguous array of the shape and dtype of the output `like`."""
    given = plain("dy", dy, f"{like.dtype} {like.shape}")
    if given.dtype is not like.dtype or given.shape != like.shape:
        error = TypeError if given.dtype != like.dtype else ValueError
        raise error(f"dy: expected {like.dtype} {like.shape}, got {_checks.got(given, dy)}")
    return given if given.flags.c_contiguous else np.ascontiguousarray(given)
