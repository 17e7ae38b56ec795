"""Semantic segmentation head on a pyramid (Kirillov et al., Panoptic FPN, arXiv:1901.02446)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fpn_neck.fast.cpu.conv3x3 import in_faster_layout
from fpn_neck.fast.cuda_head.double import Addend, add
from fpn_neck.fast.cuda_head.norm import in_layout_of_tensor_cores
from fpn_neck.fast.eligible import eager, is_unmodified, may_take_triton, records_kernels
from fpn_neck.fast.memory_format import in_layout_of
from fpn_neck.models.layers import Cfg, ConvNormAct, check_dtype_of_weights, init_convs
from fpn_neck.utils.arguments import check_maps
from fpn_neck.utils.sizes import may_branch_on_sizes, sizes_are_numbers
from fpn_neck.utils.values import check_choice, check_flag, check_whole, check_wholes

MERGES = ("add", "cat")
RELU = {"type": "ReLU"}


class ScaleHeads(nn.ModuleList):
    """Pyramid -> one map at the finest stride: a tower per level, then a sum or concatenation.

    The tower of a level is ``log2(stride / finest stride)`` times [3x3 conv, norm, ReLU, x2
    bilinear]; the finest level has one convolution and no upsampling. The last x2 of every tower
    is done where they merge. State-dict keys are those of mmseg's ``FPNHead.scale_heads``.

    Args:
        in_channels: channels of every level, finest first.
        channels: width of the towers.
        strides: stride of every level in image pixels, finest first, each a power of two times
            the first.
        merge: 'add' (sum, ``channels`` wide) or 'cat' (concatenation, ``channels * levels`` wide).
        conv_cfg, norm_cfg, act_cfg: see `fpn_neck.models.layers`.
        align_corners: of every bilinear upsampling.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        strides: Sequence[int] = (4, 8, 16, 32),
        merge: str = "add",
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        act_cfg: Cfg | None = RELU,
        align_corners: bool = False,
    ) -> None:
        depths = _depths(strides)
        in_channels = check_wholes("in_channels", in_channels, 1)
        check_whole("channels", channels, 1)
        if len(in_channels) != len(depths):
            raise ValueError(
                f"in_channels={list(in_channels)} and strides={list(strides)} must be of the same "
                "length, one entry per level"
            )
        check_choice("merge", merge, MERGES)
        layers = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        super().__init__(
            _tower(c, channels, depth, align_corners, layers)
            for c, depth in zip(in_channels, depths, strict=True)
        )
        self.in_channels, self.channels = in_channels, channels
        self.merge, self.align_corners = merge, check_flag("align_corners", align_corners)
        self.strides, self._depths = tuple(strides), depths
        self.out_channels = channels * (len(self) if merge == "cat" else 1)

    @property
    def is_coarser(self) -> list[bool]:
        """Whether each level is coarser than the finest one."""
        return [depth > 0 for depth in self._depths]

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Merge the pyramid.

        Args:
            pyramid: one map (N, in_channels[i], H_i, W_i) per level, finest first.

        Returns:
            (N, out_channels, H_0, W_0), in any memory format.

        Raises:
            TypeError, ValueError: see `fpn_neck.utils.arguments.check_maps`; names the level.
        """
        check_maps("SegHead", pyramid, self.in_channels)
        check_dtype_of_weights("SegHead", 0, pyramid[0], self[0])
        pyramid = in_layout_of_tensor_cores(in_faster_layout(pyramid, self.channels))
        return self._concatenated(pyramid) if self.merge == "cat" else self._sum(pyramid)

    def _concatenated(self, pyramid: Sequence[Tensor]) -> Tensor:
        maps = [tower(x) for tower, x in zip(self, pyramid, strict=True)]
        size = maps[0].shape[-2:]
        fits = self._fits(pyramid)
        ends = zip(maps, self.is_coarser, strict=True)
        return torch.cat([self._addend(*end, fits).resized(size) for end in ends], dim=1)

    def _sum(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Coarser towers of one size are summed before their last upsampling, which is linear."""
        sums: dict[Any, Tensor] = {}
        fits = self._fits(pyramid)
        for i, (x, is_coarser) in enumerate(zip(pyramid[1:], self.is_coarser[1:], strict=True), 1):
            block, x = _begin(self[i], x)
            key = is_coarser, None if fits else x.shape[-2:] if sizes_are_numbers() else i
            before = self._addend(sums[key], False, True) if key in sums else None
            sums[key] = _end(block, x, before)
        addends = [self._addend(x, is_coarser, fits) for (is_coarser, _), x in sums.items()]
        first = addends[0] if addends else None
        merged = _end(*_begin(self[0], pyramid[0]), first)  # (N, C, H_0, W_0)
        for addend in addends[1:]:
            merged = add(merged, addend)
        return merged

    def _addend(self, x: Tensor, is_coarser: bool, fits: bool) -> Addend:
        return Addend(x, is_coarser, self.align_corners, fits)

    def _fits(self, pyramid: Sequence[Tensor]) -> bool:
        """Whether every level, doubled, has the finer one's size; asked in a compiled graph only.

        There it is one comparison for all levels, which makes one graph more for other sizes.
        """
        if sizes_are_numbers() or not may_branch_on_sizes():
            return False
        if not all(_keeps_sizes(tower) for tower in self):
            return False
        size, off = pyramid[0].shape[-2:], 0
        for x, depth in zip(pyramid, self._depths, strict=True):
            off += sum(abs(a * 2**depth - b) for a, b in zip(x.shape[-2:], size, strict=True))
        return off == 0


class SegHead(nn.Module):
    """Pyramid -> class logits at the finest stride: `ScaleHeads`, dropout, 1x1 convolution.

    State-dict keys are those of mmseg's ``FPNHead`` (mmseg 1.2, ``decode_heads/fpn_head.py``):
    mmseg's published Semantic FPN weights load with ``strict=True``.

    Args:
        in_channels: channels of every level, finest first, or one number for all.
        num_classes: K, the number of logits per pixel.
        channels: width of the towers (128 in the paper).
        strides: stride of every level in image pixels, finest first.
        merge: 'add' or 'cat', see `ScaleHeads`.
        dropout: probability that a whole channel is dropped before the classifier.
        conv_cfg, norm_cfg, act_cfg: see `fpn_neck.models.layers`; the default norm is GN with 32
            groups, the paper's choice.
        align_corners: of every bilinear upsampling.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names it.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_classes: int,
        *,
        channels: int = 128,
        strides: Sequence[int] = (4, 8, 16, 32),
        merge: str = "add",
        dropout: float = 0.1,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = {"type": "GN", "num_groups": 32},  # noqa: B006 (read only)
        act_cfg: Cfg | None = RELU,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, 1)
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: expected a probability in [0, 1)")
        if isinstance(in_channels, int):
            in_channels = [in_channels] * len(_depths(strides))
        self.scale_heads = ScaleHeads(
            in_channels,
            channels,
            strides=strides,
            merge=merge,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            align_corners=align_corners,
        )
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(self.scale_heads.out_channels, num_classes, 1)
        init_convs(self.conv_seg, {"type": "Normal", "std": 0.01})

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Classify every cell of the finest level.

        Args:
            pyramid: one map (N, in_channels[i], H_i, W_i) per level, finest first.

        Returns:
            Logits (N, num_classes, H_0, W_0).

        Raises:
            TypeError, ValueError: see `fpn_neck.utils.arguments.check_maps`; names the level.
        """
        logits = self.conv_seg(self.dropout(self.scale_heads(pyramid)))
        return in_layout_of(logits, pyramid[0])


def _depths(strides: Sequence[int]) -> list[int]:
    """Number of x2 upsamplings from every stride to the finest one."""
    strides = check_wholes("strides", strides, 1)
    depths = [(s // strides[0]).bit_length() - 1 for s in strides]
    if any(strides[0] << max(d, 0) != s for d, s in zip(depths, strides, strict=True)):
        raise ValueError(
            f"strides={list(strides)}: each must be a power of two times the first, finest first"
        )
    return depths


def _tower(
    in_channels: int, channels: int, depth: int, align_corners: bool, layers: dict
) -> nn.Sequential:
    """A tower without its last upsampling."""
    modules: list[nn.Module] = []
    for i in range(max(1, depth)):
        if i:
            modules.append(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)
            )
        modules.append(ConvNormAct(channels if i else in_channels, channels, 3, **layers))
    tower = nn.Sequential(*modules)
    init_convs(tower, {"type": "Kaiming"})
    return tower


def _keeps_sizes(tower: nn.Module) -> bool:
    """Whether only upsampling changes the size of a map: no dilated convolution, no hook."""
    if type(tower) is not nn.Sequential or not is_unmodified(tower):
        return False
    blocks = [block for block in tower if isinstance(block, ConvNormAct)]
    dilations = [getattr(block.conv, "dilation", 1) for block in blocks]
    return all(map(is_unmodified, blocks)) and all(d in (1, (1, 1)) for d in dilations)


def _begin(tower: nn.Module, x: Tensor) -> tuple[ConvNormAct | None, Tensor]:
    """A tower's last block and what it gets, so that its last pass may add something.

    On a CPU, and of a tower with hooks: None and the tower's result.
    """
    if not may_take_triton(x) or not (eager() or records_kernels(x)):
        return None, tower(x)
    if type(tower) is not nn.Sequential or not is_unmodified(tower):
        return None, tower(x)
    *modules, last = tower
    if type(last) is not ConvNormAct or not is_unmodified(last):
        return None, tower(x)
    for module in modules:
        x = module(x)
    return last, x


def _end(block: ConvNormAct | None, x: Tensor, addend: Addend | None) -> Tensor:
    if block is not None:
        return block(x, addend)
    return x if addend is None else add(x, addend)
