"""A progress bar on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
Track = Callable[[Iterable[T], int], Iterable[T]]  # (results, their number) -> the same, with a bar


def with_progress(results: Iterable[T], total: int, name: str = "photos") -> Iterable[T]:
    """The results; a bar shows how many of ``total`` have come."""
    from rich.console import Console
    from rich.progress import track

    return track(results, name, total=total, console=Console(stderr=True))
