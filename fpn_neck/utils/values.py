"""Checks of arguments without tensors; the errors name the argument, its value and the rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def check_whole(name: str, value: Any, least: int, most: int = 1 << 20) -> int:
    """``value`` if it is a whole number in least..most; else TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r}: expected a whole number, at least {least}")
    number = int(value)
    if not least <= number <= most:
        bound = f"at least {least}" if number < least else f"at most {most}"
        raise ValueError(f"{name}={number}: expected {bound}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """``value`` if it is True or False; else TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: expected True or False")
    return value


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """``value`` if it is one of ``choices``; else ValueError."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r}; choose one of {tuple(choices)}")
    return value


def check_options(name: str, value: Any) -> dict[str, Any]:
    """A new dict of ``value``, named arguments; empty for None; else TypeError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}={value!r}: expected a dict of named arguments, or None")
    return dict(value)


def check_share(name: str, value: Any) -> float:
    """``value`` if it is a number in 0..1; else TypeError or ValueError."""
    if check_number(name, value) > 1:
        raise ValueError(f"{name}={value}: expected 0 to 1")
    return float(value)


def check_wholes(name: str, values: Any, least: int) -> list[int]:
    """A new list of ``values``, each checked; one or more."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name}={values!r}: expected a list of whole numbers, finest level first")
    if not values:
        raise ValueError(f"{name}={values!r}: expected one or more numbers")
    return [check_whole(f"{name}[{i}]", v, least) for i, v in enumerate(values)]


def check_number(name: str, value: Any) -> float:
    """``value`` if it is a finite number, 0 or more; else TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: expected a number, 0 or more")
    try:
        number = float(value)
    except OverflowError:  # a whole number above 1.8e308
        number = math.inf
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name}={value}: expected a number, 0 or more")
    return number


def check_numbers(name: str, values: Any) -> list[float]:
    """A new list of ``values`` (a list, array or tensor), each checked to be >= 0; one or more."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name}={values!r}: expected a list of numbers")
    if not values:
        raise ValueError(f"{name}={values!r}: expected one or more numbers")
    return [check_number(f"{name}[{i}]", v) for i, v in enumerate(values)]
