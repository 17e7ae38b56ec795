"""From command-line arguments to an mmengine config; shared by the tools."""

from __future__ import annotations

import io
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from inspect import isclass, signature
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.dataset import BaseDataset
from mmengine.hub import get_config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import FlexibleRunner, Runner

import fpn_neck.registry  # noqa: F401 (lets torch read mmengine's checkpoints)
from fpn_neck.datasets.config_check import check_weights
from fpn_neck.datasets.dataset_check import DatasetCheck, RefusedData
from fpn_neck.datasets.listing_check import Source
from fpn_neck.integrations.checkpoint_guard import refuse_code
from fpn_neck.integrations.config_sections import (
    check_levels,
    check_metrics,
    check_sections,
    require,
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
refuse_code()


class Options(DictAction):
    """mmengine's, with a message for an option without a value.

    Raises:
        ValueError: when such a one is parsed.
    """

    def __call__(self, parser: ArgumentParser, args: Namespace, values: Any, *rest: Any) -> None:
        for text in values:
            if "=" not in text:
                raise ValueError(f"--cfg-options {text}: expected KEY=VALUE, without spaces")
        super().__call__(parser, args, values, *rest)


def add_mismatch_argument(parser: ArgumentParser) -> None:
    """For the tools that load a checkpoint into a config's model."""
    parser.add_argument(
        "--allow-mismatch",
        action="store_true",
        help="load what fits of a checkpoint of another model, and say what is left out",
    )


def add_common_arguments(parser: ArgumentParser) -> None:
    """The arguments that mm users know from both train.py and test.py."""
    parser.add_argument("config", help="config file, or one of an installed package: mmdet::path")
    parser.add_argument(
        "--work-dir", help="logs and checkpoints; default: the config's, or work_dirs/<config>"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=Options,
        metavar="KEY=VALUE",
        help="override settings, e.g. model.neck.out_channels=128",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)  # set by launchers


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


def check_data(cfg: Config, *splits: str) -> None:
    """Refuse what would stop or poison a run, before anything is built.

    Args:
        splits: of 'train', 'val', 'test', those that are about to be used.

    Raises:
        FileNotFoundError, ValueError: a section is missing, see `require`; or see
            `mmdet_proposals.check_proposal_files`.
    """
    first = splits[0]
    last = "optim_wrapper" if first == "train" else f"{first}_evaluator"
    require(cfg, "model", f"{first}_dataloader", f"{first}_cfg", last)
    check_levels(cfg.model)
    for name in ("val_evaluator", "test_evaluator"):
        if name.partition("_")[0] in splits:
            check_metrics(name, cfg.get(name))
    if cfg.get("default_scope") == "mmdet":
        from fpn_neck.integrations.mmdet_proposals import check_proposal_files

        check_proposal_files(cfg, *splits)


def dataset_parts(dataset: dict) -> Iterator[dict]:
    """A data set's config, or those inside of RepeatDataset, ConcatDataset and the like."""
    inner = [dataset["dataset"]] if "dataset" in dataset else dataset.get("datasets", [])
    if not inner:
        yield dataset
    for part in inner:
        yield from dataset_parts(part)


def data_sources(cfg: Config, *splits: str) -> list[Source]:
    """The data sets of these splits, none twice, their files not listed yet."""
    names: list[tuple[dict, list[str]]] = []
    for split in splits:
        dataset = (cfg.get(f"{split}_dataloader") or {}).get("dataset", {})
        parts = [part for part in dataset_parts(dataset) if "type" in part]
        for i, part in enumerate(parts, 1):
            name = split if len(parts) == 1 else f"{split} {i} of {len(parts)}"
            known = [others for other, others in names if other == part]
            known[0].append(name) if known else names.append((part, [name]))
    return [_source(", ".join(of), part, cfg.get("default_scope")) for part, of in names]


def _source(name: str, part: dict, scope: str | None) -> Source:
    loaders: dict[str, dict] = {}
    for transform in _transforms(part.get("pipeline", [])):
        loaders.setdefault(_type_name(transform).rpartition(".")[2], transform)
    loader = loaders.get("LoadAnnotations")
    of = _type_name(loader).rpartition(".")[0] if loader else ""
    default = "cv2" if (of or scope) == "mmdet" else "pillow"
    opencv = loader is not None and loader.get("imdecode_backend", default) == "cv2"
    try:
        with DefaultScope.overwrite_default_scope(scope), redirect_stdout(io.StringIO()):
            dataset = _build_lazily(part) if "LoadImageFromFile" in loaders else part["type"]
            return Source(name, dataset, loader, opencv)
    except Exception as error:  # of any type: it is a finding
        return Source(name, error, loader, opencv)


def _build_lazily(part: dict) -> Any:
    with DATASETS.switch_scope_and_registry(None) as registry:
        known = registry.get(part["type"]) if isinstance(part["type"], str) else part["type"]
        if known and not (isclass(known) and issubclass(known, BaseDataset)):
            return part["type"]  # anything with a length will do for mmengine
        return registry.build({**part, "lazy_init": True, "pipeline": []})


def _transforms(pipeline: Any) -> Iterator[dict]:
    """Every transform's settings, those inside of others too."""
    if isinstance(pipeline, dict):
        if "type" in pipeline:
            yield pipeline
        pipeline = list(pipeline.values())
    if isinstance(pipeline, (list, tuple)):
        for part in pipeline:
            yield from _transforms(part)


def _type_name(settings: dict) -> str:
    return getattr(settings["type"], "__name__", str(settings["type"]))


def check_files(cfg: Config, config: str, *splits: str) -> None:
    """Refuse what `tools/check_dataset.py` would find at a first glance.

    Reading a COCO file is what takes long: 14 s of one core for 118,000 photos and 860,000 boxes.

    Raises:
        RefusedData: see `DatasetCheck`, whose quick check this is.
    """
    check = DatasetCheck(config, cfg.get("model") or {}, quick=True)
    reports = [check(source) for source in data_sources(cfg, *splits)]
    findings = [finding for report in reports for finding in report.findings]
    findings += check_weights(config, check.model)
    if findings:
        raise RefusedData(findings)


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
