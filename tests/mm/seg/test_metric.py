"""The metrics of label maps: over the labels that occur, and of super-classes."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import fpn_neck  # noqa: E402, F401 (mmseg's models need its operators)
from fpn_neck.datasets import clothing  # noqa: E402

pytest.importorskip("mmseg.models")

from mmengine.logging import MMLogger  # noqa: E402

from fpn_neck.mm.seg.datasets import ClothingDataset, NineClothingDataset  # noqa: E402
from fpn_neck.mm.seg.metric import OccurringIoUMetric, SuperClassIoUMetric  # noqa: E402

IGNORED = 255


@pytest.fixture(autouse=True)
def _logger():
    MMLogger.get_instance("metric")


def evaluate(metric, meta, pairs):
    metric.dataset_meta = meta
    for prediction, truth in pairs:
        maps = {"pred_sem_seg": prediction, "gt_sem_seg": truth}
        sample = {name: {"data": torch.from_numpy(m)[None]} for name, m in maps.items()}
        metric.process({}, [sample])
    return metric.evaluate(len(pairs))


def expected(pairs, count, table=None):
    """IoU over the labels that occur and pixel accuracy in percent, by a confusion matrix."""
    matrix = np.zeros((count, count), np.int64)
    for prediction, truth in pairs:
        seen = truth != IGNORED
        p, t = prediction[seen], truth[seen]
        p, t = (p, t) if table is None else (table[p], table[t])
        np.add.at(matrix, (t, p), 1)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    occurs = matrix.sum(1) > 0
    iou = matrix.diagonal()[occurs] / union[occurs]
    return 100 * iou.mean(), 100 * matrix.trace() / matrix.sum()


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 59, (3, 20, 30))
    predictions = np.where(
        rng.random(truths.shape) < 0.6, truths, rng.integers(0, 59, truths.shape)
    )
    truths[:, :3] = IGNORED
    return list(zip(predictions, truths, strict=True))


def test_one_prediction_is_judged_by_59_labels_and_by_nine(pairs):
    table = np.asarray(clothing.SUPER_OF)
    for metric, prefix, wanted in (
        (OccurringIoUMetric(), "", expected(pairs, 59)),
        (SuperClassIoUMetric(), "super/", expected(pairs, 9, table)),
    ):
        found = evaluate(metric, ClothingDataset.METAINFO, pairs)
        names = (f"{prefix}mIoU_occurring", f"{prefix}aAcc")
        assert [found[name] for name in names] == pytest.approx(wanted, abs=0.01)


def test_a_model_of_nine_is_judged_by_nine(pairs):
    table = np.asarray([*clothing.SUPER_OF, *[IGNORED] * 197])
    merged = [(table[p], table[t]) for p, t in pairs]
    found = evaluate(SuperClassIoUMetric(), NineClothingDataset.METAINFO, merged)
    from_59 = evaluate(SuperClassIoUMetric(), ClothingDataset.METAINFO, pairs)
    assert found == pytest.approx(from_59)


@pytest.mark.parametrize(
    "groups", [None, {"a": ("cat",)}, {"a": ("cat", "dog"), "b": ("dog",)}], ids=str
)
def test_a_label_in_no_super_class_or_in_two_is_refused(groups):
    meta = {"classes": ("cat", "dog"), "super_classes": groups}
    with pytest.raises(ValueError, match="super_classes=.*exactly one"):
        SuperClassIoUMetric().dataset_meta = meta
