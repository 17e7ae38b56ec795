"""How every tool meets its user's mistakes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool; what the user can mend becomes one line on stderr and exit code 2.

    With FPN_NECK_TRACEBACK=1 in the environment the whole traceback is shown instead.
    """
    if sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        sys.exit(main())
    except ModuleNotFoundError as e:
        if os.environ.get("FPN_NECK_TRACEBACK"):
            raise
        print(f"error: no package {e.name!r}: pip install -e '.[mm]' has all", file=sys.stderr)
        sys.exit(2)
    except (ValueError, TypeError, OSError, ImportError) as e:
        if os.environ.get("FPN_NECK_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run_verb(verb: str) -> None:
    """Run the module of that name in `fpn_neck.cli`, see `run_tool`; it is imported inside."""
    run_tool(lambda: import_module(f"fpn_neck.cli.{verb}").main())


def check_device(device: str) -> None:
    """Refuse a device that isn't there.

    Raises:
        ValueError: torch can't allocate on it, or doesn't know it.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        reason = str(e).split("\n")[0]
        raise ValueError(f"device={device!r} is not there: {reason}; try 'cpu'") from e
