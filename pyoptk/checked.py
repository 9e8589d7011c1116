"""Arguments that are checked by their name: for schedules and wrappers, not public."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# What is expected; what makes a value of one type, or raises TypeError; whether it then is as
# expected.
Rule = tuple[str, Callable[[Any], Any], Callable[[Any], Any]]


def real(value: Any) -> float:
    """A float; a str, which float() alone would take, raises TypeError."""
    return float(value / 1)


def checked(rules: Mapping[str, Rule], name: str, value: Any, shown: str | None = None) -> Any:
    """The value as its rule converts it; raises if it breaks that, calling it `shown` or `name`."""
    expected, convert, accepts = rules[name]
    try:
        converted = convert(value)
        fits = accepts(converted)
    except TypeError:
        raise TypeError(f"{shown or name}: expected {expected}, got {value!r}") from None
    except OverflowError:
        fits = False
    if not fits:
        raise ValueError(f"{shown or name}: expected {expected}, got {value!r}")
    return converted
