"""Losses of all processes in the log."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from fpn_neck.mm.registry import HOOKS


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Logs the mean loss of all processes, which is that of the whole batch.

    mmengine logs the loss of the first process.
    """

    priority = "HIGHEST"  # before the hook that logs the losses

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if not outputs:
            return  # a dropped batch
        losses = all_gather_object({name: value.mean().item() for name, value in outputs.items()})
        for name, value in outputs.items():
            found = [of_process[name] for of_process in losses if name in of_process]
            outputs[name] = torch.full_like(value, sum(found) / len(found))
