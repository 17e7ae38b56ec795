"""The evaluation that a report is about, and its page."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from fpn_neck.mm.before_run import refusals
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.config.types import framework
from fpn_neck.mm.curves import read_scalars
from fpn_neck.mm.explain import explained
from fpn_neck.mm.last_checkpoint import last_checkpoint
from fpn_neck.mm.prepare import build_runner, prepare_testing
from fpn_neck.mm.training.batches import check_batches
from fpn_neck.mm.training.checkpoint_guard import guard_checkpoints
from fpn_neck.utils.files import check_file, write_text


def find_config(work_dir: Path) -> str:
    """The config that mmengine wrote into a work dir.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: it has no config, or several.
    """
    if not work_dir.is_dir():
        raise FileNotFoundError(f"work dir {work_dir}: no such folder")
    files = sorted(work_dir.glob("*.py"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{work_dir} must hold one config, and holds {names}: give --config FILE")
    return str(files[0])


def find_checkpoint(work_dir: Path) -> str:
    """The newest ``best_*.pth`` of a work folder, else its last checkpoint.

    Raises:
        ValueError: there is none.
    """
    best = sorted(work_dir.glob("best_*.pth"), key=lambda file: file.stat().st_mtime)
    found = str(best[-1]) if best else last_checkpoint(work_dir)
    if not found:
        raise ValueError(f"{work_dir} holds no checkpoint: give --checkpoint FILE")
    return found


def run(args: Namespace) -> None:
    """Evaluate the checkpoint, and write the page."""
    if args.photos < 0:
        raise ValueError(f"--photos {args.photos}: must be 0 or more")
    config = args.config or find_config(args.work_dir)
    checkpoint = args.checkpoint or find_checkpoint(args.work_dir)
    out = args.out or args.work_dir / "report.html"
    check_file(out)
    read_urls_safely()
    cfg = prepare_testing(
        Namespace(
            config=config,
            checkpoint=checkpoint,
            cfg_options=args.cfg_options,
            work_dir=str(args.work_dir / "report"),  # its logs; those of the training stay
            launcher="none",
            device="auto",
            show_dir=None,
            out=None,
            tta=False,
        )
    )
    if framework(cfg) != "mmseg":
        raise ValueError(f"{config}: default_scope must be mmseg: a report is about a segmenter")
    from fpn_neck.mm.seg.report.evaluation_hook import EvaluationHook
    from fpn_neck.mm.seg.report.page import report_page

    refusals(cfg, config, "test", files=False)
    found = EvaluationHook(args.photos)
    with explained(cfg, "test") as step:
        runner = build_runner(cfg)
        for hook in (step, found):
            runner.register_hook(hook)
        check_batches(runner, "test")
        guard_checkpoints(runner, "test")
        runner.test()
    count = len(runner.test_loop.dataloader.dataset)
    page = report_page(
        found, read_scalars(args.work_dir), Path(config).stem, Path(checkpoint).name, count
    )
    write_text(out, page)
    print(out)
