"""``mmcv/_ext.py``, one line in the installed mmcv-lite: operators without ``import fpn_neck``.

Python prefers a compiled ``_ext`` in the same folder to a file ``_ext.py``.
"""

from __future__ import annotations

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from fpn_neck.utils.files import write_text

_MODULE = "fpn_neck.mm.mmcv_ops._ext"
# A star leaves out __getattr__, which answers for operators that exist only compiled.
_LINE = f"from {_MODULE} import *; from {_MODULE} import __getattr__  # fpn-neck doctor\n"


def serve_operators(on: bool) -> str:
    """Write or remove the file; what was done, in one line.

    Raises:
        ValueError: mmcv is missing or compiled, or the file is another program's.
        OSError: the folder can't be written.
    """
    folder = _folder()
    path = folder / "_ext.py"
    compiled = [name for suffix in EXTENSION_SUFFIXES for name in folder.glob(f"_ext{suffix}")]
    if compiled and on:
        raise ValueError(f"{compiled[0]}: mmcv has its own compiled operators; nothing to serve")
    if path.exists() and path.read_text(encoding="utf-8") != _LINE:
        raise ValueError(f"{path} is not of fpn-neck doctor: leave it, or remove it yourself")
    if on:
        write_text(path, _LINE)
        return f"{path}: mmdet and mmseg find mmcv's operators without import fpn_neck"
    if not path.exists():
        return f"{path}: is not there"
    path.unlink()
    return f"{path}: removed"


def are_served() -> bool:
    """Whether the installed mmcv has the file; mmcv is installed."""
    path = _folder() / "_ext.py"
    return path.is_file() and path.read_text(encoding="utf-8") == _LINE


def _folder() -> Path:
    spec = importlib.util.find_spec("mmcv")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("mmcv is not installed: pip install 'fpn_neck[mm]'")
    return Path(next(iter(spec.submodule_search_locations)))
