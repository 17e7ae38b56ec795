"""An iteration of a recipe's training: our neck and head, and mmseg's in the same config."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.contestants import OURS
from benchmarks.measure import Contestant, run, summary
from fpn_neck.mm.config.load import load_config

RECIPES = {
    "demo": "fpn_neck::segmentation/fpn_lite0_demo_shapes-256x320.py",
    "clothing": "fpn_neck::segmentation/fpn_lite0_1xb16-2400_clothing-320x224.py",
}
MMSEG = "mmseg"
CELL = 48  # px: the labels are squares of so many
HEAD = """| recipe | fpn_neck, ms | mmseg, ms | mmseg over fpn_neck | peak MB |
| --- | --- | --- | --- | --- |"""


class Iteration(NamedTuple):
    """Medians in seconds and peaks in bytes, ours and mmseg's."""

    recipe: str
    seconds: tuple[float, float]
    peaks: tuple[int | None, int | None]

    def __str__(self) -> str:
        ours, theirs = (1e3 * s for s in self.seconds)
        peaks = ", ".join("" if p is None else f"{p / 2**20:.0f}" for p in self.peaks)
        return f"| {self.recipe} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.2f} | {peaks} |"


def measure_recipe(name: str, rounds: int, clock: str) -> Iteration:
    """Preprocessing, forward, losses, backward and the optimizer's update, of one batch.

    Args:
        name: a key of `RECIPES`.
        rounds: measured iterations of each, in turn.
        clock: see `benchmarks.measure.interleave`.
    """
    contestants = build_contestants(name)
    run(contestants, "step", rounds, clock)
    ours, theirs = ((summary(c.seconds["step"])["median"], c.peak["step"]) for c in contestants)
    return Iteration(name, (ours[0], theirs[0]), (ours[1], theirs[1]))


def build_contestants(name: str) -> list[Contestant]:
    """Ours and mmseg's, with equal weights and the same backbone.

    Raises:
        ValueError: mmseg is not installed.
        ArithmeticError: their logits differ.
    """
    try:
        from mmseg.models.builder import MODELS
    except ImportError as e:
        raise ValueError(f"--recipes compares with mmseg, which is not installed ({e})") from e
    from mmengine.logging import MMLogger
    from mmengine.registry import DefaultScope

    MMLogger.get_current_instance().setLevel("WARNING")  # a line for each parameter's rate
    cfg = load_config(RECIPES[name])
    with DefaultScope.overwrite_default_scope("mmseg"):
        torch.manual_seed(0)
        ours = MODELS.build(cfg.model)
        theirs = MODELS.build(_with_mmsegs_parts(cfg.model))
        theirs.load_state_dict(ours.state_dict())
        batch = _batch(cfg)
        logits = [_logits(model, batch) for model in (ours, theirs)]
        error = ((logits[0] - logits[1]).abs().max() / logits[1].abs().max()).item()
        if not error < 1e-3:
            raise ArithmeticError(f"{name}: the logits of mmseg's parts differ by {error:.1e}")
        return [_contestant(OURS, ours, batch, cfg), _contestant(MMSEG, theirs, batch, cfg)]


def _with_mmsegs_parts(model: Any) -> Any:
    model = copy.deepcopy(model)
    model.type = "EncoderDecoder"
    model.neck.update(type="FPN", num_outs=len(model.neck.in_channels))
    model.decode_head.type = "FPNHead"
    model.decode_head.pop("loss_stride", None)  # mmseg's takes its losses at full size
    return model


def _contestant(name: str, model: nn.Module, batch: dict, cfg: Any) -> Contestant:
    from mmengine.optim import build_optim_wrapper

    optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))

    def step() -> dict[str, Tensor]:
        return model.train().train_step(copy.deepcopy(batch), optimizer)

    return Contestant(name, lambda: [_logits(model, batch)], step)


@torch.no_grad()
def _logits(model: nn.Module, batch: dict) -> Tensor:
    inputs = model.eval().data_preprocessor(copy.deepcopy(batch))["inputs"]
    return model(inputs)


def _batch(cfg: Any) -> dict[str, list]:
    """As many noisy photos as the recipe takes at a time, with labels in squares."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    (height, width), count = cfg.model.data_preprocessor.size, cfg.train_dataloader.batch_size
    generator = torch.Generator().manual_seed(0)
    shape = height // CELL + 1, width // CELL + 1
    photos, samples = [], []
    for _ in range(count):
        cells = torch.randint(cfg.model.decode_head.num_classes, shape, generator=generator)
        labels = cells.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)[:height, :width]
        photo = torch.randint(256, (3, height, width), generator=generator)
        photos.append(photo.to(torch.uint8))
        sizes = {"img_shape": (height, width), "ori_shape": (height, width)}
        sample = SegDataSample(metainfo=sizes, gt_sem_seg=PixelData(data=labels[None]))
        samples.append(sample)
    return {"inputs": photos, "data_samples": samples}
