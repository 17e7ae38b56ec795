"""Which labels pixels have, and which ones they got: counts over photos, and IoU from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Confusion:
    """Pixels by true and predicted label; at first of no photo.

    Args:
        count: number of labels, K.

    Attributes:
        pixels: of (true label, predicted label), int64 (K, K).
        photos: whose truth holds the label, int64 (K,).
    """

    def __init__(self, count: int) -> None:
        self.pixels = np.zeros((count, count), np.int64)
        self.photos = np.zeros(count, np.int64)

    @classmethod
    def of(
        cls,
        truth: np.ndarray,
        prediction: np.ndarray,
        count: int,
        ignore_index: int | None = None,
    ) -> Confusion:
        """Of one photo, labels (H, W) each.

        Pixels whose truth is ``ignore_index`` and labels that are not in 0..count-1 are left out.
        """
        truth, prediction = truth.astype(np.int64), prediction.astype(np.int64)
        known = (truth >= 0) & (truth < count) & (prediction >= 0) & (prediction < count)
        if ignore_index is not None:
            known &= truth != ignore_index
        pairs = count * truth[known] + prediction[known]
        found = cls(count)
        found.pixels = np.bincount(pairs, minlength=count * count).reshape(count, count)
        found.photos = found.occurs.astype(np.int64)
        return found

    def add(self, other: Confusion) -> None:
        """Count another one's photos, too."""
        self.pixels += other.pixels
        self.photos += other.photos

    def merged(self, groups: Sequence[int]) -> Confusion:
        """With one label for several; ``groups`` gives each label's new one. It has no photos."""
        member = np.eye(max(groups) + 1, dtype=np.int64)[list(groups)]
        found = Confusion(member.shape[1])
        found.pixels = member.T @ self.pixels @ member
        return found

    @property
    def occurs(self) -> np.ndarray:
        """Whether the truth holds the label, bool (K,)."""
        return self.pixels.sum(1) > 0

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each label, (K,); NaN for a label that occurs nowhere."""
        right = self.pixels.diagonal().astype(float)
        union = self.pixels.sum(0) + self.pixels.sum(1) - right
        return np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)

    @property
    def mean_iou(self) -> float:
        """Over the labels that the truth holds."""
        return float(self.iou[self.occurs].mean())

    @property
    def accuracy(self) -> float:
        """Share of the pixels with the right label."""
        return float(self.pixels.trace() / self.pixels.sum())

    def by_frequency(self) -> list[int]:
        """The labels that the truth holds, the most frequent one first."""
        pixels = self.pixels.sum(1)
        return [int(i) for i in np.argsort(-pixels, kind="stable") if pixels[i]]
