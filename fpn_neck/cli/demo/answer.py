"""What the page shows of a photo: overlay, legend, files."""

from __future__ import annotations

import html
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from fpn_neck.datasets.clothing import layout as clothing
from fpn_neck.export.runtime import nearest
from fpn_neck.utils.files import write_text
from fpn_neck.utils.photos import read_photo
from fpn_neck.utils.results.folder import ResultsFolder
from fpn_neck.utils.results.pictures import overlay
from fpn_neck.utils.results.predictor import Predictor
from fpn_neck.utils.results.result import Result

_SIDE = 1280  # px of the picture on the page; the files have the photo's own size
_MILLION = 10**6


@dataclass(frozen=True)
class Answer:
    """What the models say of a photo.

    Attributes:
        result: of the model that the page shows.
        objects: of the second model, the detector.
    """

    result: Result
    objects: Result | None = None

    def picture(self, opacity: float) -> Image.Image:
        """The photo with labels and boxes on it; the longer side has 1280 px at most."""
        result = _reduced(self.result)
        pixels = result.image
        if result.labels is not None:
            pixels = overlay(pixels, result.labels, result.palette[: len(result.classes)], opacity)
            result = replace(result, image=pixels, labels=None, masks=None, segment_map=None)
        for found in (result, self.objects and _reduced(self.objects)):
            if found is not None and found.boxes is not None:
                drawn = replace(found, image=pixels).draw(side_by_side=False, opacity=opacity)
                pixels = np.asarray(drawn)
        return Image.fromarray(pixels)

    def legend(self) -> str:
        """HTML: colour, name and share of the photo of every class, the largest first."""
        result, total = self.result, self.result.image[..., 0].size
        rows = [
            (100 * area / total, name, result.palette[result.classes.index(name)])
            for name, area in result.areas.items()
        ]
        cells = "".join(
            f"<tr><td><span style='background:rgb({r},{g},{b})'></span></td>"
            f"<td>{html.escape(name)}</td><td>{_percent(share)}</td></tr>"
            for share, name, (r, g, b) in sorted(rows, reverse=True)
        )
        return f"<table class='legend'>{cells}</table>" if cells else ""

    def save(self, folder: Path) -> tuple[Path | None, Path]:
        """Write the label PNG (None without labels) and the JSON into the folder."""
        name = Path(self.result.photo or "photo").stem
        ResultsFolder(folder, self.result.classes, overlay="none").add(self.result, name)
        labels, table = folder / f"labels/{name}.png", folder / f"{name}.json"
        content = json.loads(self.result.to_json())
        if self.objects:
            content["detector"] = json.loads(self.objects.to_json())
        write_text(table, json.dumps(content))
        return (labels if labels.exists() else None), table

    def merged(self) -> Answer:
        """The 59 labels of clothing photos as the nine super-classes."""
        labels = self.result.labels
        assert labels is not None
        nine = Result(
            self.result.image,
            tuple(clothing.SUPER_CLASSES),
            clothing.SUPER_PALETTE,
            photo=self.result.photo,
            labels=np.asarray(clothing.SUPER_OF, np.uint8)[labels],
        )
        return replace(self, result=nine)


class Answers:
    """The models behind the page.

    Args:
        predictor: of the model that the page shows.
        detector: its boxes are shown, too.
        folder: for the files to download.
        megapixels: of the largest photo.

    Attributes:
        can_merge: whether `Answer.merged` takes the model's labels.
    """

    def __init__(
        self, predictor: Predictor, detector: Predictor | None, folder: Path, megapixels: int
    ) -> None:
        self._predictor, self._detector = predictor, detector
        self._folder, self.megapixels = folder, megapixels
        self.can_merge = tuple(predictor.classes) == clothing.CLASSES

    def of(self, path: Path) -> Answer:
        """Predict a photo.

        Raises:
            PhotoError: it cannot be read, or is too large.
        """
        image = read_photo(path, self.megapixels * _MILLION)
        found = [p(image) for p in (self._predictor, self._detector) if p is not None]
        return Answer(*(replace(result, photo=path.name) for result in found))

    def save(self, answer: Answer) -> tuple[Path | None, Path]:
        """See `Answer.save`; every call has a folder of its own."""
        return answer.save(Path(tempfile.mkdtemp(dir=self._folder)))


def _percent(share: float) -> str:
    return f"{share:.1f} %" if share >= 0.05 else "&lt; 0.1 %"


def _reduced(result: Result) -> Result:
    height, width = result.size
    factor = _SIDE / max(height, width)
    if factor >= 1:
        return result
    size = max(1, round(height * factor)), max(1, round(width * factor))
    labels, masks = result.labels, result.masks
    return replace(
        result,
        image=np.asarray(Image.fromarray(result.image).resize(size[::-1])),
        labels=None if labels is None else nearest(labels, size),
        boxes=None if result.boxes is None else result.boxes * np.float32(factor),
        masks=None if masks is None else nearest(masks, size),
        segment_map=None,
    )
