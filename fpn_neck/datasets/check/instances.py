"""A COCO file and its photos without a framework's data set, for detectors in plain torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.box_form import check_form
from fpn_neck.datasets.check.boxes import Entry, count_left_out, trained_boxes
from fpn_neck.datasets.check.coco import check_annotations, check_categories, read_coco
from fpn_neck.datasets.check.evaluation import is_crowd_flag
from fpn_neck.datasets.check.findings import Finding, attempt
from fpn_neck.datasets.check.masks import Pair, check_pair, photo_size


def check_instances(file: Path, photos: Path, *, outlines: bool) -> list[Finding]:
    """Check an annotation file for training or validation, and the headers of its photos.

    Args:
        photos: the folder of the photos.
        outlines: every object needs its outline.
    """
    findings: list[Finding] = []
    content = attempt(read_coco, file, findings)
    if content is None:
        return findings
    name = file.as_posix()
    classes = [category["name"] for category in content["categories"]]
    if not content["images"]:
        findings.append(Finding(kinds.EMPTY, name, "its list 'images' is empty"))
    elif next(trained_boxes(content, classes, content["images"]), None) is None:
        counts = count_left_out(content, classes, content["images"])
        value = f"{len(content['annotations'])} annotations" + (f": {counts}" if counts else "")
        findings.append(Finding(kinds.NO_BOX, name, value))
    findings += _mixed_ids(name, content)
    findings += check_categories(name, content, classes)
    findings += check_form(name, content)
    findings += check_annotations(name, content, classes, outlines=outlines).findings
    findings += [
        Finding(kinds.NO_CROWD, name, f"annotation {one['id']!r}: iscrowd {one['iscrowd']!r}")
        for one in content["annotations"]
        if not is_crowd_flag(one.get("iscrowd", 0))
    ]
    for image in content["images"]:
        pair = Pair(photos / image["file_name"], None, (image["width"], image["height"]))
        findings += check_pair(pair, partial(photo_size, header_only=True), None)[0]
    return findings


def _mixed_ids(name: str, content: Entry) -> list[Finding]:
    """pycocotools and numpy sort the photos' ids, so that all are numbers or all are texts."""
    texts = [isinstance(image["id"], str) for image in content["images"]]
    if all(texts) or not any(texts):
        return []
    value = f"{sum(texts)} of {len(texts)} ids of images are texts, the others numbers"
    return [Finding(kinds.MIXED_IDS, name, value)]
