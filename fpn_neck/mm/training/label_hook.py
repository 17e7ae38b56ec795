"""Labels of a batch that are not a class, before the model gets them."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.sample_labels import check_sample, mmseg_classes


@HOOKS.register_module()
class LabelHook(Hook):
    """Stops a run at a label map with values that the model's mmseg head does not know.

    `fpn_neck.FPNHead` and `fpn_neck.PanopticFPNHead` check labels in their loss. With other heads
    the loss ends in an index error, on a GPU in an assertion that kills the process.

    Raises:
        ValueError: names the label map's file, the value and the rule.
    """

    def before_train(self, runner: Runner) -> None:
        self._label_rules = {  # (classes, label to ignore) of each head
            (mmseg_classes(head), head.ignore_index)
            for head in runner.model.modules()
            if all(hasattr(head, name) for name in ("num_classes", "ignore_index", "out_channels"))
            and not getattr(head, "checks_labels", False)
        }

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        samples = data_batch.get("data_samples", []) if isinstance(data_batch, dict) else []
        for sample in samples:
            truth = getattr(sample, "gt_sem_seg", None)
            if truth is None or "data" not in truth:
                continue
            for num_classes, ignore_index in self._label_rules:
                check_sample(sample, truth.data, num_classes, ignore_index)
