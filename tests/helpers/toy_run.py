"""A training of two layers on ten vectors, with every source of randomness a run may have."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from fpn_neck.mm.training import restoring_hook
from fpn_neck.mm.training.install_hooks import install_hooks

SAMPLES = 10
loaded: list[int] = []
numbers = itertools.count()


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """Args: spoil: file name -> what to make of the loss of a batch that holds it."""

    seen: list[tuple[list[str], float]] = []  # in the last run: files and sum of each batch

    def __init__(self, spoil: dict[str, str] | None = None) -> None:
        super().__init__()
        self.spoil = spoil or {}
        self.net = nn.Sequential(
            nn.Linear(4, 4096), nn.BatchNorm1d(4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1)
        )

    def forward(self, inputs: list, data_samples: list, mode: str = "loss") -> Any:
        x = torch.stack(inputs)
        names = [sample.img_path for sample in data_samples]
        (what,) = {self.spoil[n] for n in names if n in self.spoil} or {None}
        if mode == "loss" and what == "input":
            x = x * torch.nan
        y = self.net(x)
        if mode != "loss":
            return [y.mean()]
        ToyModel.seen.append((names, float(x.sum())))
        loss = (y - 1).square().mean()
        if what == "gradient":
            loss = loss + (0 * y).abs().sqrt().sum()
        elif what in ("nan", "inf"):
            loss = loss * float(what)
        return {"loss": loss}


@DATASETS.register_module(force=True)
class ToyData(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> dict:
        loaded.append(i)
        x = i + torch.rand(4) + float(np.random.rand()) + random.random()
        return {"inputs": x, "data_samples": BaseDataElement(metainfo={"img_path": f"{i}.jpg"})}

    def get_data_info(self, i: int) -> dict:
        return {"width": 1 + i % 2 * 2, "height": 2}


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    """Every validation is better than the one before."""

    value = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        ToyMetric.value += 1
        return {"acc": ToyMetric.value}


class StopHook(Hook):
    """SIGTERM, a crash, or anything else, at a training step or in the validation after it."""

    def __init__(
        self,
        *,
        step: int | None = None,
        validation: int | None = None,
        crash: bool = False,
        do: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
    ) -> None:
        self.step, self.validation, self.crash, self.do = step, validation, crash, do

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.step:
            self.do()

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.validation:
            if self.crash:
                raise RuntimeError("cut off")
            self.do()


def toy_config(
    work_dir: Path,
    *,
    steps: int = 12,
    by_epoch: bool = False,
    workers: int = 0,
    seed: int | None = 0,
    resume: bool = False,
    val_interval: int = 4,
    checkpoint_interval: int = 2,
    skip_nan: bool = False,
    **changes: dict,
) -> Config:
    """A config of 12 steps, or of 3 epochs of 5 steps."""
    sampler = "DefaultSampler" if by_epoch else "InfiniteSampler"
    loader = dict(batch_size=2, num_workers=workers, dataset=dict(type="ToyData"))
    cfg = Config(
        dict(
            model=dict(type="ToyModel"),
            work_dir=str(work_dir),
            default_scope="mmengine",
            train_dataloader=loader | dict(sampler=dict(type=sampler, shuffle=True)),
            val_dataloader=loader | dict(sampler=dict(type="DefaultSampler", shuffle=False)),
            train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1)
            if by_epoch
            else dict(by_epoch=False, max_iters=steps, val_interval=val_interval),
            val_cfg=dict(),
            val_evaluator=dict(type="ToyMetric"),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=20)
            ],
            default_hooks=dict(
                checkpoint=dict(
                    type="CheckpointHook",
                    by_epoch=by_epoch,
                    interval=1 if by_epoch else checkpoint_interval,
                    max_keep_ckpts=1,
                    save_best="acc",
                )
            ),
            resume=resume,
            # mmengine's message hub is shared by runs of one name, which is the second they began.
            experiment_name=f"toy {next(numbers)}",
            randomness=dict(seed=seed),
        )
    )
    cfg.merge_from_dict(changes)
    install_hooks(cfg, skip_nan=skip_nan)
    return cfg


def train(cfg: Config, *hooks: Hook) -> Runner:
    ToyModel.seen.clear()
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    restoring_hook.train(runner)
    return runner
