"""How every tool meets its user's mistakes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool; what the user can mend becomes one line on stderr and exit code 2.

    With FPN_NECK_TRACEBACK=1 in the environment the whole traceback is shown instead.
    """
    try:
        sys.exit(main())
    except (ValueError, TypeError, OSError) as e:
        if os.environ.get("FPN_NECK_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
