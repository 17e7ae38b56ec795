"""Lets mmengine find the configs that come with this package: ``fpn_neck::segmentation/....py``.

They lie in ``fpn_neck/.mim``, where mmengine looks for the configs of every package that it knows.
"""

from __future__ import annotations

from types import ModuleType

from fpn_neck.mm.on_import import change_when_imported


def announce_own_configs() -> None:
    """Add ``fpn_neck`` to the packages whose configs mmengine reads; mmengine is not imported."""
    change_when_imported("mmengine.config.utils", _announce)


def _announce(module: ModuleType) -> None:
    module.MODULE2PACKAGE["fpn_neck"] = "fpn_neck"
