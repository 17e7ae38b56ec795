"""Where each library keeps the weights of a ResNet, an FPN and its segmentation head.

Every table maps a *role*, a module named after the papers, to the module's name in one library:

- ``backbone.*``: mmdet's own ResNet names, ``backbone.layer1.0.conv1``; a norm is ``bn1`` or
  ``gn1``, that of the shortcut ``downsample.1`` or ``downsample.gn``
- ``neck.lateral2`` .. ``neck.lateral5``: the 1x1 on C2..C5
- ``neck.merged2`` .. ``merged5``, or ``neck.chained2`` .. ``chained4``: the 3x3 outside or inside
  the top-down path (`fpn_neck.FPN`'s ``smooth``)
- ``neck.extra6``, ``neck.extra7``: the 3x3 of stride 2 that makes P6, P7
- ``head.5.0`` .. ``head.5.2``, ..., ``head.2.0``: the 3x3 of each level's tower, in order
- ``head.classifier``: the 1x1

A convolution with a norm is ``ROLE.conv`` and ``ROLE.bn`` or ``ROLE.gn``. The coarsest backbone map
of a pyramid counts as C5, so three laterals are C3..C5.

Sources: mmdet 3.3, mmseg 1.2, torchvision 0.20 to 0.30, segmentation_models_pytorch 0.5, as
installed; detectron2 0.6, ``modeling/backbone/{fpn,resnet}.py``,
``modeling/meta_arch/semantic_seg.py``. The article published neither checkpoint nor code: its
decoder is smp's with a 3x3 inside the top-down path, and ``decoder.p{4,3,2}.conv`` is an assumed
name for that 3x3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

_BLOCKS = 36  # of the longest stage, ResNet-152's layer3
Modules = dict[str, str]


@dataclass(frozen=True)
class Layout:
    """What the numbering of mmdet's and torchvision's modules depends on.

    Args:
        num_laterals: 1 to 4.
        smooth: 'merged', 'chained' or 'none', see `fpn_neck.FPN`.
    """

    num_laterals: int = 4
    smooth: str = "merged"

    @property
    def levels(self) -> range:
        """Numbers of the laterals' levels, finest first: 2..5 for four."""
        return range(6 - self.num_laterals, 6)

    @property
    def smooth_roles(self) -> list[str]:
        """Roles of the 3x3, finest first."""
        levels = {"merged": self.levels, "chained": self.levels[:-1], "none": ()}[self.smooth]
        return [f"neck.{self.smooth}{level}" for level in levels]


@dataclass(frozen=True)
class Library:
    """One library's names.

    Args:
        modules: layout -> {role: the library's module}.
        aliases: layout -> {another name that is read but never written: role}.
        prefixes: prefixes that names lack if a part was saved by itself; '' is the whole model.
        smooth: the only place of the 3x3 that the library supports; None means any.
        ignored: prefixes of other parts than backbone, neck and segmentation head.
        limits: {pattern of a role's tensor: why the library cannot hold it}.
        verbatim: backbones other than ResNet keep their names (between mm's libraries).
        extra_norm: P6 and P7 have the norm of the pyramid's other 3x3 convolutions.
        concatenates: 'finest first' or 'coarsest first', the order in which the head concatenates
            levels; None if it always adds them.
        align_corners: of the head's upsampling; None if it is an option, or if the library has no
            such head.
    """

    modules: Callable[[Layout], Modules]
    aliases: Callable[[Layout], Modules] = lambda layout: {}
    prefixes: tuple[str, ...] = ("",)
    smooth: str | None = None
    ignored: tuple[str, ...] = ()
    limits: Mapping[str, str] = field(default_factory=dict)
    verbatim: bool = False
    extra_norm: bool = False
    concatenates: str | None = None
    align_corners: bool | None = None


_LAYERS = ("conv", "bn", "gn")
_DOWNSAMPLE = ("downsample.0", "downsample.1", "downsample.gn")


def _resnet() -> Iterator[str]:
    yield from ("conv1", "bn1", "gn1")
    for stage, block in product(range(1, 5), range(_BLOCKS)):
        for part in (*(f"{kind}{i}" for i in (1, 2, 3) for kind in _LAYERS), *_DOWNSAMPLE):
            yield f"layer{stage}.{block}.{part}"


def _towers() -> list[tuple[int, int]]:
    """Level and place of every 3x3 in the head: log2(stride / 4) of them, at least one."""
    return [(level, i) for level in range(2, 6) for i in range(max(1, level - 2))]


def _norm(role: str, name: str) -> Modules:
    """The library has one name for both norms; running statistics tell which one it is."""
    return {f"{role}.bn": name, f"{role}.gn": name}


def _one_downsample_norm(role: str) -> str:
    return role.replace("downsample.gn", "downsample.1")


def _one_norm(role: str) -> str:
    """torchvision's ResNets keep the name of BatchNorm for any norm."""
    return _one_downsample_norm(role).replace("gn", "bn")


# mmdet and mmseg --------------------------------------------------------------------------------


def _conv_module(role: str, name: str) -> Modules:
    return {f"{role}.{part}": f"{name}.{part}" for part in ("conv", "bn", "gn")}


def _mm_neck(layout: Layout) -> Modules:
    roles = {f"neck.lateral{n}": f"lateral_convs.{i}" for i, n in enumerate(layout.levels)}
    smooth = [*layout.smooth_roles, *(f"neck.extra{n}" for n in range(6, 10))]
    roles |= {role: f"fpn_convs.{i}" for i, role in enumerate(smooth)}
    modules = {f"backbone.{m}": f"backbone.{_one_downsample_norm(m)}" for m in _resnet()}
    for role, name in roles.items():
        modules |= _conv_module(role, f"neck.{name}")
    return modules


def _mmseg(layout: Layout) -> Modules:
    modules = _mm_neck(layout) | {"head.classifier.conv": "decode_head.conv_seg"}
    for level, i in _towers():
        name = f"decode_head.scale_heads.{level - 2}.{2 * i}"  # odd places are upsampling
        modules |= _conv_module(f"head.{level}.{i}", name)
    return modules


def _mmdet(layout: Layout) -> Modules:
    modules = _mm_neck(layout) | {"head.classifier.conv": "semantic_head.conv_logits"}
    for level, i in _towers():
        name = f"semantic_head.conv_upsample_layers.{level - 2}.conv.{i}"
        modules |= _conv_module(f"head.{level}.{i}", name)
    return modules


# torchvision ------------------------------------------------------------------------------------


def _torchvision(layout: Layout) -> Modules:
    modules = {f"backbone.{m}": f"backbone.body.{_one_norm(m)}" for m in _resnet()}
    for i, level in enumerate(layout.levels):
        for role, block in ((f"neck.lateral{level}", "inner"), (f"neck.merged{level}", "layer")):
            name = f"backbone.fpn.{block}_blocks.{i}"
            modules |= {f"{role}.conv": f"{name}.0", **_norm(role, f"{name}.1")}
    return modules | {
        f"neck.extra{level}.conv": f"backbone.fpn.extra_blocks.p{level}" for level in (6, 7)
    }


def _torchvision_old(layout: Layout) -> Modules:
    """Before 0.14 the names of the pyramid's convolutions lacked their last part."""
    return {
        name.removesuffix(".0"): role
        for role, name in _torchvision(layout).items()
        if "_blocks." in name and name.endswith(".0")
    }


# detectron2 -------------------------------------------------------------------------------------


def _detectron2(layout: Layout) -> Modules:
    modules = _detectron2_resnet()
    for level in layout.levels:
        for role, kind in ((f"neck.lateral{level}", "lateral"), (f"neck.merged{level}", "output")):
            name = f"backbone.fpn_{kind}{level}"
            modules |= {f"{role}.conv": name, **_norm(role, f"{name}.norm")}
    for level in (6, 7):
        modules[f"neck.extra{level}.conv"] = f"backbone.top_block.p{level}"
    for level, i in _towers():
        role, name = f"head.{level}.{i}", f"sem_seg_head.p{level}.{2 * i}"
        modules |= {f"{role}.conv": name, **_norm(role, f"{name}.norm")}
    return modules | {"head.classifier.conv": "sem_seg_head.predictor"}


def _detectron2_resnet() -> Modules:
    stem = "backbone.bottom_up.stem.conv1"
    modules = {"backbone.conv1": stem}
    modules |= {f"backbone.{norm}1": f"{stem}.norm" for norm in ("bn", "gn")}
    for stage, block in product(range(1, 5), range(_BLOCKS)):
        role, name = f"backbone.layer{stage}.{block}", f"backbone.bottom_up.res{stage + 1}.{block}"
        for i in (1, 2, 3):
            modules[f"{role}.conv{i}"] = f"{name}.conv{i}"
            modules |= {f"{role}.{norm}{i}": f"{name}.conv{i}.norm" for norm in ("bn", "gn")}
        modules[f"{role}.downsample.0"] = f"{name}.shortcut"
        modules |= {f"{role}.downsample.{i}": f"{name}.shortcut.norm" for i in ("1", "gn")}
    return modules


# segmentation_models_pytorch and the article ----------------------------------------------------


def _smp(layout: Layout) -> Modules:
    modules = {f"backbone.{m}": f"encoder.{_one_norm(m)}" for m in _resnet()}
    modules |= {f"neck.lateral{n}.conv": f"decoder.p{n}.skip_conv" for n in (2, 3, 4)}
    modules["neck.lateral5.conv"] = "decoder.p5"
    for level, i in _towers():
        name = f"decoder.seg_blocks.{5 - level}.block.{i}.block"
        modules |= {f"head.{level}.{i}.conv": f"{name}.0", f"head.{level}.{i}.gn": f"{name}.1"}
    return modules | {"head.classifier.conv": "segmentation_head.0"}


def _article(layout: Layout) -> Modules:
    return _smp(layout) | {f"neck.chained{n}.conv": f"decoder.p{n}.conv" for n in (2, 3, 4)}


_NO_EXTRA = {r"neck\.extra": "its pyramid has no convolutional P6, P7"}
_SMP_LIMITS = _NO_EXTRA | {
    r"backbone\.(.*\.)?gn": "its ResNets have BatchNorm, not GroupNorm",
    r"neck\..*\.(bn|gn)\.": "its pyramid has no norm",
    r"head\..*\.bn\.": "its head has GroupNorm, not BatchNorm",
    r"head\.\d\.\d\.conv\.bias": "its head has GroupNorm after every 3x3, which then has no bias",
}
_EXTRA_NORM = {r"neck\.extra\d\.(bn|gn)\.": "its P6 and P7 have no norm"}
_MM_IGNORED = (
    *("rpn_head.", "roi_head.", "bbox_head.", "mask_head.", "auxiliary_head."),
    *("panoptic_fusion_head.", "data_preprocessor."),
)

LIBRARIES: dict[str, Library] = {
    "mmdet": Library(
        _mmdet,
        prefixes=("", "neck."),
        ignored=_MM_IGNORED,
        verbatim=True,
        extra_norm=True,
        align_corners=False,
    ),
    "mmseg": Library(
        _mmseg,
        prefixes=("", "neck."),
        ignored=_MM_IGNORED,
        verbatim=True,
        extra_norm=True,
        concatenates="finest first",
    ),
    "torchvision": Library(
        _torchvision,
        aliases=_torchvision_old,
        prefixes=("", "backbone.", "backbone.fpn.", "backbone.body."),
        smooth="merged",
        ignored=("rpn.", "roi_heads.", "head.", "anchor_generator.", "transform.", "fc."),
        limits=_EXTRA_NORM | {r"head\.": "it has no segmentation head on the pyramid"},
    ),
    "detectron2": Library(
        _detectron2,
        smooth="merged",
        ignored=(
            *("proposal_generator.", "roi_heads.", "head.", "anchor_generator."),
            *("pixel_mean", "pixel_std"),
        ),
        limits=_EXTRA_NORM,
        align_corners=False,
    ),
    "smp": Library(
        _smp,
        smooth="none",
        ignored=("classification_head.",),
        limits=_SMP_LIMITS,
        concatenates="coarsest first",
        align_corners=True,
    ),
    "article": Library(
        _article,
        smooth="chained",
        limits=_SMP_LIMITS,
        concatenates="coarsest first",
        align_corners=True,
    ),
}
