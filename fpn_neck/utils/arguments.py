"""Checks of arguments: what is wrong becomes an error that names the argument, value and rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor


def check_whole(name: str, value: Any, least: int, most: int = 1 << 20) -> int:
    """``value`` if it is a whole number in least..most; else TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r}: expected a whole number, at least {least}")
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise ValueError(f"{name}={value}: expected {bound}")
    return int(value)


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
    """A new dict of ``value``, further arguments of a part; empty for None; else TypeError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}={value!r}: expected a dict of named arguments, or None")
    return dict(value)


def check_wholes(name: str, values: Any, least: int) -> list[int]:
    """A new list of ``values``, each checked; one or more."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name}={values!r}: expected a list of whole numbers, finest level first")
    if not values:
        raise ValueError(f"{name}={values!r}: expected one or more numbers")
    return [check_whole(f"{name}[{i}]", v, least) for i, v in enumerate(values)]


def check_number(name: str, value: Any, least: float = 0.0) -> float:
    """``value`` if it is a finite number of at least ``least``; else TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: expected a number, at least {least:g}")
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name}={value} must be a number >= {least:g}")
    return float(value)


def check_numbers(name: str, values: Any, least: float = 0.0) -> list[float]:
    """A new list of ``values`` (a list, array or tensor of numbers), each checked; one or more."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name}={values!r}: expected a list of numbers")
    if not values:
        raise ValueError(f"{name}={values!r}: expected one or more numbers")
    return [check_number(f"{name}[{i}]", v, least) for i, v in enumerate(values)]


def check_tensor(name: str, x: Any) -> Tensor:
    """``x`` if it is a tensor of real numbers; else TypeError."""
    if not isinstance(x, Tensor) or x.is_complex():
        raise TypeError(f"{name}: got a {_kind(x)}, expected a tensor of real numbers")
    return x


def check_float_map(name: str, x: Any) -> None:
    """Raise TypeError unless a float tensor, ValueError unless (N, C, H, W) with C, H, W > 0."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name}: got a {_kind(x)}, expected a float tensor (N, C, H, W)")
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"{name} of shape {tuple(x.shape)}: expected (N, C, H, W) with a channel and a pixel "
            "or more"
        )


def check_maps(who: str, maps: Any, channels: Sequence[int]) -> None:
    """Refuse what is no list of float maps (N, channels[i], H_i, W_i), finest first.

    Args:
        who: is given the maps; for the message.

    Raises:
        TypeError: no list or tuple, or no float tensor in it; names the level.
        ValueError: another number of maps, or one of another shape, without pixels or of another
            batch size; names the level.
    """
    if not isinstance(maps, Sequence):
        raise TypeError(f"{who} got a {type(maps).__name__}; give a list of maps, finest first")
    if len(maps) != len(channels):
        raise ValueError(
            f"{who} got {len(maps)} maps, in_channels={list(channels)} declares "
            f"{len(channels)}; give one map for each, finest first"
        )
    for i, (x, c) in enumerate(zip(maps, channels, strict=True)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{who} level {i}: got a {_kind(x)}, expected a float tensor")
        if x.dim() != 4 or x.shape[1] != c or 0 in x.shape[2:]:
            raise ValueError(
                f"{who} level {i}: got a map of shape {tuple(x.shape)}, expected "
                f"(N, {c}, H, W) with a pixel or more; set in_channels to what the backbone "
                "gives, or permute NHWC maps to NCHW"
            )
        if len(x) != len(maps[0]):  # one photo would be added to each of a batch
            raise ValueError(
                f"{who} level {i}: got a map of {len(x)} photos, level 0 is of {len(maps[0])}; "
                "give the maps of one batch"
            )


def _kind(x: Any) -> str:
    return f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
