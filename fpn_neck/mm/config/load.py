"""From command-line arguments to an mmengine config; shared by the tools."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config
from mmengine.runner import FlexibleRunner, Runner

import fpn_neck.mm.registry  # noqa: F401 (lets torch read mmengine's checkpoints)
from fpn_neck.mm.config.sections import (
    check_sections,
)

# mmengine imports it for every config that inherits from a package.
warnings.filterwarnings("ignore", ".*pkg_resources", UserWarning)


def _find_onedl() -> None:
    """Tell mmengine that mmseg may come from OneDL's distribution; it would fetch upstream's."""
    for module, upstream in (("mmseg", "mmsegmentation"), ("mmdet", "mmdet")):
        try:
            distribution(upstream)
        except PackageNotFoundError:
            fork = {"mmseg": "onedl-mmsegmentation", "mmdet": "onedl-mmdetection"}[module]
            MODULE2PACKAGE[module] = fork


_find_onedl()


def drop_pretraining(model: Any) -> None:
    """Make every TimmBackbone in a model config start empty: its checkpoint is about to come."""
    if isinstance(model, dict):
        if str(model.get("type")).endswith("TimmBackbone"):
            model.update(pretrained=False, checkpoint=None)
        for part in model.values():
            drop_pretraining(part)


def photo_pipeline(pipeline: Sequence[dict]) -> list[dict]:
    """A test pipeline without truth, starting from an array."""
    rest = [t for t in pipeline[1:] if t["type"] != "LoadAnnotations"]
    return [{"type": "LoadImageFromNDArray"}, *rest]


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
    cfg = _read_config(name)
    for key in options or {}:
        top = key.partition(".")[0]
        if top not in cfg and top not in _settings():
            raise ValueError(f"--cfg-options {key}: {name} has no {top!r}, nor knows mmengine any")
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as e:  # mmengine raises nearly anything
        raise ValueError(f"--cfg-options {options} has no place in {name}: {_one_line(e)}") from e
    check_sections(cfg)
    return cfg


def _settings() -> set[str]:
    """What mmengine's Runners read of a config, at its top; and what the tools do."""
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
    except Exception as e:  # it is Python, and may raise anything
        raise ValueError(f"config {name}: not a config ({_one_line(e)})") from e


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _package_config(name: str) -> Config:
    package = name.split("::")[0]
    # mmengine would start to install a package that it knows and does not find.
    if package not in MODULE2PACKAGE or find_spec(package) is None:
        raise ValueError(f"config {name}: no package {package!r} is installed that ships configs")
    return get_config(name)


def _replace_proposal_fast(cfg: Config) -> None:
    """mmdet's ``proposal_fast``, its RPNs' metric, fails with numpy 1.24 and later."""
    for name in ("val_evaluator", "test_evaluator"):
        for evaluator in cfg[name] if isinstance(cfg.get(name), list) else [cfg.get(name) or {}]:
            if evaluator.get("metric") == "proposal_fast":
                evaluator.metric = "proposal"


def resolve_config(args: Namespace) -> Config:
    """Config of the arguments, with overrides and work dir (flag > config > work_dirs/<name>).

    Raises:
        FileNotFoundError, ValueError: see `load_config`.
    """
    cfg = load_config(args.config, args.cfg_options)
    _replace_proposal_fast(cfg)
    cfg.launcher = args.launcher
    if args.work_dir or not cfg.get("work_dir"):
        cfg.work_dir = args.work_dir or str(Path("work_dirs") / Path(args.config).stem)
    return cfg
