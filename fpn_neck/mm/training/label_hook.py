"""Labels of a batch that are not a class, before the model gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from mmengine.runner import Runner
from torch import Tensor, nn

from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.sample_labels import LabelRule, check_sample, mark_checked, mmseg_classes
from fpn_neck.mm.training.restoring_hook import RestoringHook


@HOOKS.register_module()
class LabelHook(RestoringHook):
    """Stops a run at a label map with values that a head of the model does not know.

    The processes that load data check the labels, before these are on a GPU.
    `fpn_neck.FPNHead` and `fpn_neck.PanopticFPNHead` check again only what was not checked there.
    With mmseg's heads the loss ends in an index error, on a GPU in an assertion that kills the
    process.

    Raises:
        ValueError: names the label map's file, the value and the rule.
    """

    def before_train(self, runner: Runner) -> None:
        rules = {rule for module in runner.model.modules() if (rule := _rule(module))}
        padding = _padding(runner.model)
        marked = {
            (classes, ignored)
            for classes, ignored in rules
            if all(label == ignored or 0 <= label < classes for label in padding)
        }
        loader = runner.train_loop.dataloader
        self.replace(loader, "collate_fn", CheckedCollate(loader.collate_fn, rules, marked))


class CheckedCollate:
    """A loader's ``collate_fn`` that checks the samples' labels.

    Args:
        collate: the loader's own.
        rules: which the labels must follow.
        marked: those of them that nothing has to check again.
    """

    def __init__(
        self,
        collate: Callable[[Sequence[Any]], Any],
        rules: Iterable[LabelRule],
        marked: Iterable[LabelRule],
    ) -> None:
        self._collate, self._rules, self._marked = collate, tuple(rules), tuple(marked)

    def __call__(self, batch: Sequence[Any]) -> Any:
        for item in batch if self._rules else ():
            sample = item.get("data_samples") if isinstance(item, dict) else None
            labels = _labels(sample)
            if labels is not None:
                for rule in self._rules:
                    check_sample(sample, labels, *rule)
                mark_checked(sample, self._marked)
        return self._collate(batch)


def _labels(sample: Any) -> Tensor | None:
    """The label map of a sample: mmseg's, or mmdet's."""
    truth = getattr(sample, "gt_sem_seg", None)
    names = [name for name in ("data", "sem_seg") if truth is not None and name in truth]
    return getattr(truth, names[0]).long() if names else None


def _rule(module: nn.Module) -> LabelRule | None:
    """The rule of a head's labels; None if the module is no head for them, or of unknown rule."""
    if all(hasattr(module, name) for name in ("num_classes", "ignore_index", "out_channels")):
        return mmseg_classes(module), cast(int, module.ignore_index)
    return getattr(module, "label_rule", None)


def _padding(model: nn.Module) -> list[Any]:
    """Labels with which the model's preprocessor fills up smaller label maps."""
    names = ("seg_pad_val", "seg_pad_value")  # mmseg's, mmdet's
    return [getattr(m, name) for m in model.modules() for name in names if hasattr(m, name)]
