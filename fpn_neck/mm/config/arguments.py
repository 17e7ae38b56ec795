"""The command-line arguments that mm users know."""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser, Namespace
from typing import Any

from fpn_neck.utils.command_line import add_device_argument

_DICT = re.compile(r"(^|[\[(,])(dict\(|\{[^,]*:)")


class Options(Action):
    """mmengine's DictAction, with messages for what it can't read.

    mmengine is imported when an option is given: a parser needs it only then.

    Raises:
        ValueError: an option without "=" is parsed; a value is a dict, or its brackets don't match.
    """

    def __call__(self, parser: ArgumentParser, args: Namespace, values: Any, *rest: Any) -> None:
        from mmengine.config import DictAction

        for text in values:
            if "=" not in text:
                raise ValueError(f"--cfg-options {text}: expected KEY=VALUE, without spaces")
            _check_value(*text.split("=", 1))
        DictAction(self.option_strings, self.dest, self.nargs)(parser, args, values, *rest)


def _check_value(key: str, value: str) -> None:
    """Refuse what mmengine would take for a text, or read without an end."""
    option, bare = f"--cfg-options {key}={value}", value.strip("'\"").replace(" ", "")
    if _DICT.search(bare):
        raise ValueError(
            f"{option}: a dict can't be given here: give each of its settings, such as "
            f"{key}.type=NAME {key}.size=3, or write a config with _base_"
        )
    from mmengine.config import DictAction

    try:
        parsed = DictAction._parse_iterable(value)
    except (AssertionError, RecursionError, IndexError):
        parsed = bare
    if parsed == bare and bare[:1] in ("[", "(") or parsed is bare and "," in bare:
        raise ValueError(
            f"{option}: expected a number, a text, or a list such as [1,2] or [[1,2],[3,4]] "
            "whose brackets match"
        )


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
        "--work-dir",
        help="logs and checkpoints; default: the config's, or work_dirs/<config>; for test the "
        "folder test in it",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=Options,
        metavar="KEY=VALUE",
        help="override settings, e.g. model.neck.out_channels=128",
    )
    add_device_argument(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)  # set by launchers
