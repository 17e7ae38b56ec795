"""The code blocks of the READMEs and the pages in docs/.

A block that begins with ```bash or ```python runs, unless the comment in the line before says:

    <!-- slow -->              minutes
    <!-- not run: FILE ... --> it installs packages or needs a clone; these files do what it does

A block of another kind is shown only, such as the synopsis of a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.project import PROJECT

BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)


class CodeBlock(NamedTuple):
    """A block between ```language and ```; ``place`` is file and line, ``note`` its comment."""

    place: str
    language: str
    code: str
    note: str

    @property
    def runs(self) -> bool:
        return self.language in ("bash", "python") and not self.note.startswith("not run: ")

    @property
    def is_slow(self) -> bool:
        return self.note == "slow"


def documents() -> list[Path]:
    """The READMEs, and all pages of docs/."""
    return [*sorted(PROJECT.glob("README*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]


def blocks_of(path: Path) -> list[CodeBlock]:
    """All code blocks of a document, in their order."""
    text = path.read_text()
    return [
        CodeBlock(
            f"{path.relative_to(PROJECT)}:{text.count(chr(10), 0, found.start('code'))}",
            found["language"],
            found["code"],
            found["note"] or "",
        )
        for found in BLOCK.finditer(text)
    ]


def python_blocks_with(word: str) -> list[str]:
    """The code of all Python blocks that contain ``word``, each once; one or more."""
    codes = dict.fromkeys(block.code for block in _python_blocks() if word in block.code)
    assert codes, f"no code block has {word!r}"
    return list(codes)


def _python_blocks() -> Iterator[CodeBlock]:
    for path in documents():
        yield from (block for block in blocks_of(path) if block.language == "python")
