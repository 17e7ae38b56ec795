"""Backbone + FPN + SegHead in plain torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fpn_neck.models.backbones import build_backbone, neck_options
from fpn_neck.models.declarations import declared
from fpn_neck.models.fpn import FPN
from fpn_neck.models.pretrained import Facts, load_weights, read_config, save
from fpn_neck.models.seg_head import SegHead
from fpn_neck.models.tiled_head import PHOTO_TILE, can_tile, is_large, logits_by_tiles
from fpn_neck.strips.full_size_loss import check_losses, full_size_losses
from fpn_neck.strips.label_map import fill_labels, fill_most_probable, label_map_in_graph
from fpn_neck.strips.pixel_loss import PixelLoss
from fpn_neck.strips.row_map import RowMap
from fpn_neck.utils.arguments import check_float_map
from fpn_neck.utils.sizes import check_map_size, may_branch_on_sizes, resize
from fpn_neck.utils.values import check_options


class Segmenter(nn.Module):
    """Semantic segmentation of images of any size.

    Args:
        backbone: name of a timm model (built by `fpn_neck.models.timm_backbone.TimmBackbone`), or a
            module with ``out_channels`` and ``strides`` (finest first) that maps (N, 3, H, W) to
            a sequence of (N, C_i, H_i, W_i).
        num_classes: K, the number of logits per pixel. 1 is for two classes: the logit's sigmoid is
            the probability of label 1.
        backbone_options: further arguments of `TimmBackbone`, e.g. ``{'checkpoint': ...}``; only
            with a name.
        neck: further arguments of `FPN`, e.g. ``{'out_channels': 128}``.
        head: further arguments of `SegHead`, e.g. ``{'merge': 'cat'}``.
        fpn: the old name of ``neck``; goes with 0.2.

    Attributes:
        facts: classes, mean, std, palette, sizes, see `fpn_neck.models.pretrained.Facts`. Until
            `save_pretrained` or `from_pretrained` sets them, the classes are '0', '1', ..., and
            mean and std are ImageNet's; for images without three channels they are 0 and 255.

    Raises:
        TypeError, ValueError: a backbone without declared channels and strides, or without a
            pyramid, and what the parts refuse. The methods: images that are not a float tensor
            (N, C, H, W); a size that is not two whole numbers of at least 1.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        num_classes: int,
        *,
        backbone_options: Mapping[str, Any] | None = None,
        neck: Mapping[str, Any] | None = None,
        head: Mapping[str, Any] | None = None,
        fpn: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = neck_options(neck, fpn)
        self._num_classes = num_classes
        self.backbone = build_backbone(backbone, backbone_options)
        channels, strides = declared(
            self.backbone,
            "out_channels",
            "strides",
            remedy="give a module that declares both, or the name of a timm model",
        )
        self.neck = FPN(channels, **options)
        given = check_options("head", head)
        head = {"strides": self.neck.output_strides(strides)} | given
        in_channels = [self.neck.out_channels] * self.neck.num_outs
        self.head = SegHead(in_channels, num_classes, **head)
        self._architecture = {
            "backbone": backbone if isinstance(backbone, str) else None,
            "num_classes": num_classes,
            "backbone_options": dict(backbone_options or {}),
            "neck": options,
            "head": given,
        }
        self.facts = Facts(self._default_classes())
        if (c := self._channels) != len(self.facts.mean):
            self.facts = Facts(self._default_classes(), mean=(0.0,) * c, std=(255.0,) * c)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        fit: Sequence[float] | None = None,
        exact: Sequence[int] | None = None,
        first_value: int | None = None,
        float16: bool = False,
    ) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder.

        `fpn_neck.load(folder)` predicts photos by it, `from_pretrained` gives the model.

        Args:
            classes, mean, std, palette, fit, exact, first_value: see
                `fpn_neck.models.pretrained.Facts`. None: those of ``facts``.
            float16: half the file: convolutions and matrices are rounded to float16. The loaded
                model is float32.

        Raises:
            ValueError: a value breaks its rule, an argument of the model is not plain data, or a
                weight is too large for float16.
            OSError: nothing can be written there.
        """
        known = dict(vars(self.facts))
        if fit is not None or exact is not None:
            known |= {"fit": None, "exact": None}  # the one that is given replaces both
        given: dict[str, Any] = {"classes": classes, "mean": mean, "std": std, "palette": palette}
        given |= {"fit": fit, "exact": exact, "first_value": first_value}
        facts = Facts(**known | {k: v for k, v in given.items() if v is not None})
        if len(facts.classes) != len(self._default_classes()):
            raise ValueError(
                f"classes={facts.classes}: the model has {len(self._default_classes())} labels"
            )
        if len(facts.mean) != self._channels:
            raise ValueError(f"mean={facts.mean}: images have {self._channels} channels")
        logits = getattr(self.head.conv_seg, "out_channels", self._num_classes)
        if logits != self._num_classes:
            raise ValueError(
                f"head.conv_seg gives {logits} logits, and the model was built with "
                f"num_classes={self._num_classes}: build it with the new number"
            )
        save(Path(folder), self.state_dict(), self._architecture, facts, float16=float16)
        self.facts = facts

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, backbone: nn.Module | None = None) -> Segmenter:
        """The model of a folder that `save_pretrained` wrote, in training mode; nothing is fetched.

        Args:
            backbone: a module of the same kind, if the model was built from a module; timm models
                are built by their name.

        Raises:
            FileNotFoundError: no such folder or file.
            ValueError: a file is not what `save_pretrained` writes, or of another model.
        """
        architecture, facts = read_config(Path(folder))
        options = {**architecture, "backbone": backbone or architecture.get("backbone")}
        if options["backbone"] is None:
            raise ValueError(
                f"{folder}: the backbone was a module: give from_pretrained(backbone=)"
            )
        local = {"checkpoint": None, "pretrained": False}
        if backbone is None:
            options["backbone_options"] = {**(options.get("backbone_options") or {}), **local}
        else:
            options["backbone_options"] = None
        try:
            model = cls(**options)
        except TypeError as e:
            raise ValueError(f"{folder}: no Segmenter has these arguments: {e}") from e
        load_weights(model, Path(folder))
        model.facts = facts
        return model

    @property
    def _channels(self) -> int:
        """Of the images; a module that does not say it takes RGB."""
        return getattr(self.backbone, "in_channels", 3)

    def _default_classes(self) -> tuple[str, ...]:
        """A name for every label, if nobody has given one."""
        return tuple(map(str, range(max(2, self._num_classes))))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W), float -> logits (N, K, H, W)."""
        logits = self._logits(images)
        return resize(logits, images.shape[-2:], self._align_corners)

    def loss(self, images: Tensor, target: Tensor, *losses: PixelLoss) -> Tensor:
        """Sum of the losses at the labels' size, without logits of that size.

        Args:
            images: normalised, (N, 3, H, W), float.
            target: labels, (N, H', W'), int64, 0..K-1 (0 and 1 if K = 1), or what every loss
                ignores by its ``ignore_index``.
            losses: e.g. ``fpn_neck.CrossEntropyLoss(), fpn_neck.DiceLoss()``.

        Raises:
            TypeError, ValueError: a loss is not a `PixelLoss`, and see `PixelLoss.forward`.
        """
        check_losses(losses)
        values = full_size_losses(
            self._logits(images), target, losses, align_corners=self._align_corners
        )
        return sum(values[1:], values[0])

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        *,
        tile: int | None = PHOTO_TILE,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Normalised images (N, 3, H, W), float -> labels (N, H, W), int64 in 0..K-1.

        With one logit they are 1 where its sigmoid is above 0.5, else 0.

        It runs in the module's mode; call ``eval()`` first, as with any module.

        Args:
            tile: images of more than ``2 * tile**2`` px are computed in overlapping tiles of about
                ``tile`` px a side, see `fpn_neck.models.tiled_head`. None: never. Exported and
                traced models take no tiles.
            size: (height, width) of the labels, if the images are resized photos: the logits become
                as large as the images and then as the photos, as in mmseg. None: of the images, as
                a trace needs it.
        """
        check_float_map("images", images)
        if size is not None:
            check_map_size(size)
        of_images = images.shape[-2:]
        if size is None and not self._takes_tiles(images, tile):
            return label_map_in_graph(self._logits(images), of_images, self._align_corners)
        target = size or (of_images[0], of_images[1])
        labels = images.new_empty((len(images), *target), dtype=torch.int64)
        for image, image_labels in zip(images.split(1), labels.split(1), strict=True):
            fill_labels(self._logits_of_size(image, target, tile), image_labels)
        return labels

    @torch.no_grad()
    def predict_views(
        self, views: Sequence[Tensor], size: tuple[int, int], *, tile: int | None = PHOTO_TILE
    ) -> Tensor:
        """One photo at several sizes, each also mirrored -> labels (H, W), int64.

        Each view's logits become as large as the photo, as in `predict`. The label of a pixel is
        the one of the largest mean probability, as in mmseg's ``SegTTAModel``; with one logit it
        is 1 where the mean is above 0.5.

        Args:
            views: normalised images (1, C, h, w), float.
            size: (H, W) of the photo.
            tile: see `predict`.

        Raises:
            ValueError: no view, or a view of several images.
        """
        for view in views:
            check_float_map("views", view)
        shapes = [tuple(view.shape) for view in views]
        if not shapes or any(shape[0] != 1 for shape in shapes):
            raise ValueError(f"views of shapes {shapes}: expected one or more of (1, C, h, w)")
        check_map_size(size)
        maps = []
        for view in views:
            maps.append(self._logits_of_size(view, size, tile))
            maps.append(self._logits_of_size(view.flip(-1), size, tile).mirrored())
        labels = views[0].new_empty(size, dtype=torch.int64)
        fill_most_probable(maps, labels)
        return labels

    def _takes_tiles(self, images: Tensor, tile: int | None) -> bool:
        return (
            tile is not None
            and may_branch_on_sizes()
            and is_large(images.shape[-2:], tile)
            and can_tile(self, self.head, SegHead)
        )

    def _logits_of_size(self, image: Tensor, size: tuple[int, int], tile: int | None) -> RowMap:
        """Logits (1, K, *size) by way of the image's size."""
        maps = self._logit_rows(image, tile if self._takes_tiles(image, tile) else None)
        for target in (image.shape[-2:], size):
            maps = maps.resize(target, self._align_corners)
        return maps

    def _logit_rows(self, image: Tensor, tile: int | None) -> RowMap:
        if tile is None:
            return RowMap.from_tensor(self._logits(image)).finite()

        def pyramid_of(rows: slice, columns: slice) -> Sequence[Tensor]:
            return self.neck(self.backbone(image[..., rows, columns]))

        size, head = image.shape[-2:], self.head
        return logits_by_tiles(pyramid_of, size, head.scale_heads, head.conv_seg, tile)

    def _logits(self, images: Tensor) -> Tensor:
        """At the pyramid's finest stride, (N, K, H/4, W/4)."""
        check_float_map("images", images)
        return self.head(self.neck(self.backbone(images)))

    @property
    def _align_corners(self) -> bool:
        return self.head.scale_heads.align_corners
