"""The config that mmengine keeps as text in a checkpoint, read as data: nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import inf, nan
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from fpn_neck.mm.config.load import load_config
from fpn_neck.mm.config.sections import check_sections
from fpn_neck.mm.config.types import FRAMEWORKS
from fpn_neck.utils.text import one_line
from fpn_neck.utils.walk import data_sets, dicts
from fpn_neck.weights.checkpoints import Checkpoint

_NEEDED = ("default_scope", "model", "test_dataloader")
_AUGMENTED = ("tta_model", "tta_pipeline")
_SCOPES = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "fpn_neck")
_MOST_CHARACTERS = 2_000_000
_REMEDY = "give the config it was trained with (predict CONFIG CHECKPOINT, or load(config=))"


def read_trained(
    checkpoint: str | Path,
    config: str | Path | Config | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Config, Checkpoint]:
    """A checkpoint, which is read once, and the config of its model.

    Args:
        config: a file, ``package::path`` or mmengine's Config; None for the one in the checkpoint.
        options: settings to override, {'model.neck.out_channels': 128}.

    Raises:
        FileNotFoundError, ValueError: see `load_config`, `config_in_checkpoint` and
            `fpn_neck.weights.checkpoints.load_checkpoint`.
    """
    if isinstance(config, (str, Path)):
        return load_config(str(config), options), Checkpoint.read(checkpoint)
    read = Checkpoint.read(checkpoint)
    cfg = config_in_checkpoint(read.content, read.name) if config is None else config
    if options:
        cfg.merge_from_dict(dict(options))
    return cfg, read


def config_in_checkpoint(content: Any, name: str) -> Config:
    """The model, the test pipeline and the augmentation for testing, from a checkpoint.

    mmengine's ``Config.fromstring`` would run the text as Python, and its registries import what a
    ``type`` names. Here the text may hold only literals and ``dict(...)``, and every ``type`` must
    be the name of a class that an installed framework registers. Data sets are left out, except
    their pipeline: names and colours of the labels are in the checkpoint itself.

    Args:
        content: what `fpn_neck.weights.checkpoints.load_checkpoint` gives.
        name: the checkpoint's, for the message.

    Raises:
        ValueError: there is no config in it, it is not plain data, or a type is not registered.
        TypeError: see `check_sections`.
    """
    meta = content.get("meta") if isinstance(content, Mapping) else None
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        raise ValueError(f"checkpoint {name} holds no config: {_REMEDY}")
    try:
        found = literals(text, *_NEEDED)
        loader = found.get("test_dataloader") or {}
        part = next(data_sets(loader.get("dataset")), {})
        kept = {key: part[key] for key in ("pipeline", "reduce_zero_label") if key in part}
        found["test_dataloader"] = {"dataset": kept}
        _check_types(found, found.get("default_scope"))
        found |= _augmentation(text, found.get("default_scope"))
    except (ValueError, AttributeError) as e:
        raise ValueError(f"the config in checkpoint {name}: {one_line(e)}; {_REMEDY}") from e
    cfg = Config(found)
    check_sections(cfg)
    return cfg


def literals(text: str, *names: str) -> dict[str, Any]:
    """The values of these names in a text of assignments.

    Raises:
        ValueError: the text is not Python, or a value is more than literals and ``dict(...)``.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"its text of {len(text)} characters is too long")
    try:
        body = ast.parse(text).body
        return {
            target.id: _value(node.value)
            for node in body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id in names
        }
    except (SyntaxError, RecursionError, MemoryError) as e:
        raise ValueError(f"its text can't be read ({one_line(e, with_type=True)})") from e


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        parts = [_value(argument) for argument in node.args]
        named = {str(one.arg): _value(one.value) for one in node.keywords if one.arg}
        if len(named) == len(node.keywords) and all(isinstance(part, dict) for part in parts):
            return {key: value for part in (*parts, named) for key, value in part.items()}
    if isinstance(node, ast.Dict) and all(node.keys):
        keys = (ast.literal_eval(key) for key in node.keys if key)
        return {key: _value(value) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.List):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(one) for one in node.elts)
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):  # as Python prints them
        return inf if node.id == "inf" else nan
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _value(node.operand)
        if isinstance(operand, (int, float)):
            return -operand
    if isinstance(node, ast.Constant):
        return node.value
    raise ValueError(f"line {node.lineno} holds {ast.unparse(node)[:60]!r}, which is not data")


def _augmentation(text: str, scope: Any) -> dict[str, Any]:
    """What ``--tta`` needs; {} if it is of another framework, as a detector may inherit it."""
    try:
        found = literals(text, *_AUGMENTED)
        _check_types(found, scope)
    except ValueError:
        return {}
    return found


def _check_types(found: dict[str, Any], default_scope: Any) -> None:
    """Refuse a type that no registry knows; mmengine would import a module of that name.

    A class's whole path, as Python configs are written out, becomes its scope and name.

    Raises:
        ModuleNotFoundError: the framework is not installed.
        ValueError: names the type.
    """
    scopes = {default_scope} if default_scope else set()
    for _, part in dicts(found):
        scopes |= {part["_scope_"]} if "_scope_" in part else set()
    if unknown := scopes - {*_SCOPES}:
        raise ValueError(f"the scope {min(map(str, unknown))!r} is none of {', '.join(_SCOPES)}")
    for scope in sorted(scopes & {*FRAMEWORKS}):
        if not find_spec(scope):
            raise ModuleNotFoundError(f"No module named {scope!r}", name=scope)
    for _, part in dicts(found):
        if "type" not in part:
            continue
        kind = str(part["type"])
        first, _, name = kind.rpartition(".")
        scope = first.partition(".")[0]
        if scope and scope not in _SCOPES or name not in _registered(*sorted(scopes), scope):
            raise ValueError(f"the type {kind!r} is not registered: import the module that does it")
        part["type"] = f"{scope}.{name}" if scope in ("mmdet", "mmseg", "fpn_neck") else name


def _registered(*scopes: str) -> set[str]:
    known = _names("mmengine")
    for scope in scopes:
        if scope not in ("", "mmcv"):  # mmcv registers in mmengine
            known = known | _names(scope)
    return known | _operators()


def _names(scope: str) -> set[str]:
    """The names in all registries of a package; {} if it is not installed."""
    try:
        module = import_module(f"{scope}.registry")
    except ModuleNotFoundError:
        return set()
    found: set[str] = set()
    for registry in vars(module).values():
        if isinstance(registry, Registry):
            registry.import_from_location()
            found |= {*registry.module_dict}
    return found


@cache
def _operators() -> set[str]:
    """mmcv's operators, such as RoIAlign: mmdet looks them up by their names."""
    return set(import_module("mmcv.ops").__all__)
