"""What is written under other names, and the account of it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fpn_neck.cli.convert import SEGMENTER
from fpn_neck.utils.command_line import print_json, stdout_for_programs
from fpn_neck.utils.files import write_whole
from fpn_neck.weights.checkpoints import counts_by_part, find_state_dict, load_checkpoint
from fpn_neck.weights.conversion import Conversion, convert
from fpn_neck.weights.conversion_notes import notes

MM = ("mmdet", "mmseg")
META = ("dataset_meta", "CLASSES", "PALETTE")  # as mm 3 and 1, and earlier ones, write it


def print_account(conversion: Conversion, advice: Iterable[str]) -> None:
    """Print every key under its heading, with the number of keys in each part of the model, then
    the options that weights do not show."""
    texts = list(advice)
    accounts = {
        "mapped": [f"{a} -> {b}" for a, b in conversion.mapped.items()],
        "ignored": conversion.ignored,
        "unmapped": [f"{name}: {reason}" for name, reason in conversion.unmapped.items()],
        "missing": [f"{name}: {reason}" for name, reason in conversion.missing.items()],
    }
    for heading, lines in accounts.items():
        print(f"{heading}: {len(lines)}{counts_by_part(lines)}", *lines, sep="\n  ")
    print(f"to set or check: {len(texts)}", *texts, sep="\n  ")


def check_equal(conversion: Conversion) -> None:
    """Refuse a conversion that cannot give an equal model.

    Raises:
        ValueError: keys are unmapped or missing.
    """
    findings = [
        f"{len(keys)} keys {what}, e.g. {name} ({reason})"
        for what, keys in (("unmapped", conversion.unmapped), ("missing", conversion.missing))
        for name, reason in list(keys.items())[:1]
    ]
    if findings:
        raise ValueError(
            f"{'; '.join(findings)}: the result would not be equal, nothing is written; "
            "--allow-unmapped leaves these keys out"
        )


def check_output(output: Path, source: Path) -> None:
    if output.suffix not in (".pth", ".pt"):
        raise ValueError(f"OUT {output}: torch.save writes it; use the suffix .pth or .pt")
    if output.is_dir() or output.resolve() == source.resolve():
        raise ValueError(f"OUT {output} is a folder or IN itself; choose another name")


def checkpoint_of(state_dict: dict[str, Any], target: str, meta: Mapping[str, Any]) -> dict:
    """The content of the file, as the target library loads it."""
    if target in MM:
        return {"state_dict": state_dict, "meta": dict(meta)}
    return {"model": state_dict} if target == "detectron2" else state_dict


def kept_meta(checkpoint: Any, source: str) -> dict[str, Any]:
    """Class names and palette, if the checkpoint is one of mmdet or mmseg."""
    meta = checkpoint.get("meta") if source in MM and isinstance(checkpoint, Mapping) else None
    return {k: meta[k] for k in META if k in meta} if isinstance(meta, Mapping) else {}


def convert_segmenter(args: Namespace) -> Conversion:
    """From a checkpoint of mmseg to a segmenter's folder, or back."""
    if {args.source, args.target} != {"mmseg", SEGMENTER}:
        raise ValueError(
            f"from {args.source} to {args.target}: a {SEGMENTER} comes from mmseg or becomes mmseg"
        )
    if args.norm or args.allow_unmapped:
        raise ValueError(f"--norm and --allow-unmapped don't go with a {SEGMENTER}: leave them out")
    from fpn_neck.mm.seg import pretrained  # mmseg takes seconds

    if args.target == SEGMENTER:
        return pretrained.to_segmenter(
            args.input, args.output, config=args.config, float16=args.float16
        )
    return pretrained.to_mmseg(args.input, args.output)


def convert_library(args: Namespace) -> tuple[Conversion, list[str]]:
    """From one library's names to another's; the conversion, and the options to set or check."""
    checkpoint = load_checkpoint(args.input)
    weights = find_state_dict(checkpoint)
    conversion = convert(weights, args.source, args.target, norm=args.norm)
    advice = list(notes(conversion, args.source, args.target))
    with stdout_for_programs(args.json):
        print_account(conversion, advice)
    if not args.allow_unmapped:
        check_equal(conversion)
    content = checkpoint_of(conversion.state_dict, args.target, kept_meta(checkpoint, args.source))
    write_whole(args.output, partial(torch.save, content))
    return conversion, advice


def run(args: Namespace) -> None:
    """Rename the weights, and say what became of every key."""
    if args.target != SEGMENTER:
        check_output(args.output, args.input)
        if args.config or args.float16:
            raise ValueError(f"--config and --float16 go with --to {SEGMENTER}: leave them out")
    if SEGMENTER in (args.source, args.target):
        with stdout_for_programs(args.json):
            conversion, advice = convert_segmenter(args), list[str]()
    else:
        conversion, advice = convert_library(args)
    if args.json:
        print_json(account(conversion, advice) | {"written": str(args.output)})
    else:
        print(f"{len(conversion.state_dict)} keys written: {args.output}")


def account(conversion: Conversion, advice: list[str]) -> dict[str, Any]:
    """Every key, as plain data."""
    return {
        "mapped": conversion.mapped,
        "ignored": conversion.ignored,
        "unmapped": conversion.unmapped,
        "missing": conversion.missing,
        "advice": advice,
    }
