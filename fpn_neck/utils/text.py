"""Errors and lists as one line of text."""

from __future__ import annotations

import traceback
from collections.abc import Sequence


def one_line(error: object, *, with_type: bool = False) -> str:
    """The message of an exception in one line; the name of its type if it has no message.

    Args:
        error: an exception, or any text.
        with_type: put the name of the exception's type before the message.
    """
    text, kind = " ".join(str(error).split()), type(error).__name__
    if not text:
        return kind
    return f"{kind}: {text}" if with_type else text


def cause(error: BaseException) -> str:
    """Type and message of an error; the line of code that failed if it has no message."""
    frames = traceback.extract_tb(error.__traceback__)
    if str(error).strip() or not frames:
        return one_line(error, with_type=True)
    last = frames[-1]
    return f"{type(error).__name__} in {last.filename}, line {last.lineno}: {last.line}"


def first_few(items: Sequence[object], shown: int = 3) -> str:
    """``a, b, c and 5 more``: the first items and the number of the others.

    Args:
        items: their ``str`` is shown; pass ``repr`` of a name that needs quotes.
        shown: how many items are named.
    """
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(map(str, items[:shown])) + more
