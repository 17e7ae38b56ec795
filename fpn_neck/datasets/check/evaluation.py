"""Checks of an evaluator's annotation file: what it needs, and whether its photos are the same."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.box_form import check_areas, check_form
from fpn_neck.datasets.check.boxes import Entry, category_ids
from fpn_neck.datasets.check.coco import check_annotations, check_categories, read_coco
from fpn_neck.datasets.check.findings import Finding, attempt
from fpn_neck.utils.text import first_few


class Evaluation(NamedTuple):
    """An evaluator of a config that reads, or makes, a COCO file.

    Attributes:
        name: its place in the config, such as ``val_evaluator``.
        ann_file: the annotations that it judges by; None takes them from the samples.
        metrics: such as 'bbox' and 'segm'.
        panoptic: the file is a panoptic one.
        scores: whether it computes scores, rather than write results only.
        sees_instances: whether the samples hold their annotations.
        whole: whether it judges all photos of one data set, not those of several.
    """

    name: str
    ann_file: str | None
    metrics: tuple[str, ...] = ("bbox",)
    panoptic: bool = False
    scores: bool = True
    sees_instances: bool = False
    whole: bool = True


class Evaluated(NamedTuple):
    """What a data set shows to its evaluator.

    Attributes:
        file: its annotation file.
        content: of that file.
        photos: those that it takes from the file.
        panoptic: the file is a panoptic one.
    """

    file: Path
    content: Entry
    photos: Sequence[Entry]
    classes: Sequence[str]
    panoptic: bool = False


def check_evaluation(
    config: str, evaluation: Evaluation, data: Evaluated, *, quick: bool = False
) -> list[Finding]:
    """Hold an evaluator against the data set whose predictions it judges.

    Args:
        config: name of the config file, which findings in the config are given.
        quick: leave out the boxes of the evaluator's own file.
    """
    if evaluation.ann_file is None:
        if evaluation.sees_instances:
            return []
        return [Finding(kinds.NO_TRUTH, config, f"{evaluation.name}.ann_file=None")]
    file = Path(evaluation.ann_file)
    findings: list[Finding] = []
    truth: Entry | None = data.content
    if not file.exists() or not file.samefile(data.file) or evaluation.panoptic != data.panoptic:
        truth, findings = _read_other(file, evaluation, data, quick=quick)
    if truth is None or not evaluation.scores:
        return findings
    what = f"{config}: {evaluation.name}.ann_file"
    findings += _compare(what, evaluation, data, truth)
    outlines = quick and "segm" in evaluation.metrics  # else each one is checked
    return findings + check_truth(file.as_posix(), truth, data.classes, outlines=outlines)


def _read_other(
    file: Path, evaluation: Evaluation, data: Evaluated, *, quick: bool
) -> tuple[Entry | None, list[Finding]]:
    """The content of an evaluator's own file, and the findings in it."""
    findings: list[Finding] = []

    def read(path: Path) -> dict[str, Any]:
        return read_coco(path, panoptic=evaluation.panoptic)

    truth = attempt(read, file, findings)
    if truth is not None:
        name = file.as_posix()
        findings += check_categories(name, truth, data.classes)
        findings += [] if evaluation.panoptic else check_form(name, truth)
        if not quick:
            unique, outlines = not evaluation.panoptic, "segm" in evaluation.metrics
            findings += check_annotations(
                name, truth, data.classes, unique=unique, outlines=outlines
            ).findings
    return truth, findings


def _compare(what: str, evaluation: Evaluation, data: Evaluated, truth: Entry) -> list[Finding]:
    """Whether both have the same photos and, of those, the same boxes."""
    shown, judged = _names(data.photos), _names(truth["images"])
    given = evaluation.ann_file
    unknown = [image for image in shown if image not in judged]
    others = [image for image in shown if image in judged and shown[image] != judged[image]]
    unseen = [image for image in judged if image not in shown] if evaluation.whole else []
    for images, problem in (
        (unknown, "{n} of the data set's {shown} photos are not in it: ids {ids}"),
        (others, "{n} of the data set's {shown} photos are other ones there: ids {ids}"),
        (unseen, "{n} of its {judged} photos are not shown by the data set: ids {ids}"),
    ):
        if images:
            count = {"n": len(images), "shown": len(shown), "judged": len(judged)}
            problem = problem.format(ids=first_few(list(map(repr, images)), 5), **count)
            return [Finding(kinds.OTHER_TRUTH, what, f"{given}: {problem}")]
    same_form = evaluation.panoptic == data.panoptic
    ours, theirs = _boxes(data.content), _boxes(truth)
    if same_form and ours and theirs and not ours & theirs:
        value = f"{given}: none of its {len(theirs)} boxes is in {data.file}"
        return [Finding(kinds.OTHER_TRUTH, what, value)]
    return []


def _names(photos: Sequence[Entry]) -> dict[Any, tuple[str, Any, Any]]:
    return {
        photo["id"]: (Path(photo["file_name"]).name, photo["width"], photo["height"])
        for photo in photos
    }


def _boxes(content: Entry) -> set[tuple[Any, str]]:
    return {(one["image_id"], str(one["bbox"])) for one in content["annotations"]}


def check_truth(
    file: str, truth: Entry, classes: Sequence[str], *, outlines: bool = False
) -> list[Finding]:
    """Check what pycocotools needs of the annotations of these classes, and mmdet does not.

    Args:
        outlines: each annotation needs an outline.
    """
    ids, photos = category_ids(truth, classes), {photo["id"]: photo for photo in truth["images"]}
    judged = [
        one
        for one in truth["annotations"]
        if one["category_id"] in ids and one["image_id"] in photos
    ]
    findings = [Finding(kinds.NO_INFO, file, "no 'info'")] * ("info" not in truth and needs_info())
    if all(one.get("iscrowd") for one in judged):
        value = f"{len(truth['annotations'])} annotations, {len(judged)} of the classes, "
        findings.append(Finding(kinds.NO_SCORE, file, value + "none of them with iscrowd 0"))
    for kind, key, is_right in (
        (kinds.NO_CROWD, "iscrowd", is_crowd_flag),
        (kinds.ID_ZERO, "id", _can_match),
        *[(kinds.NO_OUTLINE, "segmentation", bool)] * outlines,
    ):
        wrong = [one for one in judged if not is_right(one.get(key))]
        if wrong:
            where = f"annotation {wrong[0]['id']!r} of {photos[wrong[0]['image_id']]['file_name']}"
            value = f"{len(wrong)} of {len(judged)} annotations, as {where}: {key} "
            findings.append(Finding(kind, file, value + repr(wrong[0].get(key))))
    return findings + check_areas(file, judged)


def is_crowd_flag(value: Any) -> bool:
    """Whether ``value`` is 0 or 1: a text '0' would count as true."""
    return isinstance(value, (int, float)) and value in (0, 1)


def _can_match(number: Any) -> bool:
    """pycocotools writes the id of a matched annotation as a number, and 0 means that none is."""
    try:
        return float(number) != 0
    except ValueError:
        return False


@cache
def needs_info() -> bool:
    """Whether the installed pycocotools reads a file's 'info', as some versions do."""
    from pycocotools.coco import COCO

    with redirect_stdout(io.StringIO()):  # it prints what it does
        coco = COCO()
        coco.dataset = {"images": [{"id": 1}], "categories": [], "annotations": []}
        coco.createIndex()
        try:
            coco.loadRes([{"image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 1}])
        except KeyError:
            return True
    return False
