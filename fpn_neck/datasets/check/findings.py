"""What every check of data shares: findings, their remedies, and readers that say what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

from PIL import Image

# What is refused wherever photos and label masks are read.
UNREADABLE = "file cannot be decoded"
LOSSY = "mask is a JPEG, whose lossy compression invents labels"
SIZE = "photo and mask differ in size"
BOM = "text file begins with a byte order mark, which its readers take for text"
NO_MASK = "photo without its mask"
NO_PHOTO = "mask without its photo"


class Finding(NamedTuple):
    """Something that would poison a run; ``kind`` is the rule that ``value`` breaks."""

    kind: str
    file: str
    value: str


class RefusedData(ValueError):
    """The data would poison training; ``findings`` says why.

    A subclass names the remedy of every kind of finding.
    """

    remedies: ClassVar[Mapping[str, str]] = {}

    def __init__(self, findings: list[Finding]):
        super().__init__(f"{len(findings)} findings")
        self.findings = findings

    def report(self, limit: int = 20) -> str:
        """The findings by kind, each kind with its remedy, at most ``limit`` files of a kind."""
        lines = []
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            same = [finding for finding in self.findings if finding.kind == kind]
            lines.append(f"{kind}: {len(same)}. Remedy: {self.remedies[kind]}.")
            lines += [f"  {finding.file}: {finding.value}" for finding in same[:limit]]
            if len(same) > limit:
                lines.append(f"  … and {len(same) - limit} more")
        return "\n".join(lines)


Track = Callable[[Iterable, int], Iterable]  # (results, their number) -> the same, with a bar


class Refused(Exception):
    """Raised by readers, caught by :func:`attempt`, which knows the file."""

    def __init__(self, kind: str, value: str):
        self.kind, self.value = kind, value


T = TypeVar("T")


def attempt(
    read: Callable[[Path], T], path: Path, root: Path | None, findings: list[Finding]
) -> T | None:
    """``read(path)``, or None and a finding, whose file is named as seen from ``root``."""
    try:
        return read(path)
    except Refused as refused:
        file = path if root is None else path.relative_to(root)
        findings.append(Finding(refused.kind, file.as_posix(), refused.value))
        return None


def unreadable(path: Path, error: Exception) -> Refused:
    size = f"{path.stat().st_size} bytes" if path.exists() else "missing"
    return Refused(UNREADABLE, f"{size}, {type(error).__name__}: {error}")


def decode(path: Path, *, header_only: bool = False) -> Image.Image:
    """Decode a picture; with ``header_only``, a truncated one passes.

    Raises:
        Refused: UNREADABLE.
    """
    try:
        with Image.open(path) as image:
            if not header_only:
                image.load()  # opening reads the header only; a truncated file fails here
            return image
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, zlib.error …
        raise unreadable(path, error) from error
