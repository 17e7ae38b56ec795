"""`fpn_neck.OccurringIoUMetric` against a confusion matrix."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import fpn_neck  # noqa: E402, F401 (its operators let mmseg.models be imported)

pytest.importorskip("mmseg.models")

from helpers.mmseg_parts import K  # noqa: E402
from mmseg.registry import METRICS  # noqa: E402


def evaluate(pairs, classes=K, **options):
    metric = METRICS.build(dict(type="fpn_neck.OccurringIoUMetric", **options))
    metric.dataset_meta = {"classes": [f"class {i}" for i in range(classes)]}
    for prediction, label in pairs:
        sample = {
            "pred_sem_seg": {"data": torch.as_tensor(prediction)[None]},
            "gt_sem_seg": {"data": torch.as_tensor(label)[None]},
        }
        metric.process({}, [sample])
    return metric.evaluate(len(pairs))


def confusion(pairs, classes=K, ignore=255):
    """Pixels of every truth (row) and prediction (column)."""
    matrix = np.zeros((classes, classes), np.int64)
    for prediction, label in pairs:
        seen = label != ignore
        np.add.at(matrix, (label[seen], prediction[seen]), 1)
    return matrix


def reference(matrix, background=0):
    """mIoU over all labels seen anywhere, over those in the truth, the same without background."""
    hit, row, column = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    union = row + column - hit
    iou = [100 * h / u if u else None for h, u in zip(hit, union, strict=True)]
    anywhere = [x for x in iou if x is not None]
    occurring = [x for x, r in zip(iou, row, strict=True) if r]
    foreground = [x for i, x in enumerate(iou) if row[i] and i != background]
    means = [np.mean(x) if x else np.nan for x in (anywhere, occurring, foreground)]
    return [*means, len(occurring)]


NAMES = ["mIoU", "mIoU_occurring", "mIoU_foreground", "num_occurring"]
ROUNDING = 0.005 + 1e-6


def check(pairs, **options):
    found = evaluate(pairs, **options)
    ignore = options.get("ignore_index", 255)
    expected = reference(confusion(pairs, ignore=ignore), options.get("background", 0))
    for name, value in zip(NAMES, expected, strict=True):
        assert found[name] == pytest.approx(value, abs=ROUNDING, nan_ok=True), name
    return found


@pytest.mark.parametrize("background", [0, 2, 4])
@pytest.mark.parametrize("ignore_index", [255, 1])
def test_metric_against_a_confusion_matrix(background, ignore_index):
    rng = np.random.default_rng(0)
    pairs = []
    for size in [(7, 9), (12, 5), (1, 1), (30, 40)]:
        label = rng.integers(0, K - 1, size)  # label 4 is nowhere in the truth
        prediction = np.where(rng.random(size) < 0.6, label, rng.integers(0, K, size))
        label[0, 0] = 255 if ignore_index == 255 else ignore_index
        pairs.append((prediction, label))
    found = check(pairs, background=background, ignore_index=ignore_index)
    assert found["mIoU"] < found["mIoU_occurring"]  # label 4 was predicted, so mmseg counts it as 0


def test_a_label_that_was_only_predicted_is_not_counted():
    label = np.array([[0, 0, 1, 1]])
    prediction = np.array([[0, 0, 1, 3]])
    found = check([(prediction, label)])
    assert found["mIoU_occurring"] == 75.0 and found["num_occurring"] == 2
    assert found["mIoU_foreground"] == 50.0
    assert found["mIoU"] == 50.0  # (100 + 50 + 0) / 3


def test_a_label_that_was_missed_counts_as_zero():
    label, prediction = np.array([[0, 0, 1, 1]]), np.zeros((1, 4), int)
    found = check([(prediction, label)])
    assert found["mIoU_occurring"] == 25.0 and found["mIoU_foreground"] == 0.0


def test_what_is_predicted_under_ignored_pixels_counts_nowhere():
    label, prediction = np.array([[0, 1, 255, 255]]), np.array([[0, 1, 3, 1]])
    found = check([(prediction, label)])
    assert found["mIoU_occurring"] == found["mIoU"] == 100.0 and found["num_occurring"] == 2


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_nothing_to_average_is_not_a_number():
    label = np.zeros((2, 3), int)
    found = check([(label, label)])
    assert found["mIoU_occurring"] == 100.0 and np.isnan(found["mIoU_foreground"])
    found = evaluate([(label, np.full((2, 3), 255))])
    assert np.isnan(found["mIoU_occurring"]) and found["num_occurring"] == 0


def test_labels_that_occur_are_counted_over_all_photos():
    zeros, ones = np.zeros((2, 2), int), np.ones((2, 2), int)
    found = check([(zeros, zeros), (zeros, ones)])
    assert found["num_occurring"] == 2 and found["mIoU_occurring"] == 25.0


def test_mmsegs_own_numbers_stay():
    rng = np.random.default_rng(1)
    label, prediction = rng.integers(0, K, (2, 20, 20))
    found = evaluate([(prediction, label)], iou_metrics=["mIoU", "mDice"])
    matrix = confusion([(prediction, label)])
    assert found["aAcc"] == pytest.approx(100 * matrix.trace() / matrix.sum(), abs=ROUNDING)
    assert {"mIoU", "mAcc", "mDice", "mIoU_occurring"} <= set(found)


def test_format_only_writes_labels_and_measures_nothing(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    metric = METRICS.build(
        dict(type="fpn_neck.OccurringIoUMetric", format_only=True, output_dir=str(tmp_path))
    )
    metric.dataset_meta = {"classes": ["a", "b"]}
    labels = np.array([[0, 1], [1, 0]])
    metric.process(
        {}, [{"pred_sem_seg": {"data": torch.as_tensor(labels)[None]}, "img_path": "x/one.jpg"}]
    )
    assert metric.evaluate(1) == {}
    assert (np.asarray(Image.open(tmp_path / "one.png")) == labels).all()
