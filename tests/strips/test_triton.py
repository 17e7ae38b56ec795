"""Losses and label maps that call Triton's kernels, in Triton's interpreter, against torch's way.

Triton looks at TRITON_INTERPRET when a kernel's module is imported: so this runs in a process.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import fpn_neck.fast
import fpn_neck.strips.label_map
import fpn_neck.strips.operators
from fpn_neck.strips.full_size_loss import full_size_losses
from fpn_neck.strips.label_map import fill_labels, label_map
from fpn_neck.strips.losses import CrossEntropyLoss, DiceLoss, PixelAccuracy
from fpn_neck.strips.row_map import RowMap

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
K, IGNORE = 5, 255
LOSSES = {
    "ce and accuracy": [CrossEntropyLoss([1, 2, 0, 1, 3]), PixelAccuracy()],
    "smoothed": [CrossEntropyLoss(label_smoothing=0.1)],
    "ce and dice": [CrossEntropyLoss(), DiceLoss(ignore_index=0), DiceLoss()],
}


@pytest.mark.skipif(INTERPRETED, reason="this is the process")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_in_a_process_with_tritons_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed, 1 skipped" in done.stdout, done.stdout


interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process of the first test")


@pytest.fixture
def kernels(monkeypatch):
    """Names of the kernels' functions that have been called."""
    called = []
    for module, names in (
        (fpn_neck.strips.operators, ("loss_sums", "loss_grad")),
        (fpn_neck.strips.label_map, ("cells_to_labels",)),
    ):
        for name in names:
            plain = getattr(module, name)

            def counted(*args, name=name, plain=plain, **options):
                called.append(name)
                return plain(*args, **options)

            monkeypatch.setattr(module, name, counted)
    return called


def both_ways(compute):
    results = []
    for fast in (True, False):
        with fpn_neck.fast.enable(fast):
            results.append(compute())
    return results


def batch(classes=K):
    logits = torch.randn(2, classes, 4, 3, requires_grad=True)
    labels = torch.randint(max(2, classes), (2, 11, 9))
    labels[:, :2] = IGNORE
    return logits, labels


@interpreted
@pytest.mark.parametrize(
    ("losses", "align_corners"), zip(LOSSES.values(), [False, True, False], strict=True)
)
def test_losses_and_gradients(kernels, losses, align_corners):
    logits, labels = batch()
    options = {"ignore_index": IGNORE, "align_corners": align_corners}

    def compute():
        values = full_size_losses(logits, labels, losses, **options)
        return values, torch.autograd.grad(sum(values), logits)[0]

    (found, grad), (expected, plain_grad) = both_ways(compute)
    assert kernels == ["loss_sums", "loss_grad"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grad, plain_grad, atol=1e-7, rtol=1e-5)


@interpreted
def test_one_logit(kernels):
    logits, labels = batch(1)
    found, expected = both_ways(
        lambda: full_size_losses(logits, labels, [CrossEntropyLoss(), DiceLoss()])
    )
    assert kernels == ["loss_sums"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    found, expected = both_ways(lambda: label_map(logits, (13, 9)))
    assert kernels[1:] == ["cells_to_labels"] and torch.equal(found, expected)


@interpreted
def test_compiled_losses_take_the_kernels_too(kernels):
    logits, labels = batch()
    compiled = torch.compile(
        lambda x: sum(full_size_losses(x, labels, LOSSES["ce and accuracy"])),
        fullgraph=True,
        backend="aot_eager",
    )
    (grad,) = torch.autograd.grad(compiled(logits), logits)
    assert kernels == ["loss_sums", "loss_grad"] and grad.abs().max() > 1e-4


@interpreted
@pytest.mark.parametrize(("cells", "align_corners"), [(4, False), (1 << 20, True)])
def test_labels_of_a_crop_resized_again(kernels, monkeypatch, cells, align_corners):
    """In one kernel, or in several of ``cells`` rows of cells."""
    logits = torch.randn(1, K, 8, 7)
    monkeypatch.setattr(fpn_neck.strips.row_map, "_STRIP_BYTES", cells * logits[:, :, 0].nbytes)
    maps = RowMap.from_tensor(logits).finite().resize((32, 28), align_corners)
    maps = maps.crop(2, 3, 28, 23).resize((31, 26), align_corners)
    labels = torch.empty(1, 31, 26, dtype=torch.int64)
    fill_labels(maps, labels)
    assert len(kernels) == (1 if cells > 8 else 3)
    once = F.interpolate(logits, (32, 28), mode="bilinear", align_corners=align_corners)
    whole = F.interpolate(
        once[..., 2:30, 3:26], (31, 26), mode="bilinear", align_corners=align_corners
    )
    chosen = whole.gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, whole.max(1).values, atol=2e-6, rtol=0)


@interpreted
def test_a_wrong_label_is_named():
    logits, labels = batch()
    labels[1, 2, 3] = 7
    with pytest.raises(ValueError, match=r"label 7.*0\.\.4"):
        full_size_losses(logits, labels, [CrossEntropyLoss()])


@interpreted
def test_other_dtypes_take_torchs_way(kernels):
    logits, labels = batch()
    (found,) = full_size_losses(logits.double(), labels, [CrossEntropyLoss()])
    assert found > 0 and not kernels
    assert label_map(logits[:0], (9, 8)).shape == (0, 9, 8) and not kernels
