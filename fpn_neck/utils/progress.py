"""A progress bar on stderr."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from importlib.util import find_spec
from typing import TypeVar

T = TypeVar("T")
Track = Callable[[Iterable[T], int], Iterable[T]]  # (results, their number) -> the same, with a bar


def with_progress(
    results: Iterable[T], total: int, name: str = "photos"
) -> Generator[T, None, None]:
    """The results; a bar shows how many of ``total`` have come, if rich is installed.

    On a terminal, rich holds stdout and stderr while it shows the bar: close the generator after
    an error.
    """
    if not find_spec("rich"):
        yield from results
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(results, name, total=total, console=Console(stderr=True))
