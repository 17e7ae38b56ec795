"""Real training of one config with this package's parts and with mmseg's: configs and commands."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]

_CONFIG = """
_base_ = '{base}'
custom_imports = dict(imports=['fpn_neck', 'benchmarks.stopwatch'])
model = dict(
    data_preprocessor=dict(size={size}),
    {parts}
    decode_head=dict(
        _delete_=True,
        type='{head}',
        in_channels=[128] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=59,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce', avg_non_ignore=True),
            dict(type='fpn_neck.DiceLoss', loss_name='loss_dice'),
        ]))
train_dataloader = dict(
    batch_size={batch}, num_workers={workers}, persistent_workers={workers} > 0{pipeline})
train_cfg = dict(type='IterBasedTrainLoop', max_iters=10**9, val_interval=10**9)
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
param_scheduler = None
optim_wrapper = dict({amp})
default_hooks = dict(checkpoint=dict(interval=10**9, save_best=None))
custom_hooks = [
    dict(type='StopwatchHook', path='{out}', seconds={seconds}, warm_up={warm_up}, profiled=5)]
"""
_PARTS = {
    "fpn_neck": """
    backbone=dict(checkpoint=None, frozen_levels=0),
    neck=dict(out_channels=128),""",
    "mmseg": """
    type='EncoderDecoder',
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        pretrained=False,
        features_only=True,
        out_indices=(1, 2, 3, 4)),
    neck=dict(
        _delete_=True,
        type='FPN',
        in_channels=[24, 40, 112, 320],
        out_channels=128,
        num_outs=4),""",
}
_HEADS = {"fpn_neck": "fpn_neck.FPNHead", "mmseg": "FPNHead"}
_CROPS = """, dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='RandomResize', scale=(384, 576), ratio_range=(0.75, 1.35), keep_ratio=True),
        dict(type='RandomCrop', crop_size={size}),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion', hue_delta=9),
        dict(type='PackSegInputs')])"""
# mmseg's own tools/train.py does this.
_MMSEG = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
cfg = Config.fromfile(sys.argv[1])
cfg.work_dir = sys.argv[3]
Runner.from_cfg(cfg).train()
"""


@dataclass(frozen=True)
class Training:
    """EfficientNet-lite0, neck and head of 128 channels, 59 classes, cross-entropy and Dice.

    Attributes:
        seconds: to measure for.
        photos: crops of clothing photos, with augmentation; else generated scenes of ``size``.
        amp: autocast to bfloat16.
    """

    seconds: float
    photos: bool = False
    amp: bool = True
    size: tuple[int, int] = (512, 352)
    batch: int = 16
    workers: int = 7
    warm_up: int = 20

    def command(self, parts: str, scratch: Path) -> list[str]:
        """Train with the parts of 'fpn_neck' or 'mmseg'; results go into `results`."""
        name = "1xb16-2400_clothing-320x224" if self.photos else "demo_shapes-256x320"
        text = _CONFIG.format(
            base=PROJECT / f"configs/segmentation/fpn_lite0_{name}.py",
            size=self.size,
            parts=_PARTS[parts].strip(),
            head=_HEADS[parts],
            batch=self.batch,
            workers=self.workers,
            pipeline=_CROPS.format(size=self.size) if self.photos else "",
            amp="type='AmpOptimWrapper', dtype='bfloat16'" if self.amp else "",
            out=self._results(parts, scratch),
            seconds=self.seconds,
            warm_up=self.warm_up,
        )
        config = scratch / f"training_{parts}.py"
        config.write_text(text)
        program = [str(PROJECT / "tools/train.py")] if parts == "fpn_neck" else ["-c", _MMSEG]
        command = [
            sys.executable,
            *program,
            str(config),
            "--work-dir",
            str(scratch / f"work_{parts}"),
        ]
        # The scenes have 7 of the 59 classes, which the check refuses.
        return [*command, "--no-check"]

    def results(self, parts: str, scratch: Path) -> dict[str, float]:
        """What `StopwatchHook` wrote; empty if the training failed."""
        file = self._results(parts, scratch)
        return json.loads(file.read_text()) if file.exists() else {}

    def _results(self, parts: str, scratch: Path) -> Path:
        return scratch / f"training_{parts}.json"


def training_table(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """Markdown: `Training.results` of both."""
    lines = ["### Training", "", "| | fpn_neck | mmseg | ratio |", "| --- | --- | --- | --- |"]
    for name in ours | theirs:
        a, b = ours.get(name), theirs.get(name)
        ratio = f"{a / b:.2f}" if a is not None and b else ""
        cells = ["" if x is None else f"{x:.4g}" for x in (a, b)]
        lines.append(f"| {' | '.join([name, *cells, ratio])} |")
    return "\n".join(lines if ours or theirs else [*lines[:2], "not measured"])
