"""What a timm model's maps are like, found by running it without weights, on the device 'meta'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fpn_neck.utils.sizes import ceil_div

_MOST_WINDOW = 16  # cells of the coarsest map; windows of timm's models have 6 to 16
_REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError)


def maps_of(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The maps of a timm model that has ``feature_info``, as (N, C, H, W)."""
    maps = net(x)
    if str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC"):
        return [m.permute(0, 3, 1, 2) for m in maps]
    return list(maps)


def find_multiple(name: str, net: Any, in_channels: int) -> int:
    """The smallest multiple to pad images to, so that map i has ``ceil(size / stride i)`` cells.

    A convolution without padding leaves out pixels at the borders. Then a map has fewer cells, and
    they lie elsewhere than the pyramid's, so that no multiple is right. A multiple at which the
    model resizes maps by whole factors only comes first: GhostNet's attention halves maps, rounding
    down, and stretches them again, which moves what is in a map of an odd size.

    Args:
        name: of the model, for the message.
        net: the timm model on the device 'meta'.

    Raises:
        ValueError: no multiple is right; says what the model gives.
    """
    strides = net.feature_info.reduction()
    if any(key.endswith("rel_pos_h") for key, _ in net.named_parameters()):  # MViTv2
        h, w = _own_size(net) or (224, 224)
        reason = "its tables of relative positions are not resized"
        raise ValueError(f"{name} takes only images of {h} x {w} px ({reason}); {_REMEDY}")
    windows = (strides[-1] * cells for cells in range(1, _MOST_WINDOW + 1))
    reasons: list[str] = []
    stretching: list[int] = []
    for multiple in dict.fromkeys((1, strides[0], *windows)):
        with _Stretches() as found:
            probes = _probe_sizes(strides, multiple)
            reason = next((f for size in probes if (f := _failure(net, in_channels, size))), "")
        if not reason and not found.any:
            return multiple
        (reasons.append(reason) if reason else stretching.append(multiple))
        if stretching and multiple >= 2 * strides[-1]:
            return stretching[0]  # it stretches maps whatever the size
    raise ValueError(f"{name} {_refusal(net, in_channels, reasons)}; {_REMEDY}")


def find_least(net: Any, in_channels: int, multiple: int) -> int:
    """The side in px, a multiple, to pad smaller images to, so that the model takes them.

    Some kernels are as large as the whole map of a small image (PVT v2's attention), and a map
    cannot be reflected at its border farther than it is wide (TResNet). It is found by doubling.

    Args:
        net: the timm model on the device 'meta', which takes four times its coarsest stride.
        multiple: of `find_multiple`.
    """
    least, enough = multiple, 4 * net.feature_info.reduction()[-1]
    while least < enough and _failure(net, in_channels, (least, least)):
        least *= 2
    return least


class _Stretches(TorchFunctionMode):
    """Notes whether a map of the probe's two images is resized by another than a whole factor."""

    any = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.interpolate and args and args[0].dim() == 4 and len(args[0]) == 2:
            sizes = zip(result.shape[2:], args[0].shape[2:], strict=True)
            self.any |= any(out % size for out, size in sizes)
        return result


_REMEDY = (
    "choose a model that takes images of any size, e.g. a ResNet, EfficientNet, ConvNeXt or Swin"
)


def _refusal(net: Any, in_channels: int, reasons: list[str]) -> str:
    size = _own_size(net)
    if size and not _failure(net, in_channels, size):
        return f"takes only images of {size[0]} x {size[1]} px ({reasons[-1]})"
    return f"has no maps of its strides {net.feature_info.reduction()}: {reasons[-1]}"


def _own_size(net: Any) -> tuple[int, int] | None:
    """(H, W) of the images that the model was made for."""
    cfg = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None) or {}
    size = cfg.get("input_size") if isinstance(cfg, dict) else getattr(cfg, "input_size", None)
    return (size[-2], size[-1]) if size else None


def _probe_sizes(strides: Sequence[int], multiple: int) -> Iterator[tuple[int, int]]:
    """Sizes with several remainders by the coarsest stride, as padded to the multiple."""
    coarsest = strides[-1]
    if multiple > coarsest:
        yield from ((multiple, 2 * multiple), (3 * multiple, multiple))
        return
    lengths = [4 * coarsest + 1, 5 * coarsest + coarsest // 2 + 1, 6 * coarsest - 1, 4 * coarsest]
    h, w, other_h, other_w = (ceil_div(length, multiple) * multiple for length in lengths)
    yield from ((h, w), (other_h, other_w))


@torch.no_grad()
def _failure(net: Any, in_channels: int, size: tuple[int, int]) -> str:
    """What is wrong with the maps of an image of this size (H, W); empty if nothing is."""
    image = f"an image of {size[0]} x {size[1]} px"
    try:
        maps = maps_of(net, torch.empty(2, in_channels, *size, device="meta"))
    except _REFUSALS as e:
        return f"{image} fails: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
    found = [tuple(m.shape[-2:]) for m in maps]
    wanted = [tuple(ceil_div(n, s) for n in size) for s in net.feature_info.reduction()]
    if found == wanted and [m.shape[1] for m in maps] == net.feature_info.channels():
        return ""
    channels = [m.shape[1] for m in maps]
    return f"{image} gives maps of {found} cells and {channels} channels, not of {wanted} cells"


def names_below(net: Any, levels: int, in_channels: int, multiple: int) -> list[str]:
    """Names of the parameters that the first maps depend on: those with a gradient.

    Args:
        net: the timm model on the device 'meta'.
    """
    if not levels:
        return []
    size = ceil_div(4 * net.feature_info.reduction()[-1], multiple) * multiple
    maps = maps_of(net, torch.empty(2, in_channels, size, size, device="meta"))
    torch.stack([m.sum() for m in maps[:levels]]).sum().backward()
    return [n for n, p in net.named_parameters() if p.grad is not None]
