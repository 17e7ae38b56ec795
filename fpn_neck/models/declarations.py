"""What a backbone declares about its maps: channels and strides, one number per map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fpn_neck.utils.values import check_wholes


def declares(backbone: Any, *names: str) -> bool:
    """Whether the backbone has these attributes, each a list or tuple.

    mmdet's ResNet has ``strides`` (of its stages) and no ``out_channels``, its EfficientNet has
    ``out_channels``, one number.
    """
    return all(isinstance(getattr(backbone, name, None), Sequence) for name in names)


def declared(backbone: Any, *names: str, remedy: str) -> list[list[int]]:
    """The backbone's ``out_channels`` and ``strides``, finest first.

    Args:
        names: of the attributes, in the order in which they are returned.
        remedy: what to give as a backbone; for the message.

    Raises:
        TypeError: not a module, or an attribute is missing or not a list of whole numbers.
        ValueError: a number is below 1, or the lists are not of the same length.
    """
    if not isinstance(backbone, nn.Module):
        found, words = type(backbone).__name__, " and ".join(names)
        raise TypeError(f"backbone={backbone!r} ({found}) does not declare {words}: {remedy}")
    if not declares(backbone, *names):
        found = ", ".join(f"{name}={getattr(backbone, name, None)!r}" for name in names)
        raise TypeError(
            f"backbone {type(backbone).__name__} must declare {' and '.join(names)}, one number "
            f"per map, finest first; it has {found}: {remedy}"
        )
    numbers = [check_wholes(f"backbone.{name}", getattr(backbone, name), 1) for name in names]
    if len({len(n) for n in numbers}) > 1:
        found = " and ".join(f"backbone.{n}={x}" for n, x in zip(names, numbers, strict=True))
        raise ValueError(f"{found} must be of the same length, one number per map")
    return numbers


def check_strides(name: str, strides: Sequence[int], least: int = 1) -> None:
    """Raise ValueError unless ``least`` strides or more are given, each above the one before.

    Args:
        name: of the backbone, for the message.
    """
    if len(strides) < least or any(b <= a for a, b in zip(strides, strides[1:], strict=False)):
        count = "two or more maps" if least == 2 else "maps"
        raise ValueError(
            f"{name} gives maps of strides {list(strides)}: an FPN needs {count} that get coarser "
            "level by level (a plain ViT has one stride); choose a hierarchical backbone (ResNet, "
            "EfficientNet, ConvNeXt, Swin), or out_indices with growing strides"
        )
