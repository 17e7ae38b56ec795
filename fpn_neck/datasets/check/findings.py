"""What every data check shares: findings, and readers that name the fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from fpn_neck.datasets.check.kinds import ABSENT, UNREADABLE, Kind

T = TypeVar("T")


class Finding(NamedTuple):
    """Something that would spoil a run; ``value`` breaks the rule of ``kind``."""

    kind: Kind
    file: str
    value: str


class RefusedData(ValueError):
    """The data would spoil training; ``findings`` says why."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(f"{len(findings)} findings")
        self.findings = findings

    def report(self, limit: int = 20) -> str:
        """The findings by kind, each kind with its remedy, at most ``limit`` files of a kind."""
        lines = []
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            same = [finding for finding in self.findings if finding.kind == kind]
            lines.append(f"{kind.rule}: {len(same)}. Remedy: {kind.remedy}.")
            lines += [f"  {finding.file}: {finding.value}" for finding in same[:limit]]
            if len(same) > limit:
                lines.append(f"  … and {len(same) - limit} more")
        return "\n".join(lines)

    def brief(self, limit: int = 5) -> list[str]:
        """A line for each of the first findings: file, value, rule and remedy."""
        lines = [
            f"{file}: {value}: {kind.rule}; remedy: {kind.remedy}"
            for kind, file, value in self.findings[:limit]
        ]
        if len(self.findings) > limit:
            lines.append(f"… and {len(self.findings) - limit} more findings")
        return lines


class InvalidFile(Exception):
    """Raised by the readers of files; `attempt` makes it a finding."""

    def __init__(self, kind: Kind, value: str) -> None:
        super().__init__(kind, value)
        self.kind, self.value = kind, value


def attempt(read: Callable[[Path], T], path: Path, findings: list[Finding]) -> T | None:
    """``read(path)``; None and one more finding if that raises `InvalidFile`."""
    try:
        return read(path)
    except InvalidFile as invalid:
        findings.append(Finding(invalid.kind, path.as_posix(), invalid.value))
        return None


def unreadable(path: Path, error: Exception) -> InvalidFile:
    """The error ABSENT, or UNREADABLE with the file's size and the reason."""
    if not path.exists():
        return InvalidFile(ABSENT, "no such file")
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, UnicodeDecodeError):
        reason = "not a text in UTF-8"
    return InvalidFile(UNREADABLE, f"{path.stat().st_size} bytes, {reason}")


def decode(path: Path, *, header_only: bool = False) -> Image.Image:
    """Decode a picture; with ``header_only``, a truncated one passes.

    Raises:
        InvalidFile: UNREADABLE.
    """
    try:
        with Image.open(path) as image:
            if not header_only:
                image.load()  # opening reads the header only; a truncated file fails here
            return image
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, zlib.error …
        raise unreadable(path, error) from error
