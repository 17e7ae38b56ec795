"""List the configs that come with the package."""

from __future__ import annotations

from pathlib import Path

import fpn_neck
from fpn_neck.utils.command_line import add_json_argument, command_parser, print_json

CONFIGS = Path(fpn_neck.__file__).parent / ".mim/configs"
_EPILOG = """\
Every command that takes a config takes these names, and your config can inherit from one:
_base_ = 'fpn_neck::segmentation/fpn_lite0_demo_shapes-256x320.py'.
"""


def main() -> None:
    parser = command_parser(__doc__, _EPILOG)
    add_json_argument(parser, "the names")
    if parser.parse_args().json:
        print_json({"configs": config_names()})
        return
    for name in config_names():
        print(name)


def config_names() -> list[str]:
    """``fpn_neck::folder/file.py`` of every config that can be run."""
    found = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.py"))
    return sorted(f"fpn_neck::{path.as_posix()}" for path in found if path.parts[0] != "_base_")
