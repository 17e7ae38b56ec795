"""Feature Pyramid Network (Lin et al., CVPR 2017, arXiv:1612.03144), section 3."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpn_neck.fast.eligible import eager, keeps, records_kernels
from fpn_neck.fast.memory_format import in_layout_of
from fpn_neck.models.fpn_paths.cpu import fast_pyramid, takes_fast_path
from fpn_neck.models.fpn_paths.cuda import (
    kernels_serve,
    pyramid_in_graph,
    pyramid_on_gpu,
    start_finest,
)
from fpn_neck.models.layers import Cfg, ConvNormAct, check_dtype_of_weights, init_convs
from fpn_neck.utils.arguments import check_maps
from fpn_neck.utils.values import check_choice, check_flag, check_whole, check_wholes

MOST_LEVELS = 32  # after 32 halvings every map is a single pixel
EXTRA_SOURCES = ("on_input", "on_lateral", "on_output")
SMOOTH = ("merged", "chained", "none")
NEAREST = {"mode": "nearest"}
XAVIER_UNIFORM = {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}


class FPN(nn.Module):
    """Backbone maps C2..C5 -> pyramid P2..P5 (and P6, P7 ...), all ``out_channels`` wide.

    A 1x1 lateral convolution brings each map to ``out_channels``. From the coarsest level down, the
    level above is upsampled to the lateral's size and added. A 3x3 convolution smooths each merged
    map. The arguments, their meaning and the state-dict keys are those of ``mmdet.FPN`` (mmdet 3.3,
    ``models/necks/fpn.py``), so that published checkpoints load with ``strict=True``; only the last
    three arguments are not in mmdet.

    Args:
        in_channels: channels of every map of the backbone, finest first.
        out_channels: width of the pyramid (256 in the paper).
        num_outs: number of levels to return; None means one per used level. A larger number adds
            coarser, extra levels.
        start_level: index of the finest map to use.
        end_level: index of the coarsest map to use (inclusive); -1 is the last. Extra levels
            need the last.
        add_extra_convs: how extra levels are made. False: each subsamples the level before by
            two (the paper's P6). 'on_input' (or True), 'on_lateral', 'on_output': 3x3
            convolutions of stride 2; the first takes the last map of the backbone, its lateral, or
            the last smoothed level. (True of ``mmseg.FPN`` is 'on_output'.)
        relu_before_extra_convs: ReLU before every extra convolution except the first (RetinaNet's
            P7).
        no_norm_on_lateral: True leaves the norm out of the lateral convolutions.
        conv_cfg, norm_cfg, act_cfg: mmcv's dictionaries, see `fpn_neck.models.layers`. None: a
            plain convolution with bias, without norm and without activation (the paper).
        upsample_cfg: options of `torch.nn.functional.interpolate`. A ``scale_factor`` is dropped:
            the target always has the lateral's size.
        init_cfg: ``Xavier`` (default, uniform), ``Kaiming``, ``Normal`` or None, see
            `fpn_neck.models.layers.init_convs`. Applied in the constructor.
        smooth: where the 3x3 convolutions are. 'merged': on each merged map, outside the top-down
            path (the paper). 'chained': inside the path, which takes the smoothed map down; the
            coarsest level merges nothing and has no 3x3. 'none': nowhere
            (segmentation_models_pytorch's decoder).
        top_down: False leaves the top-down path out (paper, table 1 row d).
        laterals: False leaves all laterals except the coarsest out (paper, table 1 row e).

    Attributes: those of ``mmdet.FPN``, with its values, e.g. ``add_extra_convs='on_input'`` for
    True; ``fp16_enabled`` changes nothing.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int | None = None,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        act_cfg: Cfg | None = None,
        upsample_cfg: Cfg = NEAREST,
        init_cfg: Cfg | None = XAVIER_UNIFORM,
        *,
        smooth: str = "merged",
        top_down: bool = True,
        laterals: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = check_wholes("in_channels", in_channels, 1)
        self.out_channels = check_whole("out_channels", out_channels, 1)
        self.num_ins = len(self.in_channels)
        self.start_level, self.end_level = start_level, end_level
        self.backbone_end_level = _backbone_end_level(start_level, end_level, self.num_ins)
        self.num_levels = self.backbone_end_level - start_level
        self.num_outs = _num_outs(
            num_outs, self.num_levels, self.backbone_end_level == self.num_ins
        )
        self.add_extra_convs = _extra_source(add_extra_convs)
        self.relu_before_extra_convs = check_flag(
            "relu_before_extra_convs", relu_before_extra_convs
        )
        _check_upsample_cfg(upsample_cfg)
        self.upsample_cfg = dict(upsample_cfg)
        self.fp16_enabled = False  # as mmdet's; autocast decides
        self.init_cfg, self.is_init = copy.deepcopy(init_cfg), False
        _check_variant(smooth, top_down, laterals)
        self.smooth, self.top_down, self.laterals = smooth, top_down, laterals
        # Without laterals, only the sizes of the finer maps count.
        first_read = start_level if laterals else self.backbone_end_level - 1
        self._read_levels = slice(first_read, self.backbone_end_level)
        self.no_norm_on_lateral = check_flag("no_norm_on_lateral", no_norm_on_lateral)
        # The first num_smooth of fpn_convs smooth P2..P5, the others make P6, P7, ...
        self.num_smooth = {"merged": self.num_levels, "chained": self.num_levels - 1, "none": 0}[
            smooth
        ]
        self._make_convs(dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg))
        init_convs(self, init_cfg)

    def _make_convs(self, layers: dict[str, Any]) -> None:
        """Laterals, 3x3 convolutions and those of extra levels, of these kinds of layers."""
        used = self.in_channels[self.start_level : self.backbone_end_level]
        on_lateral = layers | ({"norm_cfg": None} if self.no_norm_on_lateral else {})
        self.lateral_convs = nn.ModuleList(
            ConvNormAct(c, self.out_channels, 1, **on_lateral)
            for c in (used if self.laterals else used[-1:])
        )
        self.fpn_convs = nn.ModuleList(
            ConvNormAct(self.out_channels, self.out_channels, 3, **layers)
            for _ in range(self.num_smooth)
        )
        for i in range(self.num_outs - self.num_levels if self.add_extra_convs else 0):
            first_on_input = i == 0 and self.add_extra_convs == "on_input"
            c = used[-1] if first_on_input else self.out_channels
            self.fpn_convs.append(ConvNormAct(c, self.out_channels, 3, stride=2, **layers))

    def init_weights(self) -> None:
        """Draw the convolutions' weights again by ``init_cfg``, as mmengine does before training.

        As in mmengine, a second call warns and changes nothing; ``is_init = False`` allows it.
        """
        if self.is_init:
            warnings.warn("FPN.init_weights was called more than once", stacklevel=2)
            return
        init_convs(self, self.init_cfg)
        self.is_init = True

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: one float map per entry of ``in_channels``, finest first, each
                (N, in_channels[i], H_i, W_i) of any size.

        Returns:
            ``num_outs`` maps, finest first: (N, out_channels, H_i, W_i) for the used levels, then
            (N, out_channels, ceil(H/2), ceil(W/2)) for each extra one, where H, W is the size of
            the level before.

        Raises:
            TypeError, ValueError: see `fpn_neck.utils.arguments.check_maps`; the weights are of
                another dtype; names the level.
        """
        started: list[Tensor] = []  # the finest lateral
        if eager() and self._is_paper_neck():
            blocks = cast(nn.Module, self._modules["lateral_convs"])
            started = start_finest(blocks, inputs, self.start_level)
        if not started:
            check_maps("FPN", inputs, self.in_channels, self._read_levels)
        elif not kernels_serve("FPN", inputs, self.in_channels, self._read_levels):
            started.clear()
        used = inputs[self.start_level : self.backbone_end_level]  # C2..C5
        found = None
        if started:
            found = pyramid_on_gpu(*self._blocks(), used, started)
        elif records_kernels(used[0]):
            found = pyramid_in_graph(*self._blocks(), used) if self._is_paper_neck() else None
        elif self._takes_fast_path(used):
            found = fast_pyramid(*self._blocks(), used)
        if found is not None:  # the same result, faster
            outs, lateral = found
            if self.add_extra_convs == "on_lateral":  # nothing else depends on its memory format
                lateral = in_layout_of(lateral, used[-1])
            return tuple(outs + self._extra_levels(used[-1], lateral, outs[-1]))
        sizes = [x.shape[-2:] for x in used]
        with_lateral = used if self.laterals else used[-1:]
        check_dtype_of_weights(
            "FPN", self._read_levels.start, with_lateral[0], self.lateral_convs[0]
        )
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, with_lateral, strict=True)]
        lateral = laterals[-1]
        outs = self._top_down_path(laterals, sizes) if self.top_down else laterals
        if self.smooth == "merged":
            outs = [self.fpn_convs[i](x) for i, x in enumerate(outs)]  # P2..P5
        return tuple(outs + self._extra_levels(used[-1], lateral, outs[-1]))

    def _takes_fast_path(self, maps: Sequence[Tensor]) -> bool:
        return (
            eager()
            and self._is_paper_neck()
            and takes_fast_path(self._blocks, maps, self.out_channels)
        )

    def _is_paper_neck(self) -> bool:
        """The paper's top-down path, with a 3x3 on each merged map or on none."""
        return (
            self.smooth != "chained"
            and self.top_down
            and self.laterals
            and (self.upsample_cfg == NEAREST or self._interpolation() == NEAREST)
            and keeps(self, FPN, "_top_down_path", "_upsampled")
        )

    def _upsampled(self, x: Tensor, size: torch.Size) -> Tensor:
        if self.upsample_cfg == NEAREST:  # what F.interpolate calls after its own checks
            return torch._C._nn.upsample_nearest2d(x, size, None)
        return F.interpolate(x, size=size, **self._interpolation())

    def _interpolation(self) -> dict[str, Any]:
        return _without_scale_factor(self.upsample_cfg)

    def _blocks(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The laterals and the smoothing 3x3 convolutions."""
        # Not by nn.Module.__getattr__ and ModuleList.__iter__, which take two microseconds.
        laterals, smooths = (
            cast(nn.ModuleList, self._modules[name])._modules
            for name in ("lateral_convs", "fpn_convs")
        )
        blocks = cast("list[nn.Module]", [*laterals.values(), *smooths.values()])
        return blocks[: len(laterals)], blocks[len(laterals) :][: self.num_smooth]

    def output_strides(self, strides: Sequence[int]) -> list[int]:
        """Strides of the maps it returns, from the strides of its inputs, in image pixels."""
        used = list(strides[self.start_level : self.backbone_end_level])
        extra = self.num_outs - self.num_levels  # P6, P7, ...
        return used + [used[-1] << i for i in range(1, extra + 1)]

    def _top_down_path(self, laterals: list[Tensor], sizes: list[torch.Size]) -> list[Tensor]:
        """Add the upsampled level above to every lateral; the coarsest lateral starts the path.

        Args:
            laterals: of every level, or only of the coarsest; the list is emptied, so that no map
                is kept longer than it is used.
            sizes: (H_i, W_i) of every level.
        """
        path = [laterals.pop()]
        for i in reversed(range(self.num_levels - 1)):
            x = self._upsampled(path[0], sizes[i])
            if self.laterals:
                x = laterals.pop() + x
            path.insert(0, self.fpn_convs[i](x) if self.smooth == "chained" else x)
        return path

    def _extra_levels(self, c_last: Tensor, lateral: Tensor, p_last: Tensor) -> list[Tensor]:
        """P6, P7, ...: (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2)), each from the one before."""
        levels: list[Tensor] = []
        if not self.add_extra_convs:
            x = p_last
            for _ in range(self.num_outs - self.num_levels):
                x = F.max_pool2d(x, kernel_size=1, stride=2)
                levels.append(x)
            return levels
        x = {"on_input": c_last, "on_lateral": lateral, "on_output": p_last}[self.add_extra_convs]
        last = self.num_smooth + self.num_outs - self.num_levels
        for i, conv in enumerate(self.fpn_convs[self.num_smooth : last]):
            x = conv(F.relu(x) if i and self.relu_before_extra_convs else x)
            levels.append(x)
        return levels


def _backbone_end_level(start: int, end: int, num_ins: int) -> int:
    """Index after the coarsest map that is used."""
    check_whole("start_level", start, 0)
    last = num_ins - 1 if check_whole("end_level", end, -1) == -1 else end
    if not 0 <= start <= last < num_ins:
        raise ValueError(
            f"start_level={start}, end_level={end}: with {num_ins} input maps they must satisfy "
            f"0 <= start_level <= end_level <= {num_ins - 1} (end_level=-1 means the last)"
        )
    return last + 1


def _num_outs(num_outs: int | None, num_levels: int, ends_at_last: bool) -> int:
    if num_outs is None:
        return num_levels
    if check_whole("num_outs", num_outs, 1, MOST_LEVELS) < num_levels:
        raise ValueError(
            f"num_outs={num_outs} is below the {num_levels} levels between start_level and "
            "end_level; raise num_outs, or start_level to skip fine levels"
        )
    if num_outs > num_levels and not ends_at_last:
        raise ValueError(
            f"num_outs={num_outs} asks for extra levels above the {num_levels} used ones, which "
            "need the last map of the backbone; set end_level=-1"
        )
    return num_outs


def _check_variant(smooth: str, top_down: bool, laterals: bool) -> None:
    check_choice("smooth", smooth, SMOOTH)
    check_flag("top_down", top_down)
    check_flag("laterals", laterals)
    if not top_down and (smooth == "chained" or not laterals):
        raise ValueError(
            f"top_down=False with smooth={smooth!r}, laterals={laterals}: smooth='chained' and "
            "laterals=False need the top-down path; change one of them"
        )


def _without_scale_factor(upsample_cfg: Cfg) -> dict[str, Any]:
    return {k: v for k, v in upsample_cfg.items() if k != "scale_factor"}


def _check_upsample_cfg(upsample_cfg: Cfg) -> None:
    if not isinstance(upsample_cfg, Mapping):
        raise TypeError(
            f"upsample_cfg={upsample_cfg!r}: expected a dict, e.g. dict(mode='nearest')"
        )
    options = _without_scale_factor(upsample_cfg)
    if "size" in options:
        raise ValueError("upsample_cfg: the size is always the lateral's; leave 'size' out")
    try:
        F.interpolate(torch.empty(1, 1, 2, 2), size=(3, 3), **options)
    except (TypeError, ValueError, NotImplementedError) as e:
        raise ValueError(f"upsample_cfg={dict(upsample_cfg)}: interpolate refuses it: {e}") from e


def _extra_source(add_extra_convs: bool | str) -> str | Literal[False]:
    if add_extra_convs is True:
        return "on_input"
    if add_extra_convs is False:
        return False
    if not isinstance(add_extra_convs, str) or add_extra_convs not in EXTRA_SOURCES:
        raise ValueError(f"add_extra_convs={add_extra_convs!r}; choose a bool or {EXTRA_SOURCES}")
    return add_extra_convs
