"""The answer of every model for one photo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from PIL import Image

from fpn_neck.utils.results import coco
from fpn_neck.utils.results.arrays import Arrays
from fpn_neck.utils.results.drawing import draw
from fpn_neck.utils.results.folder import ResultsFolder
from fpn_neck.utils.results.options import OPACITY
from fpn_neck.utils.results.plain import SCHEMA, plain
from fpn_neck.utils.results.to_supervision import to_supervision

if TYPE_CHECKING:
    import supervision


class Result(Arrays):
    """What a model predicts for one photo: see `Arrays` for the arrays, with ways to use them."""

    def draw(self, *, side_by_side: bool | None = None, opacity: float = OPACITY) -> Image.Image:
        """The overlay: the photo with the prediction on it.

        Args:
            side_by_side: put the photo to the left. None: only if there are labels.
            opacity: of the colours of labels and masks, 0 to 1.
        """
        return draw(self, side_by_side=side_by_side, opacity=opacity)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data: what `to_json` writes, without ``schema``."""
        return plain(self)

    def to_json(self) -> str:
        """JSON with the number of its schema: size, areas, objects with masks as COCO's RLE, ..."""
        return json.dumps({"schema": SCHEMA, "classes": list(self.classes), **self.to_dict()})

    def to_coco(
        self, image_id: int = 1, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO's results: objects with ``bbox`` and ``segmentation``; of a panoptic model one dict.

        Labels of a segmenter give one mask per class, as COCO-Stuff has it.

        Args:
            image_id: the photo's in the COCO file.
            category_ids: {name: id} of the COCO file. None: index + 1.
        """
        return coco.results(self, image_id, category_ids)

    def to_supervision(self) -> supervision.Detections:
        """``supervision.Detections``: boxes, masks, scores, class names.

        Labels give one mask per class, segments one mask per segment.

        Raises:
            ImportError: supervision is not installed.
        """
        return to_supervision(self)

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write all files of the result into a folder, as ``fpn-neck predict`` does.

        What was saved there before stays, but for a result of the same photo and name. The tables
        are written again each time: many photos are faster by ``fpn-neck predict``.

        Args:
            name: of the files, without suffix; None: the photo's, and "photo" for an array.

        Raises:
            OSError: they cannot be written.
            ValueError: the folder has this name for another photo, or is of another model, or its
                tables can't be read.
        """
        results = ResultsFolder(Path(folder), self.classes)
        name = PurePath(name or (Path(self.photo).stem if self.photo else "photo")).as_posix()
        results.keep_earlier(name, self.photo)
        results.add(self, name)
        results.finish()
