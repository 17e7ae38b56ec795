"""What a test run counts, and which photos it keeps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

from mmcv.transforms import Compose, LoadImageFromFile  # noqa: E402
from PIL import Image  # noqa: E402

from fpn_neck.mm.seg.report.confusion import Confusion  # noqa: E402
from fpn_neck.mm.seg.report.evaluation_hook import EvaluationHook  # noqa: E402
from fpn_neck.mm.seg.report.page import label_rows  # noqa: E402

CLASSES = ("wall", "chair", "<lamp>", "vase")
IGNORED = 255


def segments(labels):
    return SimpleNamespace(data=torch.from_numpy(labels)[None])


def evaluated(tmp_path, pairs, keep, ignore_index=IGNORED):
    """A hook after a test of pairs of truth and prediction, whose photos are files."""
    hook = EvaluationHook(keep)
    meta = {"classes": CLASSES, "palette": [[0, 0, 0]] * 4}
    dataset = SimpleNamespace(metainfo=meta, pipeline=Compose([LoadImageFromFile()]))
    metrics = [SimpleNamespace(), SimpleNamespace(ignore_index=ignore_index)]
    loop = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=dataset), evaluator=SimpleNamespace(metrics=metrics)
    )
    runner = SimpleNamespace(test_loop=loop)
    hook.before_test_epoch(runner)
    for i, (truth, prediction) in enumerate(pairs):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((*truth.shape, 3), i, np.uint8)).save(path)
        sample = SimpleNamespace(
            gt_sem_seg=segments(truth), pred_sem_seg=segments(prediction), img_path=str(path)
        )
        hook.after_test_iter(runner, i, None, [sample])
    return hook


@pytest.fixture
def pairs():
    """Photos of which a share of 0, 1/8, 2/8, ... of the pixels is wrong, in mixed order."""
    rng = np.random.default_rng(0)
    found = []
    for eighths in (3, 0, 6, 1, 8, 4):
        truth = rng.integers(0, 3, (16, 16))
        wrong = np.arange(256).reshape(16, 16) % 8 < eighths
        prediction = np.where(wrong, (truth + 1) % 3, truth)
        truth[0] = IGNORED
        found.append((truth, prediction))
    return found


def test_best_and_worst_photos_are_kept_in_order(tmp_path, pairs):
    hook = evaluated(tmp_path, pairs, keep=2)
    names = [[r.path.split("/")[-1] for r in kept] for kept in (hook.best, hook.worst)]
    assert names == [["1.png", "3.png"], ["4.png", "2.png"]]
    assert hook.best[0].score == hook.best[0].accuracy == 1
    assert hook.worst[0].score == hook.worst[0].accuracy == 0
    assert (hook.best[1].photo == 3).all()
    assert hook.best[1].accuracy == pytest.approx(7 / 8)


def test_no_photos_are_kept_of_none(tmp_path, pairs):
    hook = evaluated(tmp_path, pairs, keep=0)
    assert hook.best == hook.worst == []
    assert hook.confusion.pixels.sum() == len(pairs) * 15 * 16


def test_a_label_that_the_metric_ignores_is_no_class(tmp_path, pairs):
    hook = evaluated(tmp_path, pairs, keep=0, ignore_index=0)
    expected = sum((truth[1:] != 0).sum() for truth, _ in pairs)
    assert hook.confusion.pixels.sum() == expected > 0
    assert hook.confusion.occurs.tolist() == [False, True, True, False]


def test_rows_are_sorted_by_frequency_and_have_the_iou_of_the_matrix():
    truth = np.array([[0, 0, 0, 0, 0, 1, 1, 1, 2, IGNORED]])
    prediction = np.array([[0, 0, 0, 1, 2, 1, 1, 0, 0, 3]])
    found = Confusion.of(truth, prediction, 4)
    rows = label_rows(found, CLASSES)
    assert [row["name"] for row in rows] == ["wall", "chair", "<lamp>"]  # no vase in the truth
    assert [row["iou"] for row in rows] == pytest.approx([100 * 3 / 7, 50, 0])
    assert [row["recall"] for row in rows] == pytest.approx([60, 200 / 3, 0])
    assert [row["share"] for row in rows] == pytest.approx([500 / 9, 300 / 9, 100 / 9])
    assert [row["photos"] for row in rows] == [1, 1, 1]
    assert rows[0]["confused"] == "chair 20 %, <lamp> 20 %"
    assert np.isnan(found.iou[3])
