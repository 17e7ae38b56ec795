"""Plain references: the mathematics of neck, head and losses, from arguments and weights only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ACTS = {"ReLU": F.relu, "LeakyReLU": F.leaky_relu, "GELU": F.gelu, "Tanh": torch.tanh}


def block(state: Mapping[str, Tensor], name: str, x: Tensor, layers: Mapping, stride=1) -> Tensor:
    """Convolution, norm in eval mode, activation, with the weights under ``name``."""
    weight = state[f"{name}.conv.weight"]
    bias = state.get(f"{name}.conv.bias")
    groups = (layers.get("conv_cfg") or {}).get("groups", 1)
    x = F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    norm = layers.get("norm_cfg")
    if norm:
        key = {"BN": "bn", "GN": "gn"}[norm["type"]]
        at = {k: state.get(f"{name}.{key}.{k}") for k in ("weight", "bias")}
        eps = norm.get("eps", 1e-5)
        if key == "bn":
            statistics = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
            x = F.batch_norm(x, *statistics, **at, eps=eps)
        else:
            x = F.group_norm(x, norm.get("num_groups", 32), **at, eps=eps)
    act = layers.get("act_cfg")
    options = {k: v for k, v in (act or {}).items() if k not in ("type", "inplace")}
    return ACTS[act["type"]](x, **options) if act else x


def fpn(state: Mapping[str, Tensor], args: Mapping, maps: Sequence[Tensor]) -> list[Tensor]:
    start, end = args.get("start_level", 0), args.get("end_level", -1)
    used = list(maps[start:] if end == -1 else maps[start : end + 1])
    smooth, layers = args.get("smooth", "merged"), args
    on_lateral = layers | ({"norm_cfg": None} if args.get("no_norm_on_lateral") else {})
    coarsest = len(used) - 1
    outs: list[Tensor] = []
    above = last_lateral = None
    smoothed = {"merged": len(used), "chained": coarsest, "none": 0}[smooth]
    options = {k: v for k, v in args["upsample_cfg"].items() if k != "scale_factor"}
    for i in reversed(range(len(used))):
        x = None
        if args.get("laterals", True) or i == coarsest:
            number = i if args.get("laterals", True) else 0
            x = block(state, f"lateral_convs.{number}", used[i], on_lateral)
            last_lateral = x if i == coarsest else last_lateral
        if above is not None and args.get("top_down", True):
            down = F.interpolate(above, size=used[i].shape[-2:], **options)
            x = down if x is None else x + down
        if smooth == "chained" and i < coarsest:
            x = block(state, f"fpn_convs.{i}", x, layers)
        above = x
        outs.insert(0, block(state, f"fpn_convs.{i}", x, layers) if smooth == "merged" else x)
    source = args.get("add_extra_convs", False)
    count = (args.get("num_outs") or len(used)) - len(used)
    x = {True: maps[-1], "on_input": maps[-1], "on_lateral": last_lateral}.get(source, outs[-1])
    for i in range(count):
        if source is False:
            x = x[:, :, ::2, ::2]
        else:
            x = F.relu(x) if i and args.get("relu_before_extra_convs") else x
            x = block(state, f"fpn_convs.{smoothed + i}", x, layers, stride=2)
        outs.append(x)
    return outs


def seg_head(state: Mapping[str, Tensor], args: Mapping, maps: Sequence[Tensor]) -> Tensor:
    """In eval mode, where dropout does nothing."""
    strides, corners = args["strides"], args["align_corners"]
    ends = []
    for i, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        depth = (stride // strides[0]).bit_length() - 1
        for j in range(max(1, depth)):
            # mmseg's towers hold a convolution and an upsampling in turn; so do our keys' numbers.
            x = block(state, f"scale_heads.{i}.{2 * j}", x, args)
            if depth:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)
        if x.shape[-2:] != maps[0].shape[-2:]:
            size = maps[0].shape[-2:]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=corners)
        ends.append(x)
    x = torch.cat(ends, 1) if args["merge"] == "cat" else sum(ends[1:], ends[0])
    return F.conv2d(x, state["conv_seg.weight"], state["conv_seg.bias"])


def class_logits(logits: Tensor) -> Tensor:
    """Logits (N, classes, H, W): one logit is that of class 1, against 0 for class 0."""
    return torch.cat((torch.zeros_like(logits), logits), 1) if logits.shape[1] == 1 else logits
