"""The proposals files that a config names, checked against the photos of its data sets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mmdet.datasets import BaseDetDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from fpn_neck.mm.det.proposals_file import DatasetPhoto, check_proposals, load_proposals
from fpn_neck.utils.walk import data_sets, type_name


def check_proposal_files(cfg: Config, *splits: str) -> None:
    """Refuse wrong proposals of a config's data sets before anything is built or trained.

    mmdet itself unpickles whatever the file holds, and then stops with a bare AssertionError or
    KeyError. The photos of a data set without proposals are not read.

    Args:
        cfg: of any mmdet detector.
        splits: of 'train', 'val', 'test', those that are about to be used.

    Raises:
        FileNotFoundError, ValueError: see `load_proposals` and `check_proposals`.
    """
    for split in splits:
        for part in data_sets((cfg.get(f"{split}_dataloader") or {}).get("dataset")):
            if part.get("proposal_file"):
                _check_file(cfg, part)
            elif loads_proposals(part.get("pipeline", [])):
                raise ValueError(
                    f"{split}_dataloader.dataset.proposal_file is missing, and its pipeline loads "
                    "proposals; fpn-neck make_proposals writes the file"
                )


def loads_proposals(pipeline: Sequence[dict]) -> bool:
    """Whether a pipeline loads proposals, as Fast R-CNN's does."""
    return any(type_name(transform).endswith("LoadProposals") for transform in pipeline)


def _check_file(cfg: Config, part: dict) -> None:
    dataset = unfiltered_dataset(cfg, part)
    path = Path(dataset.data_root, part["proposal_file"])  # as mmdet finds it
    check_proposals(str(path), load_proposals(path, for_mmdet=True), photos_of(dataset))


def unfiltered_dataset(cfg: Config, part: dict) -> BaseDetDataset:
    """Build a data set's config with every photo of its annotation file, without proposals."""
    whole: dict[str, Any] = {"test_mode": True, "filter_cfg": None, "proposal_file": None}
    with (
        DefaultScope.overwrite_default_scope(cfg.get("default_scope") or "mmdet"),
        redirect_stdout(io.StringIO()),  # pycocotools says that it loads
    ):
        return DATASETS.build({**part, **whole, "indices": None})


def photos_of(dataset: BaseDetDataset) -> list[DatasetPhoto]:
    """The photos that a data set lists, in its order."""
    infos = map(dataset.get_data_info, range(len(dataset)))
    return [DatasetPhoto(Path(i["img_path"]), i["height"], i["width"]) for i in infos]
