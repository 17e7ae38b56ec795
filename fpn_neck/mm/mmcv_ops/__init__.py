"""Lets mmcv run without its compiled extension, on torchvision's operators.

``mmcv-lite`` (and mmcv or onedl-mmcv built with ``MMCV_WITH_OPS=0``) has every Python file of
``mmcv.ops`` but not the extension ``mmcv._ext`` that they call, so ``import mmdet.models`` and
``import mmseg.models`` fail. After `install()` they work: Python loads the file ``_ext.py`` of this
folder under that name. A compiled extension always comes first.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

__all__ = ["install"]

_NAME = "mmcv._ext"


class _Finder:
    """An entry of ``sys.meta_path`` that finds one module: the substitute for ``mmcv._ext``."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != _NAME:
            return None
        return importlib.util.spec_from_file_location(fullname, Path(__file__).with_name("_ext.py"))


def install() -> bool:
    """Provide ``mmcv._ext`` by torchvision and torch if mmcv lacks it.

    Imports nothing and may be called any number of times. It does nothing if mmcv is missing or
    its compiled extension can be found.

    Returns:
        True if this package provides ``mmcv._ext``, False if nothing was done.
    """
    if _Finder in sys.meta_path:
        return True
    mmcv = importlib.util.find_spec("mmcv")
    if mmcv is None or PathFinder.find_spec(_NAME, mmcv.submodule_search_locations):
        return False
    sys.meta_path.append(_Finder)  # last: whatever else can provide the module comes first
    return True
