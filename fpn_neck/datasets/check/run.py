"""Checks of the data sets of a config, every file of them or, quickly, a few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpn_neck.datasets.check import coco, heads, masks, outlines
from fpn_neck.datasets.check import findings as kinds
from fpn_neck.datasets.check.coco import (
    Boxes,
    check_annotations,
    check_categories,
    has_boxes,
    read_coco,
)
from fpn_neck.datasets.check.findings import Finding, Track, attempt
from fpn_neck.datasets.check.heads import check_classes
from fpn_neck.datasets.check.listing import (
    Source,
    coco_pairs,
    has_names,
    is_panoptic,
    kind_of,
    left_over,
    mask_pairs,
    reading_of,
    repeated,
)
from fpn_neck.datasets.check.masks import Examined, Pair, Reading, Tally, examine, missing

NOT_LISTED = "data set can't list its files"
EMPTY = "data set has no photo"
SAMPLE = 32  # photos and masks of a data set that a quick check opens
RARE = 0.01  # of the photos


class RefusedData(kinds.RefusedData):
    """See `findings.RefusedData`."""

    remedies = {
        **masks.REMEDY,
        **coco.REMEDY,
        **outlines.REMEDY,
        **heads.REMEDY,
        kinds.UNREADABLE: "copy, export or download the file again, or remove it",
        kinds.BOM: "save it as UTF-8 without byte order mark",
        NOT_LISTED: "correct data_root, data_prefix, ann_file or metainfo",
        EMPTY: "correct data_root, data_prefix, img_suffix or ann_file",
    }

    def brief(self, limit: int = 5) -> list[str]:
        """A line for each of the first findings: file, value, rule and remedy."""
        lines = [
            f"{file}: {value}: {kind}; remedy: {self.remedies[kind]}"
            for kind, file, value in self.findings[:limit]
        ]
        if len(self.findings) > limit:
            lines.append(f"… and {len(self.findings) - limit} more findings")
        return lines


class Histogram(NamedTuple):
    """Classes of a data set with ``total`` photos.

    Attributes:
        unit: of ``amounts``, 'pixels' or 'boxes'.
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
    """What was found in one data set; ``notes`` are worth knowing and no findings."""

    name: str
    photos: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)


@dataclass(frozen=True)
class DatasetCheck:
    """Checks one data set after the other.

    Args:
        config: its name, for the findings that lie in it.
        model: its ``model``.
        workers: processes.
        track: wraps what is iterated over, for a progress bar.
        quick: ask for every file, but open the masks and the photos' headers of ``SAMPLE`` alone,
            and leave boxes alone.
    """

    config: str
    model: Mapping[str, Any]
    workers: int = 1
    track: Track = lambda results, total: results
    quick: bool = False

    def __call__(self, source: Source) -> Report:
        report, dataset = Report(source.name), source.dataset
        if isinstance(dataset, Exception):
            self._add_unlisted(report, dataset)
            return report
        kind = kind_of(dataset)
        if not kind:
            known = dataset if isinstance(dataset, str) else type(dataset).__name__
            report.notes.append(f"{known}: files of this kind are not checked")
            return report
        if not getattr(dataset, "return_classes", False):  # with them, words take K's place
            meta = dataset.metainfo
            report.findings += check_classes(self.config, source.name, self.model, meta)
        (self._check_masks if kind == "masks" else self._check_coco)(source, report)
        return report

    def _add_unlisted(self, report: Report, error: Exception) -> None:
        value = f"{report.name}: {type(error).__name__}: {' '.join(str(error).split())}"
        report.findings.append(Finding(NOT_LISTED, self.config, value))

    def _check_masks(self, source: Source, report: Report) -> None:
        reading = reading_of(source, self.model)
        dataset, file = source.dataset, Path(source.dataset.ann_file or ".")
        if not attempt(lambda _: has_names(dataset), file, None, report.findings):
            return
        try:
            pairs = mask_pairs(source.dataset, reading is not None)
        except Exception as error:  # whatever its class, or the framework, raises
            self._add_unlisted(report, error)
            return
        if not pairs:
            where = f"no *{dataset.img_suffix} in {dataset.data_prefix['img_path']}"
            if file.is_file():
                where = f"no name in {file}"
            report.findings.append(Finding(EMPTY, self.config, f"{report.name}: {where}"))
        if not self.quick and reading:
            report.findings += left_over(dataset, pairs)
        report.findings += [] if self.quick else repeated(dataset, pairs)
        tally = self._check_pairs(pairs, reading, report)
        if tally and not self.quick:
            classes = source.dataset.metainfo.get("classes")
            if not classes or isinstance(classes, str):
                classes = [str(i) for i in range(reading.num_classes)]
            counts = Histogram(classes, "pixels", tally.pixels, tally.masks, len(pairs))
            report.histograms.append(counts)

    def _check_coco(self, source: Source, report: Report) -> None:
        dataset = source.dataset
        file = Path(dataset.ann_file)
        panoptic = is_panoptic(dataset)
        content = attempt(partial(read_coco, panoptic=panoptic), file, None, report.findings)
        if content is None:
            return
        if panoptic:
            report.notes.append("maps of segments are not checked")
        if not content["images"]:
            report.findings.append(Finding(EMPTY, file.as_posix(), "its list 'images' is empty"))
        classes = dataset.metainfo.get("classes")
        if classes and not isinstance(classes, str):
            name = file.as_posix()
            report.findings += check_categories(name, content, classes)
            if _needs_boxes(source) and not has_boxes(content, classes):
                value = f"{len(content['annotations'])} annotations, none of {len(classes)} classes"
                report.findings.append(Finding(coco.NO_BOX, name, value))
            if not self.quick:
                outlines = bool((source.loader or {}).get("with_mask"))
                found = check_annotations(
                    name, content, classes, unique=not panoptic, outlines=outlines
                )
                self._add_boxes(found, len(content["images"]), classes, report)
        reading = reading_of(source, self.model)
        try:
            pairs = coco_pairs(dataset, content, reading is not None)
        except Exception as error:  # as above
            self._add_unlisted(report, error)
            return
        report.findings += [] if self.quick else repeated(dataset, pairs)
        self._check_pairs(pairs, reading, report)

    def _add_boxes(self, found: Boxes, total: int, classes: Sequence[str], report: Report) -> None:
        report.findings += found.findings
        report.histograms.append(Histogram(classes, "boxes", found.boxes, found.photos, total))
        report.notes += [
            f"{count} boxes of {category!r}, which is none of the classes, are left out"
            for category, count in found.left_out.items()
        ]

    def _check_pairs(
        self, pairs: list[Pair], reading: Reading | None, report: Report
    ) -> Tally | None:
        """Look at photos and masks, and count the labels."""
        report.photos = len(pairs)
        if self.quick:
            report.findings += [finding for pair in pairs for finding in missing(pair)]
            pairs = [p for p in pairs[:: -(-len(pairs) // SAMPLE) or 1] if not missing(p)]
        tally = reading and Tally(reading)
        for pair, findings, mask in self._examined(pairs, reading):
            report.findings += findings
            if mask:
                tally.add(mask, pair.mask)
        if tally:
            report.findings += tally.findings(f"{self.config}: {report.name}")
        return tally

    def _examined(self, pairs: list[Pair], reading: Reading | None) -> Iterable[Examined]:
        job = partial(examine, reading=reading, header_only=self.quick)
        yield from self.track(self._map(job, pairs), len(pairs))

    def _map(self, job: partial, pairs: list[Pair]) -> Iterator[Examined]:
        if self.workers == 1:
            yield from map(job, pairs)
            return
        with ProcessPoolExecutor(self.workers) as pool:
            yield from pool.map(job, pairs, chunksize=4)


def _needs_boxes(source: Source) -> bool:
    """A part of the training data may be background alone, if that isn't filtered out."""
    names = source.name.split(", ")
    part = any(name.startswith("train ") for name in names)
    filters = (source.dataset.filter_cfg or {}).get("filter_empty_gt", False)
    return "train" in names or (part and filters)
