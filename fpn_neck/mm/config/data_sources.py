"""The data sets of a config, and what is checked of them before anything is built."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from inspect import isclass
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from fpn_neck.datasets.check.findings import RefusedData
from fpn_neck.datasets.check.heads import check_weights
from fpn_neck.datasets.check.listing import DataSource
from fpn_neck.datasets.check.run import DatasetCheck
from fpn_neck.mm.config.sections import check_levels, check_metrics, require


def check_data(cfg: Config, *splits: str) -> None:
    """Refuse what would stop or poison a run, before anything is built.

    Args:
        splits: of 'train', 'val', 'test', those that are about to be used.

    Raises:
        FileNotFoundError, ValueError: a section is missing, see `require`; or see
            `mmdet_proposals.check_proposal_files`.
    """
    if cfg.get("default_scope") == "mmdet":
        from fpn_neck.mm.det.config_proposals import check_proposal_files

        check_proposal_files(cfg, *splits)
    first = splits[0]
    last = "optim_wrapper" if first == "train" else f"{first}_evaluator"
    require(cfg, "model", f"{first}_dataloader", f"{first}_cfg", last)
    check_levels(cfg.model)
    for name in ("val_evaluator", "test_evaluator"):
        if name.partition("_")[0] in splits:
            check_metrics(name, cfg.get(name))


def dataset_parts(dataset: dict) -> Iterator[dict]:
    """A data set's config, or those inside of RepeatDataset, ConcatDataset and the like."""
    inner = [dataset["dataset"]] if "dataset" in dataset else dataset.get("datasets", [])
    if not inner:
        yield dataset
    for part in inner:
        yield from dataset_parts(part)


def data_sources(cfg: Config, *splits: str) -> list[DataSource]:
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


def _source(name: str, part: dict, scope: str | None) -> DataSource:
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
            return DataSource(name, dataset, loader, opencv)
    except Exception as error:  # of any type: it is a finding
        return DataSource(name, error, loader, opencv)


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
