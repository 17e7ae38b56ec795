"""The examination, and its report."""

from __future__ import annotations

import io
import shutil
import sys
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

from fpn_neck.cli.doctor.environment import INSTALL_MM, examine_environment, installed
from fpn_neck.cli.doctor.section import Problem, Section
from fpn_neck.cli.doctor.serve_operators import serve_operators
from fpn_neck.utils.command_line import print_json, size_argument
from fpn_neck.utils.text import one_line


def diagnose(
    config: str | None = None,
    size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Section]:
    """Examine the installed packages and, if there is one, a config.

    Args:
        config: a file, or one of an installed package: ``mmdet::path``.
        size: (height, width) in px of the images in the pyramid table; None: the config's.
        options: settings of the config to override.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or is not a config.
    """
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # other packages print
        warnings.simplefilter("ignore")
        sections = examine_environment()
        if config:
            sections += _examine_config(config, size, options)
    return sections


def _examine_config(
    name: str, size: tuple[int, int] | None, options: Mapping[str, Any] | None
) -> list[Section]:
    """See `config.examine_config`; without mmengine and the packages it needs, a problem."""
    try:
        from fpn_neck.cli.doctor.config import examine_config
    except Exception as e:  # other packages fail with any exception
        why = one_line(e, with_type=True) if installed("mmengine") else "mmengine is missing"
        return [
            Section(
                f"config {name}", problems=[Problem(f"{name} can't be read: {why}", INSTALL_MM)]
            )
        ]
    return examine_config(name, size, options)


def print_report(sections: Sequence[Section]) -> None:
    """All sections, then every problem with its remedy."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for section in sections:
        if section.rows:
            print(section.text(width), end="\n\n")
    problems = [problem for section in sections for problem in section.problems]
    if not problems:
        print("nothing is wrong")
        return
    print("what is wrong")
    for number, (what, remedy) in enumerate(problems, 1):
        print(f"  {number}. {what}\n     remedy: {remedy}")


def run(args: Namespace) -> int:
    """Examine, and report; the exit code."""
    if args.serve_ops:
        print(serve_operators(args.serve_ops == "on"))
        return 0
    size = size_argument(args.size) if args.size else None
    sections = diagnose(args.config, size, args.cfg_options)
    if args.json:
        print_json({"sections": [section.as_dict() for section in sections]})
    else:
        print_report(sections)
    return int(any(section.problems for section in sections))
