"""python -m fpn_neck doctor: what is installed, what a config makes of it, and what is wrong."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout

from fpn_neck.cli.doctor.environment import examine_environment
from fpn_neck.cli.doctor.section import Section


def diagnose(config: str | None = None, size: tuple[int, int] | None = None) -> list[Section]:
    """Examine the installed packages and, if there is one, a config.

    Args:
        config: a file, or one of an installed package: ``mmdet::path``.
        size: (height, width) in px of the images in the pyramid table; None: the config's.

    Raises:
        FileNotFoundError, ValueError: there is no such config, or it is none.
    """
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # what others say meanwhile
        warnings.simplefilter("ignore")
        sections = examine_environment()
        if config:
            from fpn_neck.cli.doctor.config import examine_config

            sections += examine_config(config, size)
    return sections


def print_report(sections: Sequence[Section]) -> None:
    """All sections, then every problem with its remedy."""
    for section in sections:
        if section.rows:
            print(section.text(), end="\n\n")
    problems = [problem for section in sections for problem in section.problems]
    if not problems:
        print("nothing is wrong")
        return
    print("what is wrong")
    for number, (what, remedy) in enumerate(problems, 1):
        print(f"  {number}. {what}\n     remedy: {remedy}")
