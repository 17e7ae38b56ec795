"""Proposals of an mmdet RPN over a whole data set, and the check of a config that reads them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from mmdet.datasets import BaseDetDataset, CocoDataset
from mmdet.evaluation import CocoMetric, DumpProposals
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.fileio import dump
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader

from fpn_neck.mm.det.predictor import load_rpn
from fpn_neck.mm.det.proposals_file import (
    Photo,
    Proposals,
    check_photos,
    check_proposals,
    key_of,
    load_proposals,
)
from fpn_neck.utils.files import write_whole
from fpn_neck.utils.walk import data_sets

Track = Callable[[Iterable, int], Iterable]


def make_proposals(
    cfg: Config, checkpoint: str, out: Path, *, split: str, device: str, track: Track
) -> dict[str, float]:
    """Write an RPN's proposals for every photo of a split, and measure their recall.

    The photos are those of the annotation file, also the ones without an object that training
    leaves out, each as the config's validation pipeline scales it. The file holds what mmdet's
    ``DumpProposals`` writes and the photos' file sizes, see `fpn_neck.mm.det.proposals_file`; it
    appears when it is complete.

    Args:
        cfg: of the RPN.
        checkpoint: its checkpoint file.
        out: where to write, .pkl or .pickle.
        split: 'train' or 'val', whose data loader's data set is taken.
        device: 'cpu', 'cuda', ...
        track: (batches, their number) -> the same batches, for a progress bar.

    Returns:
        COCO's average recall (mmdet's ``CocoMetric``): AR@100, AR@300, AR@1000, and AR_s@1000,
        AR_m@1000, AR_l@1000 for small, medium and large objects; -1 where there are none.

    Raises:
        FileNotFoundError, ValueError: no RPN, no COCO data set, photos missing, unreadable or of
            one name, or a photo without a proposal; nothing is written then.
    """
    if out.suffix not in (".pkl", ".pickle"):
        raise ValueError(f"{out}: proposals are written as a pickle, name it .pkl")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a file")
    out.parent.mkdir(parents=True, exist_ok=True)  # fails now, not after the whole run
    model = load_rpn(cfg, checkpoint, device)
    dataset = _photo_dataset(cfg, split)
    photos = _photos_of(dataset)
    check_photos(photos)

    with redirect_stdout(io.StringIO()):  # pycocotools tells that it loads, and prints a table
        recall = CocoMetric(ann_file=dataset.ann_file, metric="proposal")
    gathered = DumpProposals(output_dir=os.curdir)  # as it gathers; its own file may stay half
    evaluator = Evaluator([recall, gathered])
    evaluator.dataset_meta = dataset.metainfo
    workers = cfg[f"{split}_dataloader"].get("num_workers", 0)
    loader = DataLoader(dataset, num_workers=workers, collate_fn=pseudo_collate)
    for batch in track(_readable(loader), len(loader)):
        evaluator.process(model.test_step(batch), batch)

    found: dict[str, InstanceData] = {k: v for one in gathered.results for k, v in one.items()}
    boxes = {key: Proposals(entry.bboxes, entry.scores) for key, entry in found.items()}
    check_proposals(f"for {out}", boxes, photos)
    for photo in photos:
        found[key_of(photo.path)].set_metainfo({"photo_bytes": photo.path.stat().st_size})
    with redirect_stdout(io.StringIO()):
        metrics = recall.evaluate(len(dataset))
    write_whole(out, partial(dump, found, file_format="pkl"))
    return {name.removeprefix("coco/"): value for name, value in metrics.items()}


def check_proposal_files(cfg: Config, *splits: str) -> None:
    """Refuse the proposals of a config's data sets before anything is built or trained.

    mmdet itself unpickles whatever the file holds, and then stops with a bare AssertionError or
    KeyError. Data sets without proposals pass unread.

    Args:
        cfg: of any mmdet detector.
        splits: of 'train', 'val', 'test', those that are about to be used.

    Raises:
        FileNotFoundError, ValueError: see `load_proposals` and `check_proposals`.
    """
    for split in splits:
        for part in data_sets((cfg.get(f"{split}_dataloader") or {}).get("dataset")):
            reads = any(str(t["type"]).endswith("LoadProposals") for t in part.get("pipeline", []))
            if reads and not part.get("proposal_file"):
                raise ValueError(
                    f"{split}_dataloader.dataset.proposal_file is missing, and its pipeline loads "
                    "proposals; tools/make_proposals.py writes the file"
                )
            if part.get("proposal_file"):
                dataset = _unfiltered(part, cfg)
                path = Path(dataset.data_root, part["proposal_file"])  # as mmdet finds it
                proposals = load_proposals(path, for_mmdet=True)
                check_proposals(str(path), proposals, _photos_of(dataset))


def _photo_dataset(cfg: Config, split: str) -> CocoDataset:
    """A split's photos under the validation's pipeline without its truth."""
    train, val = (list(data_sets(cfg[f"{s}_dataloader"].dataset)) for s in (split, "val"))
    if len(train) > 1:
        raise ValueError(
            f"{split}_dataloader.dataset joins {len(train)} data sets; make a file for each"
        )
    pipeline = [t for t in val[0]["pipeline"] if t["type"] != "LoadAnnotations"]
    dataset = _unfiltered(train[0] | {"pipeline": pipeline}, cfg)
    if not isinstance(dataset, CocoDataset):
        raise ValueError(f"{type(dataset).__name__}: recall is measured on COCO-style data sets")
    return dataset


def _unfiltered(part: dict, cfg: Config) -> BaseDetDataset:
    """The data set with every photo of its annotation file, without proposals."""
    whole: dict[str, Any] = {"test_mode": True, "filter_cfg": None, "proposal_file": None}
    with (
        DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")),
        redirect_stdout(io.StringIO()),
    ):
        return DATASETS.build({**part, **whole, "indices": None})


def _photos_of(dataset: BaseDetDataset) -> list[Photo]:
    infos = map(dataset.get_data_info, range(len(dataset)))
    return [Photo(Path(i["img_path"]), i["height"], i["width"]) for i in infos]


def _readable(loader: DataLoader) -> Iterator:
    try:
        yield from loader
    except Exception as e:  # of any type, with a worker's traceback; the photo is in the last line
        raise ValueError(f"a photo cannot be read: {str(e).strip().splitlines()[-1]}") from e
