"""Checks of arguments; the errors name the argument, its value and the rule.

Those without tensors are in `fpn_neck.utils.values`, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ALL = slice(None)
_OF_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)  # makes one dtype of these


def check_tensor(name: str, x: Any) -> Tensor:
    """``x`` if it is a tensor of real numbers; else TypeError."""
    if not isinstance(x, Tensor) or x.is_complex():
        raise TypeError(f"{name}: got a {_kind(x)}, expected a tensor of real numbers")
    return x


def check_float_map(name: str, x: Any) -> None:
    """Refuse anything but a float tensor (N, C, H, W) with C, H, W > 0.

    Raises:
        TypeError: not a float tensor.
        ValueError: another shape.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name}: got a {_kind(x)}, expected a float tensor (N, C, H, W)")
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"{name} of shape {tuple(x.shape)}: expected (N, C, H, W) with a channel and a pixel "
            "or more"
        )


def check_maps(owner: str, maps: Any, channels: Sequence[int], used: slice = _ALL) -> None:
    """Refuse anything but a list of float maps (N, channels[i], H_i, W_i), finest first.

    Args:
        owner: the module that gets the maps, for the message.
        used: the levels whose values are read, so that they must be alike in dtype and device.

    Raises:
        TypeError: not a list or tuple, or a level is not a float tensor, or of another dtype than
            the first one, which autocast does not change; names the level.
        ValueError: a wrong number of maps; a map of another shape, without pixels, of another
            batch size or on another device; names the level.
    """
    if not isinstance(maps, Sequence):
        raise TypeError(f"{owner} got a {type(maps).__name__}; give a list of maps, finest first")
    if len(maps) != len(channels):
        raise ValueError(
            f"{owner} got {len(maps)} maps, in_channels={list(channels)} declares "
            f"{len(channels)}; give one map for each, finest first"
        )
    for i, (x, c) in enumerate(zip(maps, channels, strict=True)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{owner} level {i}: got a {_kind(x)}, expected a float tensor")
        shape = x.shape
        if len(shape) != 4 or shape[1] != c or 0 in shape[2:]:
            raise ValueError(
                f"{owner} level {i}: got a map of shape {tuple(x.shape)}, expected "
                f"(N, {c}, H, W) with a pixel or more; set in_channels to what the backbone "
                "gives, or permute NHWC maps to NCHW"
            )
        if shape[0] != maps[0].shape[0]:  # one photo would be added to each of a batch
            raise ValueError(  # shape[0]: an export would keep the number that len() gives
                f"{owner} level {i}: got a map of {len(x)} photos, level 0 is of {len(maps[0])}; "
                "give the maps of one batch"
            )
    _check_alike(owner, maps, range(len(maps))[used])


def _check_alike(owner: str, maps: Sequence[Tensor], levels: Sequence[int]) -> None:
    """One device and one dtype; torch's own errors name neither a level nor a remedy."""
    first = maps[levels[0]]
    for i in levels[1:]:
        x = maps[i]
        if x.device != first.device:
            raise ValueError(
                f"{owner} level {i}: got a map on {x.device}, level {levels[0]} is on "
                f"{first.device}; move them to one device"
            )
        if x.dtype == first.dtype:
            continue
        lawful = x.dtype in _OF_AUTOCAST and first.dtype in _OF_AUTOCAST
        if not (lawful and torch.is_autocast_enabled(x.device.type)):
            raise TypeError(
                f"{owner} level {i}: got a {x.dtype} map, level {levels[0]} is {first.dtype}; give "
                "maps of one dtype, or run under torch.autocast"
            )


def check_device(device: str) -> str:
    """Refuse a device that does not exist.

    Args:
        device: a name of torch's; 'auto' is 'cuda' if there is such a GPU, else 'cpu'.

    Returns:
        torch's name.

    Raises:
        ValueError: torch cannot allocate on it, or does not know its name.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        reason = str(e).split("\n")[0]
        raise ValueError(f"device={device!r} is not there: {reason}; try 'cpu'") from e
    return device


def _kind(x: Any) -> str:
    return f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
