"""What every examination hands in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Problem(NamedTuple):
    """Something that is wrong, and what to do about it."""

    what: str
    remedy: str


@dataclass
class Section:
    """One part of the report; rows are columns of text."""

    title: str
    rows: list[tuple[str, ...]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def text(self) -> str:
        """Title and rows, columns lined up."""
        columns = list(zip(*self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in self.rows
        ]
        return "\n".join([self.title, *(line.rstrip() for line in lines)])


def reason(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
