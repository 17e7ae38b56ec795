"""Checks of a config's data sets: of every file, or a quick check of a few."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.box_form import check_form
from fpn_neck.datasets.check.boxes import (
    Entry,
    Ignored,
    count_left_out,
    never,
    photos_left,
    take,
    trained_boxes,
)
from fpn_neck.datasets.check.coco import (
    Boxes,
    check_annotations,
    check_categories,
    check_mask_sizes,
    check_outlines_exist,
    check_panoptic,
    read_coco,
)
from fpn_neck.datasets.check.evaluation import Evaluated, check_evaluation
from fpn_neck.datasets.check.findings import Finding, attempt
from fpn_neck.datasets.check.heads import check_heads
from fpn_neck.datasets.check.kinds import RARE
from fpn_neck.datasets.check.listing import (
    DataSource,
    coco_pairs,
    format_of,
    has_names,
    is_panoptic,
    left_over,
    mask_pairs,
    reading_of,
    repeated,
)
from fpn_neck.datasets.check.masks import (
    Examined,
    Pair,
    Reading,
    Tally,
    examine,
    missing,
)
from fpn_neck.datasets.check.outlines import is_ignored
from fpn_neck.utils.photo_files import photos_text
from fpn_neck.utils.progress import Track
from fpn_neck.utils.text import one_line

SAMPLE = 32  # photos and masks of a data set that a quick check opens


class Histogram(NamedTuple):
    """How often the classes occur in a data set of ``total`` photos.

    Attributes:
        unit: what ``amounts`` counts, 'pixels' or 'boxes'.
        amounts, photos: per class, int64 (K,): its pixels or boxes, and the photos with any.
    """

    classes: Sequence[str]
    unit: str
    amounts: np.ndarray
    photos: np.ndarray
    total: int

    def rows(self) -> list[tuple[str, int, int]]:
        """(name, amount, photos) of each class."""
        columns = map(str, self.classes), self.amounts.tolist(), self.photos.tolist()
        return list(zip(*columns, strict=True))

    @property
    def absent(self) -> list[str]:
        return [name for name, _, photos in self.rows() if not photos]

    @property
    def rare(self) -> list[str]:
        """Classes in one photo or in at most ``RARE`` of them."""
        limit = max(1, RARE * self.total)
        return [name for name, _, photos in self.rows() if 0 < photos <= limit]


@dataclass
class Report:
    """What was found in one data set; ``notes`` tell what is not a finding."""

    name: str
    photos: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)


@dataclass(frozen=True)
class DatasetCheck:
    """Checks the data sets of a config, one call each.

    Args:
        config: name of the config file, which findings in the config are given.
        model: the config's ``model``.
        workers: number of processes.
        track: wraps the results, for a progress bar.
        quick: check that every file exists, but read only ``SAMPLE`` masks and photos' headers of a
            data set, and of boxes only the sizes of outlines given as RLE.
    """

    config: str
    model: Mapping[str, Any]
    workers: int = 1
    track: Track[Examined] = lambda results, total: results
    quick: bool = False

    def __call__(self, source: DataSource) -> Report:
        report, dataset = Report(source.name), source.dataset
        if isinstance(dataset, Exception):
            self._add_unlisted(report, dataset)
            return report
        form = format_of(dataset)
        if not form:
            known = dataset if isinstance(dataset, str) else type(dataset).__name__
            report.notes.append(f"{known}: files of this type are not checked")
            return report
        if not getattr(dataset, "return_classes", False):  # else words replace K
            meta = dataset.metainfo
            report.findings += check_heads(self.config, source.name, self.model, meta)
        (self._check_masks if form == "masks" else self._check_coco)(source, report)
        return report

    def _add_unlisted(self, report: Report, error: Exception) -> None:
        value = f"{report.name}: {one_line(error, with_type=True)}"
        unknown = isinstance(error, KeyError) and "registry" in str(error)  # mmengine's
        kind = kinds.NOT_REGISTERED if unknown else kinds.NOT_LISTED
        report.findings.append(Finding(kind, self.config, value))

    def _check_masks(self, source: DataSource, report: Report) -> None:
        reading = reading_of(source, self.model)
        if reading and not reading.fits:
            value = f"{report.name}: {reading.describe()}"
            report.findings.append(Finding(kinds.EIGHT_BITS, self.config, value))
            reading = None
        dataset, file = source.dataset, Path(source.dataset.ann_file or ".")
        if not attempt(partial(has_names, dataset=dataset), file, report.findings):
            return
        try:
            pairs = mask_pairs(source.dataset, reading is not None)
            left = take(pairs, source.indices)
        except Exception as error:  # of any type: the data set's class or the framework raises it
            self._add_unlisted(report, error)
            return
        if not pairs:
            folder = dataset.data_prefix["img_path"]
            where = f"no *{dataset.img_suffix} in {folder}{photos_text(Path(folder or '.'))}"
            if file.is_file():
                where = f"no name in {file}"
            report.findings.append(Finding(kinds.EMPTY, self.config, f"{report.name}: {where}"))
        elif not left:
            value = f"{report.name}: indices={source.indices} leave none of {len(pairs)} photos"
            report.findings.append(Finding(kinds.FILTERED, self.config, value))
        if not self.quick and reading:
            report.findings += left_over(dataset, pairs)
        report.findings += [] if self.quick else repeated(dataset, pairs)
        tally = self._check_pairs(pairs, reading, source, report)
        if tally and not self.quick:
            classes = source.dataset.metainfo.get("classes")
            if not classes or isinstance(classes, str):
                classes = [str(i) for i in range(len(tally.pixels))]
            counts = Histogram(classes, "pixels", tally.pixels, tally.masks, len(pairs))
            report.histograms.append(counts)

    def _check_coco(self, source: DataSource, report: Report) -> None:
        dataset = source.dataset
        file = Path(dataset.ann_file)
        panoptic = is_panoptic(dataset)
        content = attempt(partial(read_coco, panoptic=panoptic), file, report.findings)
        if content is None:
            return
        if panoptic:
            report.notes.append("maps of segments are not checked")
        if not content["images"]:
            report.findings.append(
                Finding(kinds.EMPTY, file.as_posix(), "its list 'images' is empty")
            )
        classes = dataset.metainfo.get("classes")
        if classes and not isinstance(classes, str):
            self._check_boxes(source, Evaluated(file, content, [], classes, panoptic), report)
        reading = reading_of(source, self.model)
        if reading and not reading.fits:
            report.notes.append(f"label maps of {reading.num_classes} classes are not checked")
            reading = None
        try:
            pairs = coco_pairs(dataset, content, reading is not None)
        except Exception as error:  # as above
            self._add_unlisted(report, error)
            return
        report.findings += [] if self.quick else repeated(dataset, pairs)
        self._check_pairs(pairs, reading, source, report)

    def _check_boxes(self, source: DataSource, data: Evaluated, report: Report) -> None:
        """Categories, what is left for training, what the evaluators need, and every box."""
        name, content, classes = data.file.as_posix(), data.content, data.classes
        report.findings += check_categories(name, content, classes)
        if data.panoptic:
            report.findings += check_panoptic(name, content, classes)
        else:
            report.findings += check_form(name, content)
        try:
            data = data._replace(photos=photos_left(source.dataset, content, source.indices))
        except Exception as error:  # of any type: indices or filter_cfg are none that mmdet takes
            self._add_unlisted(report, error)
            return
        report.findings += _nothing_left(source, data)
        if len(data.photos) < len(content["images"]):
            left = f"{len(data.photos)} of {len(content['images'])} photos"
            report.notes.append(f"filter_cfg and indices leave {left}")
        outlines = bool((source.loader or {}).get("with_mask"))
        for evaluation in source.evaluations:
            found = check_evaluation(self.config, evaluation, data, quick=self.quick)
            report.findings += [finding for finding in found if finding not in report.findings]
            outlines |= "segm" in evaluation.metrics
        if not self.quick:
            boxes = check_annotations(
                name, content, classes, unique=not data.panoptic, outlines=outlines
            )
            self._add_boxes(boxes, len(content["images"]), classes, report)
        elif outlines and not data.panoptic:
            report.findings += check_mask_sizes(name, content, classes)
            if all(finding.kind != kinds.NO_OUTLINE for finding in report.findings):
                report.findings += check_outlines_exist(name, content, classes)

    def _add_boxes(self, found: Boxes, total: int, classes: Sequence[str], report: Report) -> None:
        report.findings += found.findings
        report.histograms.append(Histogram(classes, "boxes", found.boxes, found.photos, total))
        report.notes += [
            f"{count} boxes of {category!r}, which is not one of the classes, are skipped"
            for category, count in found.left_out.items()
        ]
        report.notes += [f"{n} boxes {why} are not trained on" for why, n in found.ignored.items()]

    def _check_pairs(
        self, pairs: list[Pair], reading: Reading | None, source: DataSource, report: Report
    ) -> Tally | None:
        """Read photos and masks, and count the labels; None if no masks are read."""
        report.photos = len(pairs)
        if self.quick:
            report.findings += [finding for pair in pairs for finding in missing(pair)]
            pairs = [p for p in pairs[:: -(-len(pairs) // SAMPLE) or 1] if not missing(p)]
        tally = Tally(reading) if reading else None
        for pair, findings, mask in self._examined(pairs, reading, source):
            report.findings += findings
            if tally and mask and pair.mask:
                tally.add(mask, pair.mask)
        if tally:
            report.findings += tally.findings(f"{self.config}: {report.name}")
        return tally

    def _examined(
        self, pairs: list[Pair], reading: Reading | None, source: DataSource
    ) -> Iterable[Examined]:
        job = partial(
            examine,
            reading=reading,
            header_only=self.quick,
            scales=source.scales,
            turned=source.turned,
        )
        yield from self.track(self._map(job, pairs), len(pairs))

    def _map(self, job: Callable[[Pair], Examined], pairs: list[Pair]) -> Iterator[Examined]:
        if self.workers == 1:
            yield from map(job, pairs)
            return
        with ProcessPoolExecutor(self.workers) as pool:
            yield from pool.map(job, pairs, chunksize=4)


def _nothing_left(source: DataSource, data: Evaluated) -> list[Finding]:
    """Whether mmdet's rules leave no photo, or no box for training."""
    content, file = data.content, data.file.as_posix()
    classes = source.dataset.metainfo.get("thing_classes", data.classes)

    needs_boxes, ignored = _needs_boxes(source), _ignored(source)

    def has_box(photos: Sequence[Entry]) -> bool:
        return next(trained_boxes(content, classes, photos, ignored), None) is not None

    if not content["images"]:
        return []
    if not data.photos and (not needs_boxes or has_box(content["images"])):
        filters = f"filter_cfg={source.dataset.filter_cfg}, indices={source.indices}"
        value = f"{source.name}: {filters} leave none of {len(content['images'])} photos"
        return [Finding(kinds.FILTERED, file, value)]
    if not needs_boxes or has_box(data.photos):
        return []
    photos = data.photos or content["images"]
    counts = count_left_out(content, classes, photos, ignored)
    value = f"{len(content['annotations'])} annotations" + (f": {counts}" if counts else "")
    return [Finding(kinds.NO_BOX, file, value)]


def _ignored(source: DataSource) -> Ignored:
    """Which boxes the transform that reads outlines ignores for them."""
    loader = source.loader or {}
    if not loader.get("with_mask"):
        return never
    return partial(is_ignored, polygons_only=not loader.get("poly2mask", True))


def _needs_boxes(source: DataSource) -> bool:
    """Whether the data set has to have a box, for training.

    One of several parts may be background only, unless photos without boxes are filtered out.
    """
    names = source.name.split(", ")
    is_part = any(name.startswith("train ") for name in names)
    filters = (source.dataset.filter_cfg or {}).get("filter_empty_gt", False)
    return "train" in names or bool(is_part and filters)
