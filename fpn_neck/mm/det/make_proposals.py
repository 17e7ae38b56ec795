"""Proposals of an mmdet RPN for a whole data set, as a file for Fast R-CNN."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric, DumpProposals
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.fileio import dump
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader

from fpn_neck.mm.det.config_proposals import photos_of, unfiltered_dataset
from fpn_neck.mm.det.predictor import load_rpn
from fpn_neck.mm.det.proposals_file import Proposals, check_photos, check_proposals, photo_key
from fpn_neck.mm.photos import without_annotations
from fpn_neck.utils.files import check_file, write_whole
from fpn_neck.utils.progress import Track
from fpn_neck.utils.walk import data_sets


def make_proposals(
    cfg: Config, checkpoint: str, out: Path, *, split: str, device: str, track: Track
) -> dict[str, float]:
    """Write an RPN's proposals for every photo of a split, and measure their recall.

    The photos are those of the annotation file, also the ones without an object that training
    leaves out. The config's validation pipeline scales them. The file holds what mmdet's
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
        COCO's average recall, 0 to 1 (mmdet's ``CocoMetric``): AR@100, AR@300, AR@1000, and
        AR_s@1000, AR_m@1000, AR_l@1000 for small, medium and large objects; -1 for a size that no
        object has.

    Raises:
        FileNotFoundError, ValueError: the model is not an RPN; the data set is not a COCO data
            set; photos are missing, unreadable or of one name; a photo has no proposal. Nothing is
            written then.
    """
    if out.suffix not in (".pkl", ".pickle"):
        raise ValueError(f"{out}: proposals are written as a pickle, name it .pkl")
    check_file(out)
    model = load_rpn(cfg, checkpoint, device)
    dataset = _photo_dataset(cfg, split)
    photos = photos_of(dataset)
    check_photos(photos)

    with redirect_stdout(io.StringIO()):  # pycocotools says that it loads, and prints a table
        recall = CocoMetric(ann_file=dataset.ann_file, metric="proposal")
    collected = DumpProposals(output_dir=os.curdir)  # collects only: its own file could stay cut
    evaluator = Evaluator([recall, collected])
    evaluator.dataset_meta = dataset.metainfo
    workers = cfg[f"{split}_dataloader"].get("num_workers", 0)
    loader = DataLoader(dataset, num_workers=workers, collate_fn=pseudo_collate)
    for batch in track(_readable(loader), len(loader)):
        evaluator.process(model.test_step(batch), batch)

    found: dict[str, InstanceData] = {k: v for one in collected.results for k, v in one.items()}
    boxes = {key: Proposals(entry.bboxes, entry.scores) for key, entry in found.items()}
    check_proposals(f"for {out}", boxes, photos)
    for photo in photos:
        found[photo_key(photo.path)].set_metainfo({"photo_bytes": photo.path.stat().st_size})
    with redirect_stdout(io.StringIO()):
        metrics = recall.evaluate(len(dataset))
    write_whole(out, partial(dump, found, file_format="pkl"))
    return {name.removeprefix("coco/"): value for name, value in metrics.items()}


def _photo_dataset(cfg: Config, split: str) -> CocoDataset:
    """A split's photos under the validation pipeline, which loads no annotations here."""
    parts, val = (list(data_sets(cfg[f"{s}_dataloader"].dataset)) for s in (split, "val"))
    if len(parts) > 1:
        raise ValueError(
            f"{split}_dataloader.dataset joins {len(parts)} data sets; make a file for each"
        )
    pipeline = without_annotations(val[0]["pipeline"], cfg.get("default_scope") or "mmdet")
    dataset = unfiltered_dataset(cfg, parts[0] | {"pipeline": pipeline})
    if not isinstance(dataset, CocoDataset):
        raise ValueError(f"{type(dataset).__name__}: recall is measured on COCO-style data sets")
    return dataset


def _readable(loader: DataLoader) -> Iterator:
    try:
        yield from loader
    except Exception as e:  # of any type, with a worker's traceback; the photo is in the last line
        raise ValueError(f"a photo cannot be read: {str(e).strip().splitlines()[-1]}") from e
