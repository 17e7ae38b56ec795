"""How every command reports its user's mistakes."""

from __future__ import annotations

import atexit
import json
import os
import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

from fpn_neck.utils.text import one_line

JSON_SCHEMA = 1  # grows when a program that reads a document would have to change
_ends_without_cleaning_up = False

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


def add_json_argument(parser: ArgumentParser, what: str) -> None:
    """``--json``, which prints one JSON document on stdout."""
    parser.add_argument(
        "--json",
        action="store_true",
        help=f"print {what} as JSON on stdout; what people read goes to stderr",
    )


def add_workers_argument(parser: ArgumentParser) -> None:
    """``--workers``, the number of processes."""
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of processes (default: one for each core)",
    )


def add_device_argument(parser: ArgumentParser) -> None:
    """``--device``, see `fpn_neck.utils.arguments.check_device`."""
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (default: CUDA if there is such a GPU, else the CPU), cpu, cuda, cuda:1, ...",
    )


@contextmanager
def stdout_for_programs(wanted: bool) -> Iterator[None]:
    """Inside, what is printed goes to stderr if ``wanted``: stdout is for the JSON then."""
    if not wanted:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps({"schema": JSON_SCHEMA, **content}))


def size_argument(text: str, flag: str = "--size") -> tuple[int, int]:
    """``HxW`` -> (height, width) in px.

    Raises:
        ValueError: another text, or no pixels.
    """
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if not found or not int(found[1]) * int(found[2]):
        raise ValueError(f"{flag} {text}: expected HEIGHTxWIDTH in px, e.g. 800x1216")
    return int(found[1]), int(found[2])


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a command; an error that the user can correct becomes one line and exit code 2.

    With FPN_NECK_TRACEBACK=1 in the environment, the whole traceback is shown instead.
    """
    try:
        _run(main)
    except SystemExit as end:
        if _ends_without_cleaning_up:
            _end_at_once(end.code)
        raise


def end_without_cleaning_up() -> None:
    """Let `run_tool` end this process without Python's clean-up, whatever its command returns.

    gloo's threads call Python when an operation ends. They run until the last owner of the group is
    freed, such as a distributed model, so that leaving the group does not end them. A thread that
    calls Python during its clean-up aborts the process.
    """
    global _ends_without_cleaning_up
    _ends_without_cleaning_up = True


def _run(main: Callable[[], int | None]) -> NoReturn:
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
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)


def _end_at_once(code: Any) -> NoReturn:
    atexit._run_exitfuncs()  # files of logs, processes that load data
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"package {error.name} is not installed; run pip install 'fpn_neck[mm]'"
    return one_line(error)


def run_verb(verb: str) -> None:
    """Run ``main`` of the module `fpn_neck.cli.<verb>`, see `run_tool`.

    The module is imported inside, so that a missing package becomes one line.
    """
    run_tool(lambda: import_module(f"fpn_neck.cli.{verb}").main())
