"""Strips against the whole: the labels are those of the resized logits."""

import sys

import pytest
import torch
import torch.nn.functional as F

import fpn_neck.fast
import fpn_neck.strips.label_map
import fpn_neck.strips.row_map
from fpn_neck.strips.label_map import fill_labels, label_map
from fpn_neck.strips.row_map import RowMap

SIZES = [  # from, to
    ((8, 10), (32, 40)),
    ((7, 5), (29, 18)),
    ((1, 1), (9, 5)),
    ((6, 4), (6, 4)),
    ((9, 13), (4, 5)),
    ((3, 50), (1, 200)),
    ((50, 3), (200, 1)),
]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
@pytest.mark.parametrize("strip", [1, 1000, 4 << 20])
@pytest.mark.parametrize("fast", [False, True])
def test_labels_are_those_of_the_whole(monkeypatch, size, target, align_corners, strip, fast):
    monkeypatch.setattr(fpn_neck.strips.row_map, "_STRIP_BYTES", strip)
    monkeypatch.setattr(fpn_neck.strips.label_map, "_PIXELS", strip)
    logits = torch.randn(2, 5, *size)
    whole = F.interpolate(logits, size=target, mode="bilinear", align_corners=align_corners)
    with fpn_neck.fast.enable(fast):
        labels = label_map(logits, target, align_corners)
    assert labels.shape == (2, *target) and labels.dtype == torch.int64
    # Where labels differ, the logits of both tie within rounding.
    best = whole.max(1).values
    chosen = whole.gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, best, atol=1e-6, rtol=0)
    assert (labels == whole.argmax(1)).float().mean() > 0.999


def areas(classes, size):
    """Logits of a few smooth areas with borders between them."""
    return F.interpolate(torch.randn(1, classes, 3, 3), size=size, mode="bicubic")


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "target"), [((40, 50), (160, 200)), ((31, 43), (150, 99))])
@pytest.mark.parametrize("pixels", [1, 1000, 1 << 16])
def test_labels_inside_areas_need_no_resized_logits(
    monkeypatch, size, target, align_corners, pixels
):
    monkeypatch.setattr(fpn_neck.strips.label_map, "_PIXELS", pixels)
    monkeypatch.setattr(fpn_neck.strips.label_map, "_BORDER_LOGITS", 7 * pixels)
    logits = areas(7, size)
    whole = F.interpolate(logits, size=target, mode="bilinear", align_corners=align_corners)
    strips = count_strips(monkeypatch)
    labels = label_map(logits, target, align_corners)
    assert labels.unique().numel() > 2 and not strips
    chosen = whole.gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, whole.max(1).values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(130, 150), (300, 407), (96, 320)])
def test_labels_of_a_crop_resized_again(size):
    logits = areas(7, (32, 40))
    once = F.interpolate(logits, size=(128, 160), mode="bilinear")[..., 3:110, 10:150]
    whole = F.interpolate(once, size=size, mode="bilinear")
    labels = torch.empty(1, *size, dtype=torch.int64)
    fill_labels(
        RowMap.from_tensor(logits).resize((128, 160)).crop(3, 10, 107, 140).resize(size), labels
    )
    chosen = whole.gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, whole.max(1).values, atol=2e-6, rtol=0)
    assert (labels == whole.argmax(1)).float().mean() > 0.999


def count_strips(monkeypatch):
    """A list that grows with every strip of resized logits."""
    strips, plain = [], RowMap.strips

    def counted(self, *args):
        strips.append(args)
        return plain(self, *args)

    monkeypatch.setattr(RowMap, "strips", counted)
    return strips


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    logits = torch.randn(1, 4, 6, 7).to(dtype)
    whole = F.interpolate(logits.double(), size=(24, 28), mode="bilinear")
    chosen = whole.gather(1, label_map(logits, (24, 28)).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, whole.max(1).values, atol=0.03, rtol=0)


def test_the_largest_tensor_is_a_strip():
    """K = 194 at 500 x 750 px: 291 MB of logits at that size, of which a strip exists at a time."""
    logits = torch.randn(1, 194, 125, 188)
    with torch.profiler.profile(profile_memory=True) as profile:
        label_map(logits, (500, 750))
    allocated = [e.cpu_memory_usage for e in profile.events()]
    assert max(allocated) <= 3 * (4 << 20)  # the labels themselves are 3 MB
    assert max(allocated) > 1 << 20  # memory was recorded


def test_another_default_dtype_changes_nothing():
    logits = torch.randn(1, 5, 9, 7)
    expected = label_map(logits, (40, 33))
    torch.set_default_dtype(torch.bfloat16)
    try:
        labels = label_map(logits, (40, 33))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(labels, expected)


def test_no_images():
    assert label_map(torch.randn(0, 3, 4, 5), (8, 10)).shape == (0, 8, 10)


def test_it_compiles_without_a_graph_break():
    logits = torch.randn(1, 5, 6, 7)
    compiled = torch.compile(label_map, fullgraph=True, backend="eager")
    assert torch.equal(compiled(logits, (24, 28)), label_map(logits, (24, 28)))


@pytest.mark.parametrize("fast", [False, True])
def test_a_class_that_is_masked_out_is_never_chosen(fast):
    logits = torch.randn(1, 5, 20, 30)
    logits[:, 3] = -torch.inf
    with fpn_neck.fast.enable(fast):
        labels = label_map(logits, (81, 77))
    rest = F.interpolate(logits[:, [0, 1, 2, 4]], size=(81, 77), mode="bilinear").argmax(1)
    assert torch.equal(labels, torch.tensor([0, 1, 2, 4])[rest])


def test_the_kernel_reads_the_logits_themselves(monkeypatch):
    """A copy of a large photo's takes as much memory as a strip may."""
    read = []

    def cells_to_labels(cells, rows, columns):
        read.append(cells.data_ptr())
        return torch.zeros(len(cells), len(rows.indices), len(columns.indices), dtype=torch.int64)

    module = sys.modules["fpn_neck.strips.label_map"]
    monkeypatch.setattr(module, "takes_triton", lambda x: True)
    monkeypatch.setattr(module, "cells_to_labels", cells_to_labels)
    logits = torch.randn(2, 5, 6, 7)
    label_map(logits, (24, 28))
    assert read == [logits.data_ptr()]
