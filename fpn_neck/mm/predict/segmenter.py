"""A `Segmenter` on photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fpn_neck.export.metadata import Metadata
from fpn_neck.export.runtime import resize
from fpn_neck.models.pretrained import normalised
from fpn_neck.models.segmenter import Segmenter
from fpn_neck.utils.arguments import check_device
from fpn_neck.utils.photos import name_of, pixels_of
from fpn_neck.utils.results.predictor import Photo, Predictor
from fpn_neck.utils.results.result import Result


class SegmenterPredictor(Predictor):
    """Photos -> their labels, by a folder of `Segmenter.save_pretrained`.

    A photo is resized by the folder's ``fit`` or ``exact``, else keeps its size. Labels have the
    photo's size. Large images are predicted in tiles.

    Args:
        folder: see `Segmenter.from_pretrained`.
        device: see `fpn_neck.utils.arguments.check_device`.

    Attributes:
        classes: names of the labels.

    Raises:
        FileNotFoundError, ValueError: see `Segmenter.from_pretrained`; no such device.
    """

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        self._device = check_device(device)
        self._model = Segmenter.from_pretrained(folder).to(self._device).eval()
        self._facts = self._model.facts
        if len(self._facts.mean) != 3:
            raise ValueError(
                f"{folder}: the model takes {len(self._facts.mean)} channels, and photos are RGB; "
                "Segmenter.from_pretrained gives the model for other images"
            )
        self.classes = self._facts.classes
        rule = Metadata("segmentation", fit=self._facts.fit, exact=self._facts.exact)
        self._resized = rule.resized

    def predict(self, photos: Sequence[Photo]) -> list[Result]:
        return [self._result(photo) for photo in photos]  # of any size, which no batch has

    def _result(self, photo: Photo) -> Result:
        image = pixels_of(photo)
        size = image.shape[0], image.shape[1]
        resized = resize(image, self._resized(*size))
        pixels = torch.tensor(resized, device=self._device)  # a copy: PIL's arrays are read-only
        found = self._model.predict(
            normalised(pixels, self._facts), size=size if resized is not image else None
        )
        labels = found[0].cpu().numpy()
        labels = labels.astype(np.min_scalar_type(max(len(self.classes) - 1, 1)))
        return Result(image, self.classes, self._facts.palette, photo=name_of(photo), labels=labels)
