"""Lets mmengine find the configs that come with this package: ``fpn_neck::segmentation/....py``.

They lie in ``fpn_neck/.mim``, where mmengine looks for the configs of every package that it knows.
"""

from __future__ import annotations

from types import ModuleType

from fpn_neck.mm.on_import import change_when_imported

_NAME = "fpn_neck"


def announce_own_configs() -> None:
    """Add this package to those whose configs mmengine reads; mmengine is not imported."""
    change_when_imported("mmengine.config.config", _announce)


def _announce(module: ModuleType) -> None:
    from mmengine.config.utils import MODULE2PACKAGE

    # Not the distribution's name: mmengine would look for the package beside its metadata, where an
    # editable installation has none. A module's name is looked up by Python.
    MODULE2PACKAGE[_NAME] = f"{_NAME}.registry"
    find = module.Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        """mmengine's; our configs have no scope: their types are mmdet's or mmseg's, or named."""
        path, scope = find(cfg_path, filename)
        return path, None if scope == _NAME else scope

    module.Config._get_cfg_path = staticmethod(get_cfg_path)
