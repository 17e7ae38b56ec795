"""How every command reports its user's mistakes."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper

from fpn_neck.utils.text import one_line

_EPILOG = """
A mistake that you can correct is one line on stderr, with exit code 2. For the whole traceback, set
FPN_NECK_TRACEBACK=1 in the environment.
"""


def command_parser(description: str | None, epilog: str = "") -> ArgumentParser:
    """A parser whose help keeps the lines of both texts, and says how to get a traceback."""
    return ArgumentParser(
        description=description,
        epilog=f"{epilog}{_EPILOG}",
        formatter_class=RawDescriptionHelpFormatter,
    )


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a command; an error that the user can correct becomes one line and exit code 2.

    With FPN_NECK_TRACEBACK=1 in the environment, the whole traceback is shown instead.
    """
    # The name of a file may hold bytes that are not text.
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("FPN_NECK_TRACEBACK"):
            raise
        print(f"error: {_message(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"package {error.name} is not installed; run pip install 'fpn_neck[mm]', or in a "
            "checkout pip install -e '.[mm]'"
        )
    return one_line(error)


def run_verb(verb: str) -> None:
    """Run ``main`` of the module `fpn_neck.cli.<verb>`, see `run_tool`.

    The module is imported inside, so that a missing package becomes one line.
    """
    run_tool(lambda: import_module(f"fpn_neck.cli.{verb}").main())
