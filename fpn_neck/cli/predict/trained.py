"""Predicting with a checkpoint, or with a segmenter's folder."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fpn_neck.cli.predict.run import write_results
from fpn_neck.mm.checkpoint_reader import read_urls_safely
from fpn_neck.mm.predict.load import EXPORTED, load, refuse_exported
from fpn_neck.models.pretrained import is_pretrained
from fpn_neck.utils.results.predictor import Predictor
from fpn_neck.utils.values import check_whole
from fpn_neck.weights.checkpoints import CONFIG_SUFFIXES
from fpn_neck.weights.released import released_model

if TYPE_CHECKING:
    from fpn_neck.mm.det.predictor import ProposalSource

_CHECKPOINTS = {".pth", ".pt", ".ckpt", ".pkl", ".safetensors"}
_MAGIC = b"PK", b"\x80"  # of torch's files: a zip file, and the pickles of old versions


def name_parts(args: Namespace) -> None:
    """Set ``config``, ``checkpoint`` and ``images`` from the words of ``model``.

    Raises:
        ValueError: no photo is named.
    """
    first = args.model[0]
    has_config = "::" in first or Path(first).suffix in CONFIG_SUFFIXES
    args.config = args.model.pop(0) if has_config else None
    if not has_config and not _is_model(first):
        args.model.insert(0, str(released_model()))
    if len(args.model) < 2:
        raise ValueError("give photos: [[CONFIG] MODEL] IMAGES...")
    args.checkpoint, *args.images = args.model


def _is_model(name: str) -> bool:
    """A checkpoint, by its suffix or its first bytes, or a segmenter's folder; else photos."""
    path = Path(name)
    if path.suffix.lower() in (*_CHECKPOINTS, *EXPORTED) or is_pretrained(name):
        return True
    if (path / "last_checkpoint").is_file():
        raise ValueError(f"{name} is the folder of a training: name a checkpoint in it")
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2).startswith(_MAGIC)


def load_predictor(args: Namespace) -> Predictor:
    """The predictor of the model that is named."""
    if not args.config and is_pretrained(args.checkpoint):
        if args.proposals or args.rpn or args.cfg_options or args.allow_mismatch:
            is_default = args.checkpoint == str(released_model())
            name = "the package's model" if is_default else args.checkpoint
            raise ValueError(
                f"{name} is a segmenter's folder: --proposals, --rpn, --cfg-options and "
                "--allow-mismatch are for checkpoints of mmseg and mmdet"
            )
        return load(args.checkpoint, device=args.device, tta=args.tta)
    refuse_exported(args.checkpoint)
    from fpn_neck.mm.predict.build import build_predictor  # it needs OpenMMLab

    read_urls_safely()
    return build_predictor(
        args.checkpoint,
        args.config,
        args.device,
        options=args.cfg_options,
        allow_mismatch=args.allow_mismatch,
        proposals=make_proposals(args) if args.proposals or args.rpn else None,
        score_thr=args.score_thr,
        tta=args.tta,
    )


def make_proposals(args: Namespace) -> Callable[[], ProposalSource]:
    """What makes the source of Fast R-CNN's boxes, once the config is known to be mmdet's."""

    def make() -> ProposalSource:
        from fpn_neck.mm.det.predictor import proposals_of_file, proposals_of_rpn

        if args.proposals:
            return proposals_of_file(args.proposals)
        from fpn_neck.mm.config.load import load_config

        config, checkpoint = args.rpn
        return proposals_of_rpn(load_config(config), checkpoint, args.device)

    return make


def run(args: Namespace) -> int:
    """Predict with the model that is named, or with the package's; the exit code."""
    name_parts(args)
    batch = check_whole("--batch", args.batch, 1)
    return write_results(args, lambda: load_predictor(args), batch=batch)
