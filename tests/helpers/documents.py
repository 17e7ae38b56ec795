"""The Python code in README.md and docs/."""

from __future__ import annotations

import re
from typing import NamedTuple

from helpers.project import PROJECT


class CodeBlock(NamedTuple):
    """A block between ```python and ```; ``place`` is file and line."""

    place: str
    code: str


def python_blocks() -> list[CodeBlock]:
    """All of README.md and docs/, in their order."""
    blocks = []
    for path in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))):
        text = path.read_text()
        for found in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
            line = text.count("\n", 0, found.start(1)) + 1
            blocks.append(CodeBlock(f"{path.name}:{line}", found[1]))
    return blocks


def python_blocks_with(word: str) -> list[str]:
    """The code of all blocks that contain ``word``; one or more."""
    codes = [block.code for block in python_blocks() if word in block.code]
    assert codes, f"no code block has {word!r}"
    return codes
