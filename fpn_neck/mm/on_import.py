"""Changes of modules of other packages that wait until another module imports them.

mmengine takes seconds to import; ``import fpn_neck`` must not wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Change = Callable[[ModuleType], None]


class _Finder:
    """An entry of ``sys.meta_path``: a module is loaded by its own loader, then changed."""

    changes: dict[str, Change] = {}

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        change = cls.changes.get(fullname)
        spec = PathFinder.find_spec(fullname, path) if change else None
        if change and spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, change)
        return spec


class _Loader(Loader):
    """Loads a module by its own loader, then changes it."""

    def __init__(self, loader: Any, change: Change) -> None:
        self._loader, self._change = loader, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)


def change_when_imported(name: str, change: Change) -> None:
    """Call ``change(module)``: now if the module is imported, else as soon as it is."""
    if name in sys.modules:
        change(sys.modules[name])
        return
    _Finder.changes[name] = change
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
