"""From command-line arguments to the config of a run: every change of it, in order."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from fpn_neck.mm.config.load import drop_pretraining, load_config
from fpn_neck.mm.config.sections import require
from fpn_neck.mm.config.tta import use_tta
from fpn_neck.mm.config.types import framework, type_class
from fpn_neck.mm.distributed.launch import adapt_to_launcher, use_device
from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.mm.training.install_hooks import install_hooks
from fpn_neck.mm.training.report_hooks import SummaryHook
from fpn_neck.utils.files import check_file, check_folder

_VALUES = 256  # of mmseg's label PNGs


def prepare_training(args: Namespace) -> Config:
    """The config of a training run.

    Args:
        args: of ``fpn-neck train``.

    Raises:
        FileNotFoundError, ValueError, ImportError, TypeError: see `load_config`; a flag has no
            place in this config or on this machine.
    """
    use_device(args.device, args.launcher)
    cfg = load_config(args.config, args.cfg_options)
    _set_launcher_and_work_dir(cfg, args)
    _replace_proposal_fast(cfg)
    if args.amp:
        _use_mixed_precision(cfg, args.amp)
    if args.auto_scale_lr:
        _scale_learning_rate(cfg)
    if args.resume is not None:
        _resume(cfg, args.resume, allow_mismatch=args.allow_mismatch)
    _add_summary(cfg)
    if args.tensorboard:
        _add_tensorboard(cfg)
    install_hooks(cfg, skip_nan=args.skip_nan)
    adapt_to_launcher(cfg)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """The runner that the config names; its parts are built, nothing has run."""
    return RUNNERS.build(cfg)


def check_model(model: Any, scope: str | None) -> None:
    """Refuse a model that would train without a word, and not on what its config means.

    Args:
        model: as the runner has built it.
        scope: 'mmseg' or 'mmdet'; nothing is known of others.

    Raises:
        ValueError: see `fpn_neck.mm.det.strides.check_prior_strides` and
            `fpn_neck.mm.seg.losses.check_decode_head`.
    """
    if scope == "mmdet":
        from fpn_neck.mm.det.strides import check_prior_strides  # each needs its framework

        check_prior_strides(model)
    elif scope == "mmseg":
        from fpn_neck.mm.seg.losses import check_decode_head

        check_decode_head(model)


def prepare_testing(args: Namespace) -> Config:
    """The config of an evaluation.

    Args:
        args: of ``fpn-neck test``.

    Raises:
        FileNotFoundError, ValueError, ImportError, TypeError: see `prepare_training`.
    """
    use_device(args.device, args.launcher)
    cfg = load_config(args.config, args.cfg_options)
    _set_launcher_and_work_dir(cfg, args)
    if not args.work_dir:  # mmengine writes the config there: the training's must stay
        cfg.work_dir = str(Path(cfg.work_dir) / "test")
    _replace_proposal_fast(cfg)
    # The config of a resumed run says so; EMAHook would go on with weights that are no average.
    cfg.load_from, cfg.resume = args.checkpoint, False
    drop_pretraining(cfg.get("model"))  # `before_run` refuses a config without one
    if args.show_dir:
        _paint(cfg, args.show_dir)
    if args.out:
        _add_output(cfg, args.out)
    if args.tta:
        use_tta(cfg)
    adapt_to_launcher(cfg)
    return cfg


def _set_launcher_and_work_dir(cfg: Config, args: Namespace) -> None:
    """The work dir is the flag's, else the config's, else ``work_dirs/<name of the config>``."""
    cfg.launcher = args.launcher
    if args.work_dir or not cfg.get("work_dir"):
        cfg.work_dir = args.work_dir or str(Path("work_dirs") / Path(args.config).stem)


def _replace_proposal_fast(cfg: Config) -> None:
    """mmdet's ``proposal_fast``, its RPNs' metric, fails with numpy 1.24 and later."""
    for name in ("val_evaluator", "test_evaluator"):
        for evaluator in _evaluators(cfg, name):
            if evaluator.get("metric") == "proposal_fast":
                evaluator["metric"] = "proposal"


def _evaluators(cfg: Config, name: str) -> list[dict]:
    given = cfg.get(name) or []
    return list(given) if isinstance(given, (list, tuple)) else [given]


# ---------------------------------------------------------------------------------------- training


def _use_mixed_precision(cfg: Config, amp: str | Literal[True]) -> None:
    require(cfg, "optim_wrapper")
    wrapper = mixed_precision(cfg.optim_wrapper, amp)
    if "dtype" in wrapper and get_device() == "cpu":
        raise ValueError(
            f"--amp {wrapper['dtype']}: mmengine's AmpOptimWrapper needs a GPU, and there is none; "
            "give --amp bfloat16, which runs on a CPU too"
        )
    cfg.optim_wrapper = wrapper


def mixed_precision(wrapper: Mapping[str, Any], amp: str | Literal[True]) -> dict[str, Any]:
    """The optimizer wrapper of ``--amp``.

    Args:
        wrapper: the config's ``optim_wrapper``.
        amp: 'float16', which scales the loss, 'bfloat16', which has the range of float32 and needs
            no scaling, or True: the wrapper's ``dtype`` if it has one, else float16.
    """
    dtype = (wrapper.get("dtype") or "float16") if amp is True else amp
    others = {k: v for k, v in wrapper.items() if k not in ("type", "dtype", "loss_scale")}
    if dtype == "bfloat16":
        return others | {"type": "fpn_neck.BFloat16OptimWrapper"}
    scale = wrapper.get("loss_scale", "dynamic")
    return others | {"type": "AmpOptimWrapper", "dtype": dtype, "loss_scale": scale}


def _scale_learning_rate(cfg: Config) -> None:
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise ValueError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
    cfg.auto_scale_lr.enable = True


def _resume(cfg: Config, resume: str, *, allow_mismatch: bool) -> None:
    """Where ``--resume`` goes on; `before_run` finds out whether that is possible."""
    if not resume.strip():
        raise ValueError(
            "--resume '' is empty (a variable that isn't set?): give a checkpoint, or --resume "
            "without a value for the last one in the work dir"
        )
    if allow_mismatch:
        raise ValueError(
            "--resume goes on with the state of the optimizer, which belongs to the same model: "
            "--allow-mismatch goes with --cfg-options load_from=FILE instead"
        )
    last = last_checkpoint(cfg.work_dir)
    if resume != "auto":
        cfg.resume, cfg.load_from = True, resume
    elif last or not cfg.get("load_from"):
        # mmengine finds the last one itself, but not in a work dir that was moved.
        cfg.resume, cfg.load_from = True, None
        if last and last != find_latest_checkpoint(cfg.work_dir):
            cfg.load_from = last
    # else there is no checkpoint yet, and the run starts from the config's weights


def _add_summary(cfg: Config) -> None:
    hooks, scope = cfg.get("custom_hooks") or [], cfg.get("default_scope")
    if not any(type_class(hook, HOOKS, scope) is SummaryHook for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type="fpn_neck.SummaryHook")]


def _add_tensorboard(cfg: Config) -> None:
    local = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
    cfg.visualizer = cfg.get("visualizer") or local
    others = cfg.visualizer.get("vis_backends") or []
    cfg.visualizer.vis_backends = [*others, dict(type="TensorboardVisBackend")]


# ----------------------------------------------------------------------------------------- testing


def _paint(cfg: Config, folder: str) -> None:
    """Let mmseg's or mmdet's visualization hook draw every photo."""
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if not hook or not cfg.get("visualizer"):
        raise ValueError("--show-dir needs visualizer and default_hooks.visualization")
    hook.update(draw=True, interval=1)
    cfg.visualizer.save_dir = folder


def _add_output(cfg: Config, out: str) -> None:
    require(cfg, "test_evaluator")
    evaluators = _evaluators(cfg, "test_evaluator")
    if framework(cfg) == "mmseg":
        check_folder(Path(out))
        evaluators[0]["output_dir"] = out
    elif not out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out {out}: mmdet's predictions go into a .pkl file")
    else:
        check_file(Path(out))
        evaluators.append(ConfigDict(type="DumpDetResults", out_file_path=out))
    cfg.test_evaluator = evaluators


def check_output(runner: Runner) -> None:
    """Refuse label PNGs that mmseg would spoil.

    mmseg names them by the photos' stems, and writes values of 8 bits.

    Raises:
        ValueError: names two photos of one stem, or the number of classes.
    """
    loop = runner.test_loop
    if not any(getattr(metric, "output_dir", None) for metric in loop.evaluator.metrics):
        return
    dataset, known = loop.dataloader.dataset, dict[str, str]()
    values = len(dataset.metainfo.get("classes") or ())
    values += bool(dataset.metainfo.get("reduce_zero_label"))
    if values > _VALUES:
        raise ValueError(
            f"--out: {values} labels do not fit into the 8 bits that mmseg writes; write the "
            "labels by predict, which takes 16 bits then"
        )
    for i in range(len(dataset)):
        path = dataset.get_data_info(i)["img_path"]
        other = known.setdefault(Path(path).stem, path)
        if other != path:
            raise ValueError(
                f"--out: {other} and {path} would both be written to {Path(path).stem}.png; "
                "rename one of them, or write the labels by predict, which makes names unique"
            )
