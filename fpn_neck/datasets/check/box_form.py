"""Files whose boxes, outlines or areas are numbers of another form than COCO's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from fpn_neck.datasets.check import kinds
from fpn_neck.datasets.check.boxes import Entry, is_box, is_empty
from fpn_neck.datasets.check.findings import Finding
from fpn_neck.datasets.check.outlines import Extent, polygons_extent, wrong_polygons

_LOOKED_AT = 2000  # annotations
_TOLERANCE = 2.0  # px, or a tenth of the box
_LARGER = 1.2  # an area than its box, and 4 px

_Form = Callable[[float, float, float, float], Extent]
_COCO = "[x, y, width, height]"
_FORMS: dict[str, _Form] = {
    _COCO: lambda x, y, w, h: (x, y, x + w, y + h),
    "[x1, y1, x2, y2]": lambda x1, y1, x2, y2: (x1, y1, x2, y2),
    "[x centre, y centre, width, height]": lambda x, y, w, h: (
        *(x - w / 2, y - h / 2),
        *(x + w / 2, y + h / 2),
    ),
    "[y, x, height, width]": lambda y, x, h, w: (x, y, x + w, y + h),
}


def check_form(file: str, content: Entry) -> list[Finding]:
    """Whether outlines, or areas if there are none, say that ``bbox`` is not COCO's form.

    A single box may differ from its outline. A file is judged by the form that most boxes have; it
    looks at the first 2,000 annotations, since a file has one form.
    """
    boxes = [one for one in content["annotations"][:_LOOKED_AT] if is_box(one)]
    for what, fits in (("outlines", _fits_outlines(boxes)), ("areas", _fits_areas(boxes))):
        counts = Counter(form for forms in fits for form in (*forms, "all"))
        best = max(_FORMS, key=lambda form: counts[form])
        if counts[best] > counts["all"] / 2 and counts[_COCO] < counts["all"] / 10:
            value = f"{counts[best]} of {counts['all']} boxes fit their {what} as {best}"
            return [Finding(kinds.BOX_FORM, file, f"{value}, {counts[_COCO]} as {_COCO}")]
    return []


def _fits_outlines(boxes: Iterable[Entry]) -> Iterator[list[str]]:
    """The forms by which each box with polygons has their extent."""
    for one in boxes:
        polygons = one.get("segmentation")
        if polygons and isinstance(polygons, list) and not wrong_polygons(polygons):
            extent = polygons_extent(polygons)
            yield [name for name, form in _FORMS.items() if _near(form(*one["bbox"]), extent)]


def _near(box: Extent, extent: Extent) -> bool:
    sides = extent[2] - extent[0], extent[3] - extent[1]
    return all(
        abs(a - b) <= max(_TOLERANCE, sides[i % 2] / 10)
        for i, (a, b) in enumerate(zip(box, extent, strict=True))
    )


def _fits_areas(boxes: Iterable[Entry]) -> Iterator[list[str]]:
    """Of each box without outline, whether its area is width * height in COCO's form or corners."""
    for one in boxes:
        if not one.get("segmentation"):
            x, y, width, height = one["bbox"]
            areas = {_COCO: width * height, "[x1, y1, x2, y2]": (width - x) * (height - y)}
            yield [k for k, area in areas.items() if abs(area - one["area"]) <= 0.02 * abs(area)]


def check_areas(file: str, judged: Iterable[Entry]) -> list[Finding]:
    """Whether areas, by which the evaluation tells small objects from large ones, fit the boxes."""
    boxes = [one for one in islice(judged, _LOOKED_AT) if is_box(one) and not is_empty(one)]
    sizes = {one["bbox"][2] * one["bbox"][3] for one in boxes}
    larger = [one for one in boxes if one["area"] > _LARGER * _area(one) + 4]
    if len(larger) > len(boxes) / 10:
        one = larger[0]
        value = f"{len(larger)} of {len(boxes)} are larger than their boxes, as that of annotation "
        value += f"{one['id']!r}: {one['area']}, bbox {one['bbox']}"
    elif len(boxes) >= 10 and len(sizes) > 1 and len({one["area"] for one in boxes}) == 1:
        value = f"all {len(boxes)} are {boxes[0]['area']}"
    else:
        return []
    return [Finding(kinds.AREA, file, value)]


def _area(one: Entry) -> float:
    return one["bbox"][2] * one["bbox"][3]
