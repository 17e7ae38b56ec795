"""Lets mmengine, mmdet and mmseg read checkpoints by `fpn_neck.weights.checkpoints` only.

On torch 2.6 and later mmengine 0.10 cannot read its own files, and it runs the code in downloads.
This module does not import mmengine (`on_import`), nor torch before a file is read.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from fpn_neck.mm.on_import import change_when_imported

if TYPE_CHECKING:
    from torch.serialization import MAP_LOCATION


def read_files_safely() -> None:
    """Let mmengine read local files by `load_checkpoint`: ``load_from``, ``resume``, ``init_cfg``.

    ``import fpn_neck`` calls it, for the whole process. If mmengine's reader is not imported yet,
    the change is made as soon as it is.
    """
    change_when_imported("mmengine.runner.checkpoint", _register)


def _register(module: ModuleType) -> None:
    module.CheckpointLoader.register_scheme("", load_from_file, force=True)


def read_urls_safely() -> None:
    """Let mmengine read downloads by `load_checkpoint` too; every tool calls it when it starts."""
    from mmengine.runner import checkpoint

    checkpoint.load_url = _read_url  # what http://, torchvision:// and the like share


def load_from_file(filename: str, map_location: MAP_LOCATION = None) -> Any:
    """`load_checkpoint` under a name that mmengine logs as "file backend"."""
    from fpn_neck.weights.checkpoints import load_checkpoint

    return load_checkpoint(filename, "cpu" if map_location is None else map_location)


def _read_url(
    url: str,
    model_dir: str | None = None,
    map_location: MAP_LOCATION = None,
    progress: bool = True,
) -> Any:
    """As `torch.hub.load_state_dict_from_url`, whose folder it shares.

    Raises:
        OSError: the download fails.
        ValueError: see `load_checkpoint`; names the URL and the downloaded file.
    """
    import torch

    folder = Path(model_dir) if model_dir else Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(url).path).name
    if not path.exists():
        print(f"downloading {url} to {path}")
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=progress)
    try:
        return load_from_file(str(path), map_location)
    except ValueError as e:
        raise ValueError(f"{url}: {e}") from e
