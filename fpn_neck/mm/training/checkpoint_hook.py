"""Checkpoints that are whole at any moment, whatever kills the run."""

from __future__ import annotations

from collections import deque
from os.path import realpath
from pathlib import Path

from mmengine import hooks
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.runner import Runner

from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.training.resuming import optimizer_kinds
from fpn_neck.utils.files import remove_leftovers, write_whole

INTERRUPTED = "interrupted.pth"


@register_backend("whole")
class WholeFiles(LocalBackend):
    """Local files that are whole or not there; what is removed stays until `sweep`."""

    def __init__(self) -> None:
        self._old: list[str] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        try:
            write_whole(Path(filepath), lambda path: path.write_bytes(obj), sync=True)
        except OSError as e:
            raise OSError(
                f"checkpoint {filepath} can't be written ({e.strerror}); earlier ones are as they "
                "were: make room or mend the folder, then go on with --resume"
            ) from e

    def remove(self, filepath: str | Path) -> None:
        self._old.append(str(filepath))

    def sweep(self) -> None:
        for path in self._old:
            Path(path).unlink(missing_ok=True)
        self._old.clear()


@HOOKS.register_module()
class CheckpointHook(hooks.CheckpointHook):
    """``mmengine.CheckpointHook``, its arguments and files; a kill at any moment loses none.

    mmengine removes the old checkpoint, writes the new one under its final name, and empties
    ``last_checkpoint`` before it fills it. Here a checkpoint is written under another name, synced
    and renamed, ``last_checkpoint`` likewise, and only then are old ones removed.
    (Storage that mmengine reaches over a network is written in mmengine's way.)
    """

    saved_iter: int | None = None  # iterations behind the newest whole checkpoint
    _position: dict[str, int] = {}  # of the one that is being saved

    def before_train(self, runner: Runner) -> None:
        folder = self.out_dir or runner.work_dir
        if type(get_file_backend(folder, backend_args=self.backend_args)) is LocalBackend:
            self.backend_args = {"backend": "whole"}
        super().before_train(runner)
        self._own_best(runner)
        self._sweep()
        if is_main_process():
            for path in {Path(self.out_dir), Path(runner.work_dir)}:
                if path.is_dir():
                    remove_leftovers(path)
        if runner.iter:
            self.saved_iter = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the gradients that steps have accumulated, which are None after an update."""
        super().before_save_checkpoint(runner, checkpoint)
        checkpoint["meta"]["optimizers"] = optimizer_kinds(runner.optim_wrapper)
        checkpoint["meta"].update(self._position)  # FlexibleRunner counts one too many at times
        parameters = runner.model.named_parameters()
        gradients = {name: p.grad for name, p in parameters if p.grad is not None}
        if self.save_optimizer and get_world_size() == 1 and gradients:
            checkpoint["gradients"] = gradients

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        super().after_load_checkpoint(runner, checkpoint)
        gradients = checkpoint.get("gradients", {}) if runner.cfg.get("resume") else {}
        for name, p in runner.model.named_parameters():
            if name in gradients:
                p.grad = gradients[name].to(p.device)

    def save_now(self, runner: Runner, iteration: int) -> None:
        """Save ``interrupted.pth``, from which ``--resume`` goes on, in mid-epoch too.

        The next regular checkpoint takes its place.

        Args:
            iteration: how many are behind the weights.
        """
        self._save(runner, INTERRUPTED, {"epoch": runner.epoch, "iter": iteration}, by_epoch=False)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self.max_keep_ckpts > 0:
            # With the one to remove: should this run be killed before, a resumed one does it.
            self.keep_ckpt_ids = deque(dict.fromkeys([*self.keep_ckpt_ids, step]))
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        self._save(runner, self.filename_tmpl.format(step), meta, by_epoch=self.by_epoch)
        old = [INTERRUPTED]
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            old.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
        for name in old:
            path = self.file_backend.join_path(self.out_dir, name)
            if is_main_process() and self.file_backend.isfile(path):
                self.file_backend.remove(path)
        self._sweep()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._sweep()

    def _save(self, runner: Runner, name: str, meta: dict, by_epoch: bool) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        self._position = dict(meta)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        position, self._position = self._position, {}
        if is_main_process():
            pointer = Path(runner.work_dir) / "last_checkpoint"
            write_whole(pointer, lambda path: path.write_text(self.last_ckpt), sync=True)
        self.saved_iter = position["iter"]

    def _own_best(self, runner: Runner) -> None:
        """Leave alone the best checkpoint of the run in another folder that this one goes on from.

        mmengine would remove it at the first better one. One that isn't there any more is looked
        for in this run's folder, which may have been moved, else forgotten with its score.
        """
        hub = runner.message_hub
        for key in [key for key in hub.runtime_info if key.startswith("best_ckpt")]:
            path = all_gather_object(self._find(hub.get_info(key)))[0]  # all save at one score
            if path:
                hub.update_info(key, path)
            else:
                hub.pop_info(key)
                hub.pop_info(key.replace("best_ckpt", "best_score"))
        if hasattr(self, "best_ckpt_path"):
            self.best_ckpt_path = self._if_own(hub.get_info("best_ckpt"))
        for name in getattr(self, "best_ckpt_path_dict", {}):
            self.best_ckpt_path_dict[name] = self._if_own(hub.get_info(f"best_ckpt_{name}"))

    def _find(self, path: str) -> str | None:
        there = [p for p in (path, self._beside(path)) if self.file_backend.exists(p)]
        return there[0] if there else None

    def _if_own(self, path: str | None) -> str | None:
        return path if path and realpath(path) == realpath(self._beside(path)) else None

    def _beside(self, path: str) -> str:
        """Of that name in this run's folder."""
        return self.file_backend.join_path(self.out_dir, Path(path).name)

    def _sweep(self) -> None:
        if isinstance(self.file_backend, WholeFiles):
            self.file_backend.sweep()
