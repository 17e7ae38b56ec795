"""Our config files and those of installed packages, read as mmengine's Config."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE, ConfigParsingError
from mmengine.hub import get_config
from mmengine.runner import FlexibleRunner, Runner

from fpn_neck.mm.config.sections import check_sections
from fpn_neck.utils.text import one_line
from fpn_neck.utils.walk import dicts, type_name

# package -> distribution of it that mmengine knows, distribution of its fork
_DISTRIBUTIONS = {
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
}


@contextmanager
def reading_configs() -> Iterator[None]:
    """Let mmengine read configs of OneDL's forks of mmdet and mmseg, and without its warning.

    mmengine would try to install upstream's package beside a fork, and imports the deprecated
    pkg_resources for every config that inherits from a package.
    """
    forks = {
        package: fork
        for package, (upstream, fork) in _DISTRIBUTIONS.items()
        if not _is_installed(upstream)
    }
    with warnings.catch_warnings(), patch.dict(MODULE2PACKAGE, forks):
        warnings.filterwarnings("ignore", ".*pkg_resources", UserWarning)
        yield


def _is_installed(name: str) -> bool:
    try:
        return distribution(name) is not None
    except PackageNotFoundError:
        return False


def drop_pretraining(model: Any) -> None:
    """Let no TimmBackbone in a model config load weights: a checkpoint with all weights follows."""
    for _, part in dicts(model):
        if type_name(part).endswith("TimmBackbone"):
            part.update(pretrained=False, checkpoint=None)


def load_config(name: str, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, or one that an installed package ships (``mmdet::rpn/....py``).

    Args:
        options: settings to override, {'model.neck.out_channels': 128}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the package is missing, the file is not a config, or an option has no place.
        ImportError: a module of ``custom_imports`` is missing.
        TypeError: a section of another type, see `check_sections`.
    """
    if "::" in name:
        _check_package(name)
    with reading_configs():
        cfg = _read_config(name)
    for key in options or {}:
        top = key.partition(".")[0]
        if top not in cfg and top not in _settings():
            what = f"neither {name} nor mmengine has a setting {top!r}"
            raise ValueError(f"--cfg-options {key}: {what}")
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as e:  # mmengine raises nearly anything
        why = one_line(e, with_type=True)
        raise ValueError(f"--cfg-options {options} has no place in {name}: {why}") from e
    check_sections(cfg)
    return cfg


def _settings() -> set[str]:
    """The names of all settings that mmengine's Runners and our tools read."""
    arguments = {*signature(Runner).parameters, *signature(FlexibleRunner).parameters}
    wrapping = {"model_wrapper_cfg", "sync_bn", "find_unused_parameters"}
    return arguments | wrapping | {"runner_type", "tta_model", "tta_pipeline"}


def _read_config(name: str) -> Config:
    try:
        if "::" in name:
            return _package_config(name)
        if not Path(name).is_file():
            raise FileNotFoundError(f"config {name}: no such file; a package's is package::path")
        return Config.fromfile(name)
    except FileNotFoundError:
        raise
    except ImportError as e:
        if not e.__cause__:
            raise
        # mmengine's words list the whole sys.path.
        remedy = "install it, set PYTHONPATH, or correct custom_imports"
        raise ImportError(
            f"config {name}: custom_imports: {e.__cause__}; {remedy}"
        ) from e.__cause__
    except ConfigParsingError as e:
        found = re.search(r"from (\w+)\.configs\.([\w.]+) import", str(e))
        if not found or _has_configs_to_import(found[1]):
            raise ValueError(f"config {name}: not a config ({one_line(e)})") from e
        raise ValueError(
            f"config {name}: read_base imports {found[1]}.configs, which is not in {found[1]}'s "
            f"wheel; write _base_ = '{found[1]}::{found[2].split('.')[0]}/....py' instead"
        ) from e
    except Exception as e:  # it is Python, and may raise anything
        raise ValueError(f"config {name}: not a config ({one_line(e, with_type=True)})") from e


def _has_configs_to_import(package: str) -> bool:
    """Whether it has a folder of mmengine's Python configs."""
    spec = find_spec(package)
    return spec is not None and (Path(spec.origin or "").parent / "configs").is_dir()


def _check_package(name: str) -> None:
    package = name.partition("::")[0]
    # mmengine would start to install a package that it knows and does not find.
    if package not in MODULE2PACKAGE or find_spec(package) is None:
        raise ValueError(f"config {name}: package {package!r} is not installed or has no configs")


def _package_config(name: str) -> Config:
    package, _, path = name.partition("::")
    missing = FileNotFoundError(f"config {name}: {package} has no such file; see fpn-neck list")
    if re.match(r"\w*::\w*/\w*", name):
        try:
            return get_config(name)
        except FileNotFoundError as e:
            if path not in str(e):  # one of its bases
                raise
            raise missing from e
    # mmengine's pattern knows no folders such as mmdet's gn+ws and legacy_1.x.
    spec = find_spec(package)
    assert spec is not None
    file = Path(spec.origin or "").parent / ".mim/configs" / path
    if not file.is_file():
        raise missing
    return Config.fromfile(file)
