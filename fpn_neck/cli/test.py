"""Evaluate a checkpoint of any mmseg or mmdet config: tools/test.py CONFIG CHECKPOINT."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from copy import deepcopy

from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS

from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.arguments import add_common_arguments, add_mismatch_argument
from fpn_neck.mm.config.data_sources import check_data
from fpn_neck.mm.config.explain_build import building
from fpn_neck.mm.config.explain_memory import memory_advice
from fpn_neck.mm.config.load import drop_pretraining, resolve_config
from fpn_neck.mm.distributed.launch import adapt_to_launcher, process_group
from fpn_neck.mm.training.checkpoint_guard import guard_checkpoints
from fpn_neck.weights.checkpoints import load_checkpoint


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", help="mmseg: folder of label PNGs; mmdet: .pkl of predictions")
    parser.add_argument("--show-dir", help="folder for painted pictures")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    add_mismatch_argument(parser)
    return parser.parse_args()


def apply_flags(cfg: Config, args: Namespace) -> None:
    load_checkpoint(args.checkpoint)  # refuses what mmengine would stumble over, with the reason
    cfg.load_from = args.checkpoint
    drop_pretraining(cfg.model)
    if args.show_dir:
        cfg.default_hooks.visualization.update(draw=True, interval=1)
        cfg.visualizer.save_dir = args.show_dir
    if args.out:
        cfg.test_evaluator = _with_output(cfg, args.out)
    if args.tta:
        _use_tta(cfg)


def _with_output(cfg: Config, out: str):
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    if cfg.default_scope == "mmseg":
        evaluators[0].output_dir = out
        return evaluators
    if not out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out {out}: mmdet's predictions go into a .pkl file")
    return [*evaluators, ConfigDict(type="DumpDetResults", out_file_path=out)]


def _use_tta(cfg: Config) -> None:
    """mmseg's and mmdet's way: a model that merges the predictions of an augmented pipeline."""
    if "tta_pipeline" not in cfg or "tta_model" not in cfg:
        raise ValueError("--tta needs tta_model and tta_pipeline in the config")
    if cfg.default_scope == "mmseg":  # its TTA model averages logits
        cfg.model.setdefault("test_cfg", ConfigDict()).keep_logits = True
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = deepcopy(cfg.tta_pipeline)


def main() -> None:
    args = parse_args()
    read_urls_safely()
    cfg = resolve_config(args)
    check_data(cfg, "test")
    apply_flags(cfg, args)
    adapt_to_launcher(cfg)
    with process_group(cfg), building(cfg), memory_advice(cfg):
        runner = RUNNERS.build(cfg)
        guard_checkpoints(runner, allow_mismatch=args.allow_mismatch)
        runner.test()
