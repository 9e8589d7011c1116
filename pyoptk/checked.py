"""Checks of an argument by a rule that belongs to its name, for schedules and wrappers.

Not public."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# (description for messages, conversion that may raise TypeError, test of the converted value)
Rule = tuple[str, Callable[[Any], Any], Callable[[Any], Any]]


def real(value: Any) -> float:
    """The value as float; TypeError for a str, which float() alone would accept."""
    return float(value / 1)


def checked(rules: Mapping[str, Rule], name: str, value: Any, shown: str | None = None) -> Any:
    """The value as the rule of `name` converts it; an error calls it `shown`, else `name`."""
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
