"""A run of a few seconds for several processes: toy_processes.py LAUNCHER WORK_DIR [TASK].

The model has a frozen layer, one without a gradient, and no batch norm. The length of the
validation set is odd. The first process prints what it logged and measured, and which variables of
the environment it leaves changed. TASK: 'die' kills the second process at step 3, 'term' sends it
SIGTERM, 'refuse' lets both processes find the same error in the data, and each an error of its own.
'later' is 'term' for processes that look at their values every 6 steps, as with GPUs. 'nan' makes
the loss of the second process NaN at step 4; the processes look when they save, at step 5.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn

from fpn_neck.mm.distributed.consensus import (
    differing_checkpoints,
    gather_errors,
    print_errors,
)
from fpn_neck.mm.distributed.launch import adapt_to_launcher, process_group
from fpn_neck.mm.training.install_hooks import install_hooks
from fpn_neck.mm.training.runtime_info_hook import find_runtime_info
from fpn_neck.utils.command_line import run_tool

STEPS, BATCH = 20, 4


@MODELS.register_module()
class Parts(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Linear(4, 8).requires_grad_(False)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 1)
        self.p6 = nn.Linear(8, 8)  # nothing uses it

    def forward(self, inputs: list, data_samples: list, mode: str = "loss") -> Any:
        pyramid = self.norm(self.neck(torch.stack(inputs)))
        pyramid, _ = pyramid, self.p6(pyramid)
        y = self.head(pyramid.relu()).squeeze(1)
        if mode == "loss":
            return {"loss": (y - torch.tensor(data_samples)).square().mean()}
        return list(zip(data_samples, y.tolist(), strict=True))


@DATASETS.register_module()
class Points(torch.utils.data.Dataset):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict:
        x = torch.randn(4, generator=torch.Generator().manual_seed(i))
        return {"inputs": x, "data_samples": float(i) / self.length}


@METRICS.register_module()
class Seen(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {
            "count": float(len(results)),
            "images": float(len(dict(results))),
            "sum": sum(y for _, y in results),
        }


class Signalled(Hook):
    def __init__(self, number: int) -> None:
        self.number = number

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == 3 and get_rank() == 1:
            os.kill(os.getpid(), self.number)


class Reads(Hook):
    """At which steps the processes read the values of their steps together."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.steps: set[int] = set()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        info = find_runtime_info(runner)
        self.steps |= {info.values.last_read} if info else set()


class Spoiled(Hook):
    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 3 and get_rank() == 1:
            data_batch["data_samples"][0] = float("nan")


def config(launcher: str, work_dir: str) -> Config:
    loader = dict(num_workers=0, dataset=dict(type="Points", length=30))
    count = int(os.environ.get("COUNT", 1))
    cfg = Config(
        dict(
            model=dict(type="Parts"),
            work_dir=work_dir,
            launcher=launcher,
            default_scope="mmengine",
            train_dataloader=loader
            | dict(batch_size=BATCH // count, sampler=dict(type="InfiniteSampler", shuffle=True)),
            val_dataloader=loader
            | dict(
                batch_size=2,
                sampler=dict(type="DefaultSampler", shuffle=False),
                dataset=dict(type="Points", length=7),
            ),
            train_cfg=dict(by_epoch=False, max_iters=STEPS, val_interval=STEPS),
            val_cfg=dict(),
            # Over the network, or through a folder that all share (mmengine's default).
            val_evaluator=dict(type="Seen", collect_device="gpu" if launcher == "mpi" else "cpu"),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01), clip_grad=dict(max_norm=1.0)),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=5)),
            randomness=dict(seed=0),
        )
    )
    install_hooks(cfg)
    adapt_to_launcher(cfg)
    return cfg


def check() -> list[str]:
    own = [f"error: file of process {get_rank()}"] if get_world_size() > 1 else []
    return ["error: bad.png: 77 is no label", *own]


def main() -> int | None:
    before = dict(os.environ)
    code = run()
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    changed = [name for name in names if before.get(name) != os.environ.get(name)]
    print("variables changed:", *changed)
    return code


def run() -> int | None:
    launcher, work_dir, *task = sys.argv[1:]
    cfg = config(launcher, work_dir)
    with process_group(cfg):
        if task == ["refuse"]:
            cfg.load_from = f"start{get_rank()}.pth"
            return print_errors(gather_errors(check) + differing_checkpoints(cfg))
        if task == ["later"]:
            cfg.default_hooks.runtime_info.interval = 6
            cfg.default_hooks.checkpoint.interval = STEPS
        if task == ["nan"]:
            cfg.default_hooks.runtime_info.interval = STEPS
        runner = Runner.from_cfg(cfg)
        if task == ["nan"]:
            runner.register_hook(Spoiled())
        elif task:
            runner.register_hook(Signalled(signal.SIGKILL if task == ["die"] else signal.SIGTERM))
        reads = Reads()
        runner.register_hook(reads)
        runner.train()
        scalars = runner.message_hub.log_scalars
        weights = {name: p.flatten().tolist() for name, p in runner.model.named_parameters()}
        weights = {name.removeprefix("module."): values for name, values in weights.items()}
        same = all_gather_object(weights)
        if is_main_process():
            losses = scalars["train/loss"].data[0].tolist()
            names = "count", "images", "sum"
            metrics = {name: scalars[f"val/{name}"].current() for name in names}
            found = dict(losses=losses, metrics=metrics, weights=weights, reads=[*reads.steps])
            print("found:", json.dumps(found | {"same": same[0] == same[-1]}))


if __name__ == "__main__":
    run_tool(main)
