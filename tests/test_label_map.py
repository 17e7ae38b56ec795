"""Strips against the whole: the labels are those of the resized logits."""

import pytest
import torch
import torch.nn.functional as F

import fpn_neck.row_map
from fpn_neck.label_map import label_map

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
@pytest.mark.parametrize("strip_bytes", [1, 1000, 4 << 20])
def test_labels_are_those_of_the_whole(monkeypatch, size, target, align_corners, strip_bytes):
    monkeypatch.setattr(fpn_neck.row_map, "_STRIP_BYTES", strip_bytes)
    logits = torch.randn(2, 5, *size)
    whole = F.interpolate(logits, size=target, mode="bilinear", align_corners=align_corners)
    labels = label_map(logits, target, align_corners)
    assert labels.shape == (2, *target) and labels.dtype == torch.int64
    # Where labels differ, the logits of both tie within rounding.
    best = whole.max(1).values
    chosen = whole.gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, best, atol=1e-6, rtol=0)
    assert (labels == whole.argmax(1)).float().mean() > 0.999


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


def test_no_images():
    assert label_map(torch.randn(0, 3, 4, 5), (8, 10)).shape == (0, 8, 10)


def test_it_compiles_without_a_graph_break():
    logits = torch.randn(1, 5, 6, 7)
    compiled = torch.compile(label_map, fullgraph=True, backend="eager")
    assert torch.equal(compiled(logits, (24, 28)), label_map(logits, (24, 28)))
