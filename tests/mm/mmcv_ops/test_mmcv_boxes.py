"""nms, soft_nms, nms_match and batched_nms of mmcv.ops on the substitute for mmcv._ext."""

import importlib
import itertools
import math

import numpy as np
import pytest
import torch
import torchvision

from fpn_neck.mm.mmcv_ops import install

pytest.importorskip("mmcv")
install()
ops = importlib.import_module("mmcv.ops")
ext = importlib.import_module("mmcv._ext")


@pytest.fixture
def crowd(random):
    """80 overlapping boxes on a field of 40 pixels, and their scores."""
    corner = random(80, 2) * 30
    return torch.cat([corner, corner + 2 + random(80, 2) * 12], dim=1), random(80)


def iou(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inter = max(width, 0.0) * max(height, 0.0)
    area_a, area_b = ((x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b))
    return inter / (area_a + area_b - inter)


def soft_nms_reference(boxes, scores, threshold, sigma, min_score, method, offset):
    """Bodla et al., fig. 2, on lists."""
    scores, alive, taken = dict(enumerate(scores)), set(range(len(boxes))), []
    while alive:
        best = max(alive, key=scores.get)
        taken.append((best, scores[best]))
        alive.remove(best)
        for other in list(alive):
            overlap = iou(boxes[best], boxes[other], offset)
            if method == "gaussian":
                scores[other] *= math.exp(-overlap * overlap / sigma)
            elif overlap >= threshold:
                scores[other] *= 1 - overlap if method == "linear" else 0
            if scores[other] < min_score:
                alive.remove(other)
    return taken


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_nms_is_torchvisions(crowd, device, threshold):
    boxes, scores = (t.to(device) for t in crowd)
    dets, kept = ops.nms(boxes, scores, threshold)
    assert torch.equal(kept, torchvision.ops.nms(boxes, scores, threshold))
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], dim=1)[kept])


def test_nms_offset_counts_the_last_pixel():
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9]])  # iou 36/126, inclusive 50/150
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]


def test_nms_keeps_overlap_equal_to_the_threshold():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.499)[1].tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_keeps_overlap_equal_to_any_threshold(dtype):
    """3 / 5 in float32 is above 0.6 in float64; mmcv compares both in float32."""
    scores = torch.tensor([0.9, 0.8], dtype=dtype)
    for part, whole in itertools.combinations(range(1, 12), 2):
        boxes = torch.tensor([[0, 0, part, 1], [0, 0, whole, 1]], dtype=dtype)
        assert ops.nms(boxes, scores, part / whole)[1].tolist() == [0, 1], (part, whole)


def test_nms_takes_boxes_and_scores_of_different_dtypes(crowd):
    boxes, scores = crowd
    expected = ops.nms(boxes, scores, 0.5)[1]
    assert torch.equal(ops.nms(boxes.double(), scores, 0.5)[1], expected)
    assert torch.equal(ops.nms(boxes.double(), scores.double(), 0.5)[1], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_takes_half_precision(crowd, dtype):
    boxes, scores = (t.to(dtype) for t in crowd)
    expected = torchvision.ops.nms(boxes.float(), scores.float(), 0.5)
    assert torch.equal(ops.nms(boxes, scores, 0.5)[1], expected)


@pytest.mark.parametrize("split_thr", [10, 10000])
def test_batched_nms_is_torchvisions(crowd, device, split_thr):
    boxes, scores = (t.to(device) for t in crowd)
    labels = torch.arange(80, device=device) % 3
    config = {"type": "nms", "iou_threshold": 0.3, "split_thr": split_thr}
    dets, kept = ops.batched_nms(boxes, scores, labels, config)
    assert torch.equal(kept, torchvision.ops.batched_nms(boxes, scores, labels, 0.3))
    assert torch.equal(dets[:, 4], scores[kept])


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_follows_the_paper(crowd, device, method, offset):
    boxes, scores = (t.to(device) for t in crowd)
    dets, taken = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.2, method, offset)
    expected = soft_nms_reference(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.2, method, offset)
    assert 1 < len(taken) < 80
    assert taken.tolist() == [index for index, _ in expected]
    assert torch.equal(dets[:, :4], boxes[taken])
    np.testing.assert_allclose(dets[:, 4].tolist(), [score for _, score in expected], rtol=1e-12)


@pytest.mark.parametrize(
    ("method", "second"),
    [("naive", None), ("linear", 0.6 * 2 / 3), ("gaussian", 0.6 * math.exp(-1 / 9 / 0.5))],
)
def test_soft_nms_by_hand(method, second):
    boxes = np.array([[0.0, 0, 2, 1], [1, 0, 3, 1], [9, 9, 10, 10]])  # iou 1/3 of the first two
    dets, taken = ops.soft_nms(boxes, np.array([0.9, 0.6, 0.1]), 0.3, 0.5, 1e-3, method)
    rows = [(0, 0.9), (1, second), (2, 0.1)]
    rows = [row for row in rows if row[1] is not None]
    assert taken.tolist() == [index for index, _ in rows]
    np.testing.assert_allclose(dets[:, 4], [score for _, score in rows], rtol=1e-12)


def test_boxes_without_area_are_not_suppressed():
    boxes, scores = torch.ones(3, 4), torch.tensor([0.5, 0.9, 0.7])
    assert ops.nms(boxes, scores, 0.5)[1].tolist() == [1, 2, 0]
    for method in ("naive", "linear"):
        dets, taken = ops.soft_nms(boxes, scores, 0.5, method=method)

        assert torch.equal(dets[:, 4], scores[taken])
    groups = ops.nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.5)
    assert [g.tolist() for g in groups] == [[1], [2], [0]]


def mmcvs_soft_nms(boxes, scores, threshold, sigma, least, method, offset):
    """The loops of mmcv 2.1's csrc/pytorch/cpu/nms.cpp: [(index, score), ...]."""

    def area(box):
        return (box[2] - box[0] + offset) * (box[3] - box[1] + offset)

    def overlap(a, b):
        sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset for i in (0, 1)]
        inter = max(0.0, sides[0]) * max(0.0, sides[1])
        union = area(a) + area(b) - inter
        return inter / union if union else math.nan

    def weight(iou):
        if method == 2:
            return math.exp(-iou * iou / sigma) if iou == iou else math.nan
        return (1 - iou if method == 1 else 0.0) if iou >= threshold else 1.0

    boxes, scores, index = boxes.tolist(), scores.tolist(), list(range(len(scores)))
    i, count = 0, len(scores)
    while i < count:
        best = i
        for k in range(i + 1, count):
            best = k if scores[best] < scores[k] else best
        for values in (boxes, scores, index):
            values[i], values[best] = values[best], values[i]
        k = i + 1
        while k < count:
            scores[k] *= weight(overlap(boxes[i], boxes[k]))
            if scores[k] < least:
                count -= 1
                for values in (boxes, scores, index):
                    values[k] = values[count]
            else:
                k += 1
        i += 1
    return list(zip(index[:count], scores[:count], strict=True))


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
def test_soft_nms_is_mmcvs_with_boxes_without_area_and_ties_too(random, method, offset):
    """The overlap of two equal boxes without area is 0 / 0, and so is a Gaussian's score then."""
    seen_nan = False
    for size in range(1, 40):
        corners = (6 * random(size, 2)).floor()
        boxes = torch.cat((corners, corners + (4 * random(size, 2)).floor()), 1)
        scores = (8 * random(size)).ceil() / 8
        number = ["naive", "linear", "gaussian"].index(method)
        dets = boxes.new_zeros(size, 5)
        taken = ext.softnms(boxes, scores, dets, 0.3, 0.5, 0.05, number, offset)
        expected = mmcvs_soft_nms(boxes, scores, 0.3, 0.5, 0.05, number, offset)
        assert taken.tolist() == [index for index, _ in expected]
        found = dets[: len(expected), 4]
        wanted = found.new_tensor([score for _, score in expected])
        torch.testing.assert_close(found, wanted, equal_nan=True)
        seen_nan |= bool(found.isnan().any())
    assert seen_nan == (method == "gaussian" and offset == 0)


def test_nms_match_groups_in_score_order():
    dets = torch.tensor(
        [
            [20.0, 20, 30, 30, 0.2],
            [0, 0, 10, 10, 0.8],
            [0, 0, 10, 9, 0.3],
            [20, 20, 30, 29, 0.9],
            [0, 0, 10, 8, 0.5],
            [50, 50, 60, 60, 0.1],
        ]
    )
    assert [g.tolist() for g in ops.nms_match(dets, 0.6)] == [[3, 0], [1, 4, 2], [5]]
    assert [g.tolist() for g in ops.nms_match(dets.numpy(), 0.6)] == [[3, 0], [1, 4, 2], [5]]


def test_nms_match_heads_are_what_nms_keeps(crowd):
    boxes, scores = crowd
    groups = ops.nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.4)
    assert [int(g[0]) for g in groups] == ops.nms(boxes, scores, 0.4)[1].tolist()
    assert sorted(torch.cat(groups).tolist()) == list(range(80))


def test_nms_match_groups_overlap_equal_to_the_threshold():
    dets = torch.tensor([[0.0, 0, 2, 1, 0.9], [0, 0, 1, 1, 0.8]])
    assert [g.tolist() for g in ops.nms_match(dets, 0.5)] == [[0, 1]]


def test_no_boxes(device):
    boxes, scores = torch.empty(0, 4, device=device), torch.empty(0, device=device)
    dets, kept = ops.nms(boxes, scores, 0.5)
    assert dets.shape == (0, 5) and kept.shape == (0,) and kept.dtype == torch.long
    dets, taken = ops.soft_nms(boxes, scores, 0.5)
    assert dets.shape == (0, 5) and taken.shape == (0,) and taken.dtype == torch.long
    assert ops.nms_match(boxes.new_empty(0, 5), 0.5) == []
    assert ext.nms_match(boxes.new_empty(0, 5), 0.5) == []
