"""The command-line arguments that mm users know."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from mmengine.config import DictAction


class Options(DictAction):
    """mmengine's, with a message for an option without a value.

    Raises:
        ValueError: an option without "=" is parsed.
    """

    def __call__(self, parser: ArgumentParser, args: Namespace, values: Any, *rest: Any) -> None:
        for text in values:
            if "=" not in text:
                raise ValueError(f"--cfg-options {text}: expected KEY=VALUE, without spaces")
        super().__call__(parser, args, values, *rest)


def add_mismatch_argument(parser: ArgumentParser) -> None:
    """For the tools that load a checkpoint into a config's model."""
    parser.add_argument(
        "--allow-mismatch",
        action="store_true",
        help="if the checkpoint is of another model, load the tensors that fit and name the others",
    )


def add_common_arguments(parser: ArgumentParser) -> None:
    """The arguments that mm users know from both train.py and test.py."""
    parser.add_argument("config", help="config file, or one of an installed package: mmdet::path")
    parser.add_argument(
        "--work-dir", help="logs and checkpoints; default: the config's, or work_dirs/<config>"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=Options,
        metavar="KEY=VALUE",
        help="override settings, e.g. model.neck.out_channels=128",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)  # set by launchers
