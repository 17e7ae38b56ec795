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

SCALES = (0.8, 1.0, 1.25)  # times the size in testing, as the clothing recipes' tta_pipeline


class SegmenterPredictor(Predictor):
    """Photos -> their labels, by a folder of `Segmenter.save_pretrained`.

    A photo is resized by the folder's ``fit`` or ``exact``, else keeps its size. Labels have the
    photo's size. Large images are predicted in tiles.

    With ``tta``, the model sees a photo at `SCALES` times this size, each time also mirrored, and
    the mean of the probabilities counts.

    Args:
        folder: see `Segmenter.from_pretrained`.
        device: see `fpn_neck.utils.arguments.check_device`.
        tta: test-time augmentation.

    Attributes:
        classes: names of the labels.

    Raises:
        FileNotFoundError, ValueError: see `Segmenter.from_pretrained`; no such device.
    """

    def __init__(self, folder: str | Path, device: str = "auto", *, tta: bool = False) -> None:
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
        self._resized, self._tta = rule.resized, tta

    def predict(self, photos: Sequence[Photo]) -> list[Result]:
        return [self._result(photo) for photo in photos]  # of any size, which no batch has

    def _result(self, photo: Photo) -> Result:
        image = pixels_of(photo)
        size = image.shape[0], image.shape[1]
        if self._tta:
            sizes = [self._resized(*size, scale) for scale in SCALES]
            # A view of one cell has no variance that a norm could divide by.
            cell = max(self._model.head.scale_heads.strides)
            sizes = [s for s in sizes if max(s) > cell] or [self._resized(*size)]
            found = self._model.predict_views([self._input(image, s) for s in sizes], size)
        else:
            expected = self._resized(*size)
            of_photo = None if expected == size else size
            found = self._model.predict(self._input(image, expected), size=of_photo)[0]
        labels = found.cpu().numpy()
        labels = labels.astype(np.min_scalar_type(max(len(self.classes) - 1, 1)))
        return Result(
            image,
            self.classes,
            self._facts.palette,
            photo=name_of(photo),
            labels=labels,
            first_value=self._facts.first_value,
        )

    def _input(self, image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """The image at a size, (1, 3, *size)."""
        pixels = resize(image, size)
        # A copy: PIL's arrays are read-only.
        return normalised(torch.tensor(pixels, device=self._device), self._facts)
