"""The parts of the report: a table and the problems found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, NamedTuple

_NO_WRAPPING = 10_000  # characters; wider than any row


class Problem(NamedTuple):
    """Something that is wrong, and what to do about it."""

    what: str
    remedy: str


@dataclass
class Section:
    """One part of the report; a row is one text for each column."""

    title: str
    rows: list[tuple[str, ...]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    header: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The section as plain data."""
        problems = [problem._asdict() for problem in self.problems]
        return {
            "title": self.title,
            "header": list(self.header),
            "rows": [list(row) for row in self.rows],
            "problems": problems,
        }

    def text(self, width: int | None = None) -> str:
        """Title and table; columns are aligned if rich is installed.

        Args:
            width: of the terminal in characters, for wrapping long cells; None: do not wrap.
        """
        rows = [self.header, *self.rows] if self.header else self.rows
        return "\n".join([self.title, *(f"  {line}" for line in _table(rows, width))])


def _table(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # the doctor runs with torch only
        return ["  ".join(row) for row in rows]
    table = Table.grid(padding=(0, 2))
    for _ in rows[0]:
        table.add_column(overflow="fold")  # never cut a cell
    for row in rows:
        table.add_row(*map(Text, row))  # no markup: '.[mm]' is not a style
    console = Console(file=StringIO(), width=(width or _NO_WRAPPING) - 2)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]
