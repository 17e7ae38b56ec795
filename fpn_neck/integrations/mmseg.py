"""The segmentation head, data sets and metric under mmseg's interfaces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.apis import init_model
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from fpn_neck.checkpoints import find_state_dict, fitting, load_checkpoint
from fpn_neck.checks import check_choice, check_whole, check_wholes
from fpn_neck.command_line import check_device
from fpn_neck.datasets import clothing, shapes
from fpn_neck.fast.maps import in_layout_of
from fpn_neck.full_size_loss import full_size_losses
from fpn_neck.integrations import mmseg_segmentor  # noqa: F401 (registers)
from fpn_neck.integrations.mmseg_losses import as_pixel_loss
from fpn_neck.integrations.running import drop_pretraining, photo_pipeline
from fpn_neck.integrations.sample_labels import check_sample, mmseg_classes
from fpn_neck.layers import Cfg
from fpn_neck.losses import PixelAccuracy
from fpn_neck.registry import DATASETS, METRICS, MODELS
from fpn_neck.seg_head import MERGES, RELU, ScaleHeads


@MODELS.register_module()
class FPNHead(BaseDecodeHead):
    """mmseg decode head round `ScaleHeads`; ``mmseg.FPNHead``'s arguments and state-dict keys.

    Args:
        feature_strides: stride of every level in image pixels, finest first.
        channels: width of the towers.
        merge: 'add' (mmseg's) or 'cat', see `ScaleHeads`.
        loss_stride: take the loss at every n-th pixel of every n-th row, with the logits resized
            to that grid: n * n times less work and memory than mmseg's loss at full size (1).
            An odd n takes the centre of every cell, an even one is half a pixel beside it.
        **kwargs: the rest of mmseg's ``BaseDecodeHead``: in_channels, in_index, num_classes,
            dropout_ratio, norm_cfg, align_corners, loss_decode, ignore_index, ...
    """

    def __init__(
        self,
        feature_strides: Sequence[int],
        channels: int,
        *,
        merge: str = "add",
        loss_stride: int = 1,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        act_cfg: Cfg | None = RELU,
        align_corners: bool = False,
        **kwargs: Any,
    ) -> None:
        check_whole("channels", channels, 1)
        levels = len(check_wholes("feature_strides", feature_strides, 1))
        for name in ("in_channels", "in_index"):
            if len(check_wholes(name, kwargs.get(name), 0)) != levels:
                raise ValueError(
                    f"{name}={kwargs[name]} and feature_strides={feature_strides} must be of the "
                    "same length, one entry per level"
                )
        if "num_classes" in kwargs:
            check_whole("num_classes", kwargs["num_classes"], 1)
        check_choice("merge", merge, MERGES)
        merged = channels * (levels if merge == "cat" else 1)
        kwargs |= {"input_transform": "multiple_select", "align_corners": align_corners}
        super().__init__(channels=merged, **kwargs)
        self.checks_labels = True  # see LabelHook
        self.loss_stride = check_whole("loss_stride", loss_stride, 1)
        self.scale_heads = ScaleHeads(
            self.in_channels,
            channels,
            strides=feature_strides,
            merge=merge,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            align_corners=align_corners,
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Pyramid -> logits (N, K, H_0, W_0) at the finest stride."""
        inputs = self._transform_inputs(inputs)
        return in_layout_of(self.cls_seg(self.scale_heads(inputs)), inputs[0])

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """mmseg's losses and ``acc_seg``, without the logits at the labels' size where it can be.

        That is with CrossEntropyLoss (softmax, mean), `fpn_neck.DiceLoss` and
        `fpn_neck.CrossEntropyLoss`, and no sampler.

        Raises:
            ValueError: a label that is no class; names the photo.
        """
        is_list = isinstance(self.loss_decode, nn.ModuleList)
        modules = list(self.loss_decode) if is_list else [self.loss_decode]
        losses = [as_pixel_loss(module) for module in modules]
        if self.sampler is not None or None in losses:
            return super().loss_by_feat(seg_logits, batch_data_samples)
        *values, accuracy = full_size_losses(
            seg_logits,
            self._stack_batch_gt(batch_data_samples).squeeze(1),
            [loss.to(seg_logits.device) for loss in (*losses, PixelAccuracy())],
            ignore_index=self.ignore_index,
            align_corners=self.align_corners,
        )
        found: dict[str, Tensor] = {}
        for module, value in zip(modules, values, strict=True):
            known = found.get(module.loss_name)
            found[module.loss_name] = value if known is None else known + value
        return found | {"acc_seg": accuracy.detach()[None]}

    def _stack_batch_gt(self, batch_data_samples: list) -> Tensor:
        """Labels (N, 1, H, W), thinned to the grid on which the loss is taken."""
        for sample in batch_data_samples:
            labels = sample.gt_sem_seg.data
            check_sample(sample, labels, mmseg_classes(self), self.ignore_index)
        n = self.loss_stride
        return super()._stack_batch_gt(batch_data_samples)[..., n // 2 :: n, n // 2 :: n]


@DATASETS.register_module()
class ClothingDataset(BaseSegDataset):
    """ "People Clothing Segmentation" (CCP) in Kaggle's layout, see `fpn_neck.datasets.clothing`.

    Args:
        split: 'train', 'val', or 'all'; the rule is `clothing.split_of`.
        **kwargs: mmseg's ``BaseSegDataset``; ``data_root`` is the folder with ``labels.csv``.

    Raises:
        ValueError: an unknown split, no photos, or a photo without its mask.
    """

    METAINFO = {"classes": clothing.CLASSES, "palette": clothing.PALETTE}

    def __init__(self, split: str, **kwargs: Any) -> None:
        self.split = check_choice("split", split, clothing.SPLITS)
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        pairs = clothing.find_pairs(self.data_root, self.split)
        common = {
            "label_map": self.label_map,
            "reduce_zero_label": self.reduce_zero_label,
            "seg_fields": [],
        }
        return [{"img_path": str(p), "seg_map_path": str(m)} | common for p, m in pairs]


@DATASETS.register_module()
class ShapesDataset(BaseSegDataset):
    """The generated scenes of `fpn_neck.datasets.shapes`; ``split`` is 'train' or 'val'."""

    METAINFO = {"classes": shapes.CLASSES, "palette": shapes.PALETTE}

    def __init__(self, split: str, **kwargs: Any) -> None:
        check_choice("split", split, shapes.SPLITS)
        prefix = {"img_path": f"{split}/images", "seg_map_path": f"{split}/labels"}
        super().__init__(data_prefix=prefix, **kwargs)


@METRICS.register_module()
class OccurringIoUMetric(IoUMetric):
    """mmseg's IoUMetric, with means over the labels that occur in the truth.

    mmseg's ``mIoU`` also counts, with IoU 0, every label that is nowhere in the truth but was
    predicted for one pixel. This adds ``mIoU_occurring`` (labels with a pixel in the truth),
    ``mIoU_foreground`` (the same without ``background``) and ``num_occurring``.

    Args:
        background: index of the label that is no object.
        **kwargs: mmseg's ``IoUMetric``.
    """

    def __init__(self, background: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.background = check_whole("background", background, 0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        areas = [np.sum([np.asarray(r[i], np.float64) for r in results], 0) for i in (0, 1, 3)]
        intersection, union, truth = areas  # (K,) pixels each
        occurs = np.flatnonzero(truth)
        iou = 100 * intersection[occurs] / union[occurs]
        return OrderedDict(
            metrics,
            mIoU_occurring=round(float(iou.mean()), 2),
            mIoU_foreground=round(float(iou[occurs != self.background].mean()), 2),
            num_occurring=float(len(occurs)),  # mmengine's JSON drops whole numbers
        )


class Predictor:
    """A trained mmseg model on photos.

    Args:
        cfg: the config it was trained with.
        checkpoint: its checkpoint file; every weight must be in it.
        device: 'cpu', 'cuda', 'cuda:1', ...
        allow_mismatch: load what fits of a checkpoint of another model; warns of the rest.

    Attributes:
        classes, palette: name and RGB of every label.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, unreadable, or of another model.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, device: str = "cpu", *, allow_mismatch: bool = False
    ) -> None:
        check_device(device)
        state = load_checkpoint(checkpoint)
        drop_pretraining(cfg.model)
        if cfg.model.type == "EncoderDecoder":  # labels are all that is wanted
            cfg.model.type = "fpn_neck.EncoderDecoder"
        model = init_model(cfg, device=device)
        weights = find_state_dict(state)
        weights = fitting(model.state_dict(), weights, checkpoint, allow_mismatch=allow_mismatch)
        model.load_state_dict(weights, strict=not allow_mismatch)
        self.classes, self.palette = _names(state.get("meta", {}), checkpoint)
        self._model = model
        self._pipeline = Compose(photo_pipeline(cfg.test_dataloader.dataset.pipeline))

    @torch.inference_mode()
    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Photo, uint8 (H, W, 3) in BGR -> labels (H, W), int64 in 0..K-1."""
        data = self._pipeline({"img": photo})
        batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
        return self._model.test_step(batch)[0].pred_sem_seg.data[0].cpu().numpy()


def _names(meta: dict, checkpoint: str) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """Names and colours of the labels, where mmseg 1 or mmseg 0 put them."""
    if "dataset_meta" in meta:
        return meta["dataset_meta"]["classes"], meta["dataset_meta"]["palette"]
    if "CLASSES" in meta:
        return meta["CLASSES"], meta["PALETTE"]
    raise ValueError(f"checkpoint {checkpoint} holds no dataset_meta: no names for its labels")
