"""Validations that a crash cut off."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from fpn_neck.mm.registry import HOOKS


@HOOKS.register_module()
class ValidationHook(Hook):
    """Validates first, if that was due when the checkpoint of a resumed run was saved.

    mmengine saves before it validates and goes on with the next iteration after resuming. The best
    checkpoint could be missed, and a run that was stopped at its last iteration had no result.
    """

    priority = "LOWEST"  # when all else is ready for training

    def before_val(self, runner: Runner) -> None:
        # Every checkpoint that is saved after this validation holds it.
        runner.message_hub.update_info("validated", runner.iter)

    def before_train(self, runner: Runner) -> None:
        if runner.iter and runner.val_loop is not None and self._is_missing(runner):
            runner.logger.info(f"making up for the validation at iteration {runner.iter}")
            runner.val_loop.run()

    def _is_missing(self, runner: Runner) -> bool:
        loop = runner.train_loop
        if runner.message_hub.get_info("validated") == loop.iter:
            return False
        loop._decide_current_val_interval()
        done, last = loop.iter, loop.max_iters
        if not isinstance(loop, IterBasedTrainLoop):
            if runner.message_hub.get_info("epoch_begin", [None])[0] == loop.epoch:
                return False  # the checkpoint is from the middle of an epoch
            done, last = loop.epoch, loop.max_epochs
        return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)
