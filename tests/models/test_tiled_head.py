"""Tiles against the whole photo."""

import pytest
import torch
from torch import nn

from fpn_neck import FPN, Segmenter
from fpn_neck.models import tiled_head as tiles
from fpn_neck.models.layers import ConvNormAct
from fpn_neck.models.seg_head import ScaleHeads, SegHead
from fpn_neck.models.tiled_head import (
    PHOTO_ALIGNMENT,
    PHOTO_MARGIN,
    can_tile,
    is_large,
    logits_by_tiles,
    spans,
)

K, TILE = 7, 3 * PHOTO_MARGIN
SIZES = [  # above one tile in one direction at least; whole strides, and not
    (896, 960),
    (833, 777),
    (801, 1403),
    (37, 1901),
    (1, 2000),
    (2000, 1),
]
NORMS = [{"type": "BN"}, {"type": "GN", "num_groups": 8}, {"type": "GN", "affine": False}, None]


class Pyramid(nn.Module):
    """Strided 3x3 convolutions, each of what the one before gives."""

    def __init__(self, strides=(4, 8, 16, 32), look_round=False):
        super().__init__()
        self.out_channels, self.strides = (4, 6, 8, 10)[: len(strides)], strides
        self.look_round = look_round
        ins, steps = (3, *self.out_channels), (strides[0], 2, 2, 2)
        self.levels = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=s, padding=1)
            for a, b, s in zip(ins, self.out_channels, steps, strict=False)
        )

    def forward(self, x):
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x + x.mean((2, 3), keepdim=True) if self.look_round else x)
        return maps


def segmenter(norm=NORMS[0], dtype=torch.float64, backbone=None, **head):
    groups = {"num_groups": 8} if norm and norm["type"] == "GN" else {}
    head = {"channels": 16, "norm_cfg": norm and norm | groups} | head
    model = Segmenter(backbone or Pyramid(), K, neck={"out_channels": 8}, head=head)
    nn.init.normal_(model.head.conv_seg.weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval().to(dtype)


def by_tiles(model, image, tile=TILE):
    def pyramid_of(rows, columns):
        return model.neck(model.backbone(image[..., rows, columns]))

    head = model.head
    logits = logits_by_tiles(pyramid_of, image.shape[-2:], head.scale_heads, head.conv_seg, tile)
    return logits.rows(0, logits.shape[2])


@torch.no_grad()
def whole(model, image):
    return model.head(model.neck(model.backbone(image)))


# ------------------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("merge", ["add", "cat"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_are_those_of_the_whole_photo(norm, merge, align_corners):
    """In float64 nothing is rounded in between, and these layers look less far than a margin.

    (1e-6, since torch resizes to odd sizes with weights that it rounds to float32.)
    """
    model = segmenter(norm, merge=merge, align_corners=align_corners)
    for size in SIZES:
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        found, expected = by_tiles(model, image), whole(model, image)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_labels_in_float32_are_those_of_the_whole_photo(size):
    """Maps wait in float16, whose rounding decides between logits that nearly tie."""
    model, image = segmenter(NORMS[1], torch.float32), torch.randn(1, 3, *size)
    found, expected = by_tiles(model, image), whole(model, image)
    torch.testing.assert_close(found, expected, atol=5e-3 * float(expected.std()), rtol=0)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.999
    assert expected.argmax(1).unique().numel() == K


def test_labels_of_one_logit_are_those_of_the_whole_photo():
    head = {"channels": 16, "norm_cfg": NORMS[1]}
    model = Segmenter(Pyramid(), 1, neck={"out_channels": 8}, head=head).eval()
    image = torch.randn(1, 3, 801, 1503)
    with torch.no_grad():
        nn.init.normal_(model.head.conv_seg.weight)
        model.head.conv_seg.bias -= model(image).median()
    tiled, expected = (model.predict(image, tile=tile) for tile in (TILE, None))
    assert is_large(image.shape[2:], TILE) and 0.4 < expected.float().mean() < 0.6
    assert (tiled == expected).float().mean() > 0.999


def test_numbers_beyond_float16_are_kept():
    model, image = segmenter(None, torch.float32), torch.randn(1, 3, 896, 960)
    with torch.no_grad():
        for tower in model.head.scale_heads:
            tower[0].conv.weight *= 1e7
    found, expected = by_tiles(model, image), whole(model, image)
    assert expected.abs().max() > 1e6
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.std()), rtol=0)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_labels_with_real_backbones(name):
    """Every cell of a ResNet-18 looks less far than a margin; lite0's 5x5 convolutions do not.

    lite0 also pads by what is odd about a size.
    """
    pytest.importorskip("timm")
    model, image = segmenter(NORMS[1], torch.float32, name), torch.randn(1, 3, 805, 1219)
    found, expected = by_tiles(model, image), whole(model, image)
    tolerance = 5e-3 if name == "resnet18" else 0.1
    torch.testing.assert_close(found, expected, atol=tolerance * float(expected.std()), rtol=0)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.99


def test_a_backbone_that_looks_at_the_whole_photo_differs():
    """As documented; with this the tests above can fail."""
    model = segmenter(backbone=Pyramid(look_round=True))
    image = torch.randn(1, 3, 896, 960, dtype=torch.float64)
    difference = (by_tiles(model, image) - whole(model, image)).abs().max()
    assert difference > 1e-4


def test_no_tile_is_larger_than_said():
    seen = []

    def pyramid_of(rows, columns):
        image = torch.zeros(1, 3, rows.stop - rows.start, columns.stop - columns.start)
        seen.append(image.shape[-2:])
        return model.neck(model.backbone(image))

    model = segmenter(dtype=torch.float32)
    head = model.head
    logits_by_tiles(pyramid_of, (1500, 2500), head.scale_heads, head.conv_seg, TILE)
    assert len(seen) > 4 and len(set(seen)) == 1
    assert max(seen[0]) < TILE + PHOTO_ALIGNMENT


def test_maps_of_other_sizes_are_refused_with_the_remedy():
    model = segmenter(dtype=torch.float32)
    maps = [torch.zeros(1, 8, n, n) for n in (191, 96, 48, 24)]  # 191 cells of 768 px?
    head = model.head
    with pytest.raises(ValueError, match="stride 4: .*tile=None"):
        logits_by_tiles(
            lambda rows, columns: maps, (900, 900), head.scale_heads, head.conv_seg, TILE
        )


def test_a_class_with_the_logit_minus_infinity_is_no_label():
    model = segmenter(dtype=torch.float32)
    model.head.conv_seg.bias.data[3] = -torch.inf
    image = torch.randn(1, 3, 1100, 1100)
    for tile in (None, TILE):
        assert 3 not in model.predict(image, tile=tile)


def test_a_level_coarser_than_the_tiles_grid_is_predicted_whole():
    backbone = Pyramid((8, 16, 32, 64))
    model, image = segmenter(NORMS[1], torch.float32, backbone), torch.randn(1, 3, 1100, 1100)
    assert torch.equal(model.predict(image, tile=TILE), model.predict(image, tile=None))


# ------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("tile", [TILE, 800, 1280, 2000])
def test_spans_share_out_any_length(tile):
    for length in [*range(1, 3000, 37), 4000, 6000, 6001, 99999]:
        end = 0
        plan = spans(length, tile)
        for i, span in enumerate(plan):
            seen = span.seen.stop - span.seen.start
            assert span.start == end and span.end > span.start
            assert span.seen.start >= 0 and span.seen.stop <= length
            assert span.seen.start % PHOTO_ALIGNMENT == 0 and (length - seen) % PHOTO_ALIGNMENT == 0
            assert seen < tile + PHOTO_ALIGNMENT
            assert span.seen.start == 0 or span.start - span.seen.start >= PHOTO_MARGIN
            assert i == len(plan) - 1 or span.seen.stop - span.end >= PHOTO_MARGIN
            end = span.end
        assert end == length
        assert len(plan) == 1 or length > tile


@pytest.mark.parametrize("scale", [1e-7, 1e5])
def test_maps_whose_values_half_precision_cannot_hold(scale):
    """Between the tiles maps are kept in float16, if it holds their values."""
    model, image = segmenter(None, torch.float32), torch.randn(1, 3, *SIZES[0])
    with torch.no_grad():
        for tower in model.head.scale_heads:
            for conv in (block.conv for block in tower if isinstance(block, ConvNormAct)):
                conv.bias.zero_()
            tower[0].conv.weight.mul_(scale)
        model.head.conv_seg.weight.div_(scale)
    found, expected = by_tiles(model, image), whole(model, image)
    torch.testing.assert_close(found, expected, atol=5e-3 * float(expected.std()), rtol=0)


def test_what_is_large():
    assert not is_large((2560, 1280), 1280) and is_large((2561, 1280), 1280)
    assert is_large((1, 2 * 1280**2 + 1), 1280)
    assert not is_large((10**6, 10**6), None)
    with pytest.raises(ValueError, match="tile=100"):
        is_large((10, 10), 100)
    with pytest.raises(TypeError, match="tile='large'"):
        is_large((10, 10), "large")


def test_what_can_be_tiled():
    model = segmenter()
    assert can_tile(model, model.head, SegHead)
    assert not can_tile(model.train(), model.head, SegHead)
    assert not can_tile(model.eval(), model.head.scale_heads, SegHead)
    assert not can_tile(model, nn.Identity(), SegHead)
    hook = model.backbone.register_forward_hook(lambda *args: None)
    assert not can_tile(model, model.head, SegHead)
    hook.remove()
    hook = model.backbone.register_forward_pre_hook(lambda *args: None)
    assert can_tile(model, model.head, SegHead)
    hook.remove()
    instance = segmenter({"type": "IN"})
    assert not can_tile(instance, instance.head, SegHead)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.head.dropout.train(),
        lambda model: setattr(model.head, "dropout", nn.Conv2d(16, 16, 3, padding=1)),
        lambda model: setattr(model.head, "conv_seg", nn.Conv2d(16, K, 3, padding=1)),
        lambda model: model.backbone.train(),
        lambda model: setattr(model.backbone, "norm", nn.GroupNorm(2, 4)),
        lambda model: setattr(model.backbone, "norm", nn.BatchNorm2d(4, track_running_stats=False)),
    ],
)
def test_parts_that_give_other_values_in_tiles_turn_them_off(change):
    model = segmenter()
    change(model)
    model.backbone.levels.eval()
    assert not can_tile(model, model.head, SegHead)


def test_dropout_that_stays_on_drops_whole_maps_of_a_large_image():
    model, image = segmenter(dtype=torch.float32), torch.randn(1, 3, 1001, 1203)
    model.head.dropout.train()
    torch.manual_seed(0)
    expected = model.predict(image, tile=None)
    torch.manual_seed(0)
    assert torch.equal(model.predict(image, tile=TILE), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("merge", ["add", "cat"])
def test_labels_of_a_model_in_half_precision(dtype, merge):
    model = segmenter(dtype=dtype, merge=merge)
    image = torch.randn(1, 3, 1001, 1203, dtype=dtype)
    found, expected = model.predict(image, tile=TILE), model.predict(image, tile=None)
    assert (found == expected).float().mean() > 0.97  # half precision makes many ties


def test_timms_own_hooks_keep_tiles_and_a_neck_inside_the_backbone_is_looked_at():
    pytest.importorskip("timm")
    model = Segmenter("xception41", 3, neck={"out_channels": 8}, head={"channels": 32}).eval()
    assert any(module._forward_hooks for module in model.modules())
    assert can_tile(model, model.head, SegHead)
    for norm, tiles_fit in ((None, True), ({"type": "BN"}, True), (NORMS[1], False)):
        model.backbone.inner = FPN([8, 8], 8, norm_cfg=norm).eval()
        assert can_tile(model, model.head, SegHead) == tiles_fit


class OtherHead(SegHead):
    def forward(self, pyramid):
        return -super().forward(pyramid)


class OtherScaleHeads(ScaleHeads):
    def forward(self, pyramid):
        return -super().forward(pyramid)


class OtherBlock(ConvNormAct):
    def forward(self, x):
        return -super().forward(x)


class OtherNorm(nn.GroupNorm):
    def forward(self, x):
        return -super().forward(x)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("", OtherHead),
        ("scale_heads", OtherScaleHeads),
        ("scale_heads.0.0", OtherBlock),
        ("scale_heads.2.2", OtherBlock),
        ("scale_heads.0.0.gn", OtherNorm),
    ],
)
def test_a_forward_of_a_subclass_runs_on_large_images_too(part, kind):
    model = segmenter(NORMS[1], torch.float32)
    model.head.get_submodule(part).__class__ = kind
    image = torch.randn(1, 3, 1001, 1203)
    assert torch.equal(model.predict(image, tile=TILE), model.predict(image, tile=None))


@pytest.mark.parametrize(
    "part", ["", "dropout", "conv_seg", "scale_heads", "scale_heads.3", "scale_heads.0.0.gn"]
)
@pytest.mark.parametrize("before", [False, True])
def test_hooks_of_the_head_run_on_large_images_too(part, before):
    model, calls = segmenter(NORMS[1], torch.float32), []
    module = model.head.get_submodule(part)
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    register(lambda *args: calls.append(args[0]))
    model.predict(torch.randn(1, 3, 1001, 1203), tile=TILE)
    assert calls == [module]


def test_a_hook_on_every_module_turns_tiles_off():
    model, seen = segmenter(NORMS[1], torch.float32), set()
    hook = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.add(m))
    try:
        model.predict(torch.randn(1, 3, 1001, 1203), tile=TILE)
    finally:
        hook.remove()
    assert {model.head, *model.head.modules()} <= seen


# --------------------------------------------------------------------------------- Segmenter


@pytest.mark.parametrize("batch", [1, 2])
def test_the_segmenters_labels(batch):
    model = segmenter(NORMS[1], torch.float32)
    images = torch.randn(batch, 3, 1001, 1203)  # just above two tiles
    found, expected = model.predict(images, tile=TILE), model.predict(images, tile=None)
    assert found.shape == (batch, 1001, 1203) and found.dtype == torch.int64
    assert 0.999 < (found == expected).float().mean() < 1  # by tiles indeed


@pytest.mark.parametrize("size", [(1, 1), (61, 97), (900, 1300)], ids=str)
def test_small_photos_take_the_same_path(monkeypatch, size):
    monkeypatch.setattr(tiles, "_first_convs", None)
    model, image = segmenter(NORMS[1], torch.float32), torch.randn(1, 3, *size)
    assert torch.equal(model.predict(image), model.predict(image, tile=None))
