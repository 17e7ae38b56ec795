"""Checkpoints that stay whole at any moment, even if the run is killed."""

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
from fpn_neck.mm.training.runtime_info_hook import find_runtime_info
from fpn_neck.utils.files import remove_leftovers, write_whole

INTERRUPTED = "interrupted.pth"


@register_backend("whole")
class WholeFiles(LocalBackend):
    """Local files that are whole or missing; `sweep` deletes those that `remove` has marked."""

    def __init__(self) -> None:
        self._removed: list[str] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        try:
            write_whole(Path(filepath), lambda path: path.write_bytes(obj), sync=True)
        except OSError as e:
            raise OSError(
                f"checkpoint {filepath} can't be written ({e.strerror}); earlier ones are "
                "unchanged: free space or repair the folder, then continue with --resume"
            ) from e

    def remove(self, filepath: str | Path) -> None:
        self._removed.append(str(filepath))

    def sweep(self) -> None:
        for path in self._removed:
            Path(path).unlink(missing_ok=True)
        self._removed.clear()


@HOOKS.register_module()
class CheckpointHook(hooks.CheckpointHook):
    """``mmengine.CheckpointHook`` with its arguments and files; a kill loses no checkpoint.

    mmengine removes the old checkpoint, writes the new one under its final name, and empties
    ``last_checkpoint`` before it fills it. Here a checkpoint is written under another name, synced
    and renamed. ``last_checkpoint`` is written the same way, and old checkpoints are removed last.
    (mmengine's own way is kept for storage that it reaches over a network.)
    """

    backend_args: dict | None
    keep_ckpt_ids: deque[int]
    saved_iter: int | None = None  # number of iterations in the newest whole checkpoint
    _position: dict[str, int] = {}  # epoch and iteration of the checkpoint that is being saved

    def before_train(self, runner: Runner) -> None:
        folder = self.out_dir or runner.work_dir
        if type(get_file_backend(folder, backend_args=self.backend_args)) is LocalBackend:
            self.backend_args = {"backend": "whole"}
        super().before_train(runner)
        self._keep_best_of_others(runner)
        self._sweep()
        if is_main_process():
            for path in {Path(self.out_dir), Path(runner.work_dir)}:
                if path.is_dir():
                    remove_leftovers(path)
        if runner.iter:
            self.saved_iter = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save accumulated gradients too; they are None after an update."""
        super().before_save_checkpoint(runner, checkpoint)
        checkpoint["meta"]["optimizers"] = optimizer_kinds(runner.optim_wrapper)
        checkpoint["meta"].update(self._position)  # FlexibleRunner's own count may be one too high
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
        """Save ``interrupted.pth``, from which ``--resume`` continues, even inside an epoch.

        The next regular checkpoint replaces it.

        Args:
            iteration: number of iterations that the weights were trained for.
        """
        self._save(runner, INTERRUPTED, {"epoch": runner.epoch, "iter": iteration}, by_epoch=False)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self.max_keep_ckpts > 0:
            # The oldest one included: if this run is killed now, the resumed run removes it.
            self.keep_ckpt_ids = deque(dict.fromkeys([*self.keep_ckpt_ids, step]))
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        self._save(runner, self.filename_tmpl.format(step), meta, by_epoch=self.by_epoch)
        outdated = [INTERRUPTED]
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
        for name in outdated:
            path = self.file_backend.join_path(self.out_dir, name)
            if is_main_process() and self.file_backend.isfile(path):
                self.file_backend.remove(path)
        self._sweep()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        for name in self.save_best or ():
            if name not in {*metrics, "auto"}:
                raise ValueError(
                    f"config: default_hooks.checkpoint.save_best={name!r}: the validation gives "
                    f"{', '.join(metrics)}: take one of these"
                )
        super()._save_best_checkpoint(runner, metrics)
        self._sweep()

    def _save(self, runner: Runner, name: str, meta: dict, by_epoch: bool) -> None:
        info = find_runtime_info(runner)
        if info:
            info.read(runner)  # a step that was not finite ends the run here, in all processes
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

    def _keep_best_of_others(self, runner: Runner) -> None:
        """Do not remove the best checkpoint of another run's folder, from which this run resumed.

        mmengine would remove it when a better one is saved. A best checkpoint that is missing is
        looked for in this run's folder, which may have been moved; else it is forgotten with its
        score.
        """
        hub = runner.message_hub
        for key in [key for key in hub.runtime_info if key.startswith("best_ckpt")]:
            path = all_gather_object(self._find(hub.get_info(key)))[0]  # the same in all processes
            if path:
                hub.update_info(key, path)
            else:
                hub.pop_info(key)
                hub.pop_info(key.replace("best_ckpt", "best_score"))
        if hasattr(self, "best_ckpt_path"):
            self.best_ckpt_path = self._if_in_this_run(hub.get_info("best_ckpt"))
        for name in getattr(self, "best_ckpt_path_dict", {}):
            self.best_ckpt_path_dict[name] = self._if_in_this_run(hub.get_info(f"best_ckpt_{name}"))

    def _find(self, path: str) -> str | None:
        paths = (path, self._in_this_run(path))
        return next((p for p in paths if self.file_backend.exists(p)), None)

    def _if_in_this_run(self, path: str | None) -> str | None:
        return path if path and realpath(path) == realpath(self._in_this_run(path)) else None

    def _in_this_run(self, path: str) -> str:
        """The file of that name in this run's folder."""
        return self.file_backend.join_path(self.out_dir, Path(path).name)

    def _sweep(self) -> None:
        if isinstance(self.file_backend, WholeFiles):
            self.file_backend.sweep()
