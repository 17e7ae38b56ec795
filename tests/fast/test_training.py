"""Training doesn't notice Winograd's rounding: it is drowned by that of any other order of sums."""

import pytest
import torch

import fpn_neck.fast
from fpn_neck import CrossEntropyLoss, Segmenter

STEPS, LAST = 60, 15
SIZE = 256, 256


def losses(images, labels, fast, shift=0.0):
    """Of every step; ``shift``: what the first weights are moved by, relatively."""
    torch.manual_seed(0)
    head = {"channels": 64, "dropout": 0.0}
    model = Segmenter("resnet10t", 7, neck={"out_channels": 128}, head=head)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + shift)
    optimiser, loss = torch.optim.AdamW(model.parameters(), lr=1e-3), CrossEntropyLoss()
    found = []
    with fpn_neck.fast.enable(fast):
        for step in range(STEPS):
            batch = torch.arange(2 * step, 2 * step + 2) % len(images)
            value = model.loss(images[batch], labels[batch], loss)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            found.append(value.detach())
    return torch.stack(found), model.neck._takes_fast_path(model.backbone(images[:1]))


@pytest.mark.slow
@pytest.mark.usefixtures("any_size")
def test_losses_stray_no_farther_than_after_one_rounding_of_the_weights():
    pytest.importorskip("timm", reason="timm is not installed")
    from fpn_neck.datasets.shapes.scenes import make_scene

    scenes = [make_scene(seed, SIZE) for seed in range(12)]
    images = torch.stack([torch.from_numpy(s.image.copy()).permute(2, 0, 1) for s in scenes])
    images = (images.float() - 128) / 64
    labels = torch.stack([torch.from_numpy(s.labels.copy()).long() for s in scenes])
    direct, _ = losses(images, labels, fast=False)
    fast, taken = losses(images, labels, fast=True)
    assert taken and not torch.equal(direct, fast)
    moved, _ = losses(images, labels, fast=False, shift=2.0**-22)
    strays = [(other - direct).abs().mean().item() for other in (fast, moved)]
    ends = [run[-LAST:].mean().item() for run in (direct, fast, moved)]
    print(f"loss at the end {ends}, mean distance from direct: {strays}")
    assert direct[:3].mean() > 2 * ends[0]  # it learns
    assert strays[0] < 3 * strays[1]
    assert abs(ends[1] - ends[0]) < 0.1 * ends[0]
