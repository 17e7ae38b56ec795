"""`fpn_neck.EncoderDecoder` against mmseg's: labels, logits, test-time augmentation, tiles."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmseg")

import fpn_neck  # noqa: E402  (its operators let mmseg.models be imported)

pytest.importorskip("mmseg.models")

from helpers.mmseg_parts import K, segmentor, truth  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

ATOL = 1e-6
SIGMOID = dict(type="CrossEntropyLoss", use_sigmoid=True)
SHAPES = dict(img_shape=(60, 50), pad_shape=(64, 56), ori_shape=(123, 97))


def predictor(test_cfg=None, **options):
    """A segmentor and mmseg's with the same weights."""
    theirs = segmentor("FPN", "FPNHead", **options)
    theirs.init_weights()
    torch.nn.init.normal_(theirs.decode_head.conv_seg.weight)
    ours = segmentor("FPN", "FPNHead", type="fpn_neck.EncoderDecoder", **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for model in (ours, theirs):
        model.eval().test_cfg.update(test_cfg or {})
    return ours, theirs


def predictions(models, metas, size=(64, 56), n=2):
    images, (samples, _) = torch.randn(n, 3, *size), truth(*size, batch=n)
    for sample in samples:
        sample.set_metainfo(metas)
    with torch.no_grad():
        return [model.predict(images, copy.deepcopy(samples)) for model in models]


@pytest.mark.parametrize(
    "metas",
    [
        dict(img_shape=(64, 56), ori_shape=(64, 56)),
        SHAPES | dict(padding_size=[0, 6, 0, 4]),
        SHAPES | dict(img_padding_size=[2, 4, 1, 3]),
        dict(img_shape=(64, 56), ori_shape=(20, 31)),
    ],
    ids=["same size", "padded", "padded on all sides", "smaller photo"],
)
def test_predicted_labels_and_logits_are_mmsegs(metas):
    """The logits are not computed before they are read."""
    ours, theirs = predictions(predictor(), metas)
    for a, b in zip(ours, theirs, strict=True):
        assert "_data" not in vars(a.seg_logits)
        assert list(a.to_dict()["seg_logits"].keys()) == ["data"]
        assert "_data" not in vars(a.seg_logits)
        torch.testing.assert_close(a.seg_logits.data, b.seg_logits.data, atol=1e-5, rtol=1e-5)
        assert a.pred_sem_seg.shape == b.pred_sem_seg.shape == metas["ori_shape"]
        x, logits = a.pred_sem_seg.data, b.seg_logits.data
        assert x.unique().numel() > 1 and x.dtype == torch.int64
        # Where labels differ, the logits of both tie within rounding.
        torch.testing.assert_close(logits.gather(0, x)[0], logits.max(0).values, atol=1e-5, rtol=0)
        assert (x == b.pred_sem_seg.data).float().mean() > 0.999


ONE_LOGIT = dict(num_classes=2, out_channels=1, threshold=0.4, loss_decode=SIGMOID)
FLIPPED = dict(flip=True, flip_direction="horizontal")


@pytest.mark.parametrize(
    ("test_cfg", "metas"),
    [
        ({}, SHAPES),
        (dict(keep_logits=True), SHAPES),
        (dict(mode="slide", crop_size=(32, 32), stride=(16, 16)), SHAPES),
        ({}, SHAPES | FLIPPED),
    ],
    ids=["rows", "keep_logits", "slide", "flip"],
)
def test_labels_of_one_logit_are_integers(test_cfg, metas):
    ours, theirs = predictions(predictor(test_cfg, **ONE_LOGIT), metas)
    for a, b in zip(ours, theirs, strict=True):
        assert a.pred_sem_seg.data.dtype == torch.int64
        assert a.pred_sem_seg.data.unique().tolist() == [0, 1]
        near = (b.seg_logits.data - 0.4).abs() < 1e-5
        assert ((a.pred_sem_seg.data == b.pred_sem_seg.data) | near).all()
        torch.testing.assert_close(a.seg_logits.data, b.seg_logits.data, atol=1e-5, rtol=1e-5)


def test_logits_outlive_copies_pickles_and_slices():
    ours, theirs = predictions(predictor(), SHAPES, n=1)
    expected = theirs[0].seg_logits.data
    for sample in (ours[0].to("cpu"), copy.deepcopy(ours[0]), ours[0].clone()):
        torch.testing.assert_close(sample.seg_logits.data, expected, atol=1e-5, rtol=1e-5)
    dumped = pickle.loads(pickle.dumps(ours[0]))
    torch.testing.assert_close(dumped.seg_logits.data, expected, atol=1e-5, rtol=1e-5)
    part = ours[0].seg_logits[3:9, 4:8].data
    torch.testing.assert_close(part, expected[:, 3:9, 4:8], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "read",
    [
        lambda found: found["data"],
        lambda found: found.get("data"),
        lambda found: dict(found)["data"],
        lambda found: {**found}["data"],
        lambda found: found.copy()["data"],
        lambda found: copy.copy(found)["data"],
        lambda found: next(iter(found.values())),
        lambda found: dict(found.items())["data"],
        lambda found: found.pop("data"),
        lambda found: found.popitem()[1],
        lambda found: found.setdefault("data", 3),
        lambda found: (found | {})["data"],
        lambda found: pickle.loads(pickle.dumps(found))["data"],
        lambda found: copy.deepcopy(found)["data"],
        lambda found: type(found)(found)["data"],
    ],
)
def test_an_evaluator_can_read_logits_in_any_way(read):
    ours, theirs = predictions(predictor(), SHAPES, n=1)
    found = ours[0].to_dict()["seg_logits"]
    assert "data" in found and len(found) == 1 and found.get("other", 3) == 3
    torch.testing.assert_close(read(found), theirs[0].seg_logits.data, atol=1e-5, rtol=1e-5)


def test_logits_can_be_asked_for_again_after_an_error():
    """By a smaller batch, when the memory was full."""
    from fpn_neck.mm.seg.logits import LazyLogits

    answers = [MemoryError("full"), torch.ones(2, 3, 4)]

    def compute():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    logits = LazyLogits(compute)
    found = logits.to_dict()
    with pytest.raises(MemoryError):
        found["data"]
    assert found["data"].sum() == logits.data.sum() == 24


@pytest.mark.parametrize("leave", [lambda x: x.pop("data"), lambda x: delattr(x, "data")])
def test_logits_can_be_left_out_of_a_sample(leave):
    ours, theirs = predictions(predictor(), SHAPES, n=1)
    for sample in (ours[0], theirs[0]):
        leave(sample.seg_logits)
        assert "data" not in sample.seg_logits and not hasattr(sample.seg_logits, "data")
        assert dict(sample.to_dict()["seg_logits"]) == {}


def test_logits_keep_their_gradient():
    """As mmseg's do, outside of ``torch.no_grad()``."""
    photo, grads = torch.randn(1, 3, 64, 56), []
    for model in predictor():
        image = photo.clone().requires_grad_()
        sample = SegDataSample(metainfo=dict(img_shape=(64, 56), ori_shape=(50, 40)))
        (found,) = model.predict(image, [sample])
        assert found.pred_sem_seg.data.shape == (1, 50, 40)
        found.seg_logits.data[:, 3, 4].square().sum().backward()
        grads.append(image.grad)
    assert grads[1].abs().max() > 0
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


def test_mmsegs_test_time_augmentation_runs_on_our_segmentor():
    merged = []
    for model in predictor():
        with DefaultScope.overwrite_default_scope("mmseg"):
            tta = MODELS.build(dict(type="SegTTAModel", module=model))
        torch.manual_seed(3)
        metas = [SHAPES | {"img_path": "a.jpg"} | m for m in ({}, FLIPPED)]
        views = [predictions([model], m, n=1)[0] for m in metas]
        merged.append(tta.merge_preds(list(zip(*views, strict=True)))[0])
    ours, theirs = (m.pred_sem_seg.data for m in merged)
    assert ours.unique().numel() > 1 and (ours == theirs).float().mean() > 0.999


@pytest.mark.parametrize("test_cfg", [{}, dict(keep_logits=True)], ids=["rows", "keep_logits"])
def test_test_time_augmentation_of_one_logit_averages_probabilities(test_cfg):
    """mmseg's takes the sigmoid twice, and then its threshold of 0.3 makes every label 1."""
    model, _ = predictor(test_cfg, **ONE_LOGIT | dict(threshold=0.3))
    with torch.no_grad():
        model.decode_head.conv_seg.bias.fill_(-0.85)  # sigmoid 0.3
    tta = MODELS.build(dict(type="fpn_neck.SegTTAModel", module=model))
    torch.manual_seed(3)
    metas = [SHAPES | {"img_path": "a.jpg"} | m for m in ({}, FLIPPED)]
    views = [predictions([model], m, n=1)[0][0] for m in metas]
    expected = sum(view.seg_logits.data for view in views) / 2 > 0.3
    found = tta.merge_preds([views])[0].pred_sem_seg.data
    assert expected.unique().numel() == 2
    assert found.dtype == torch.int64 and torch.equal(found, expected.long())


@pytest.mark.parametrize(
    ("test_cfg", "metas"),
    [
        (dict(keep_logits=True), {}),
        (dict(mode="slide", crop_size=(32, 32), stride=(16, 16)), {}),
        ({}, dict(flip=True, flip_direction="horizontal")),
    ],
    ids=["asked for", "slide", "flipped"],
)
def test_logits_are_kept_where_mmsegs_way_is_taken(test_cfg, metas):
    metas = dict(img_shape=(64, 56), pad_shape=(64, 56), ori_shape=(64, 56)) | metas
    ours, theirs = predictions(predictor(test_cfg), metas, n=1)
    torch.testing.assert_close(
        ours[0].seg_logits.data, theirs[0].seg_logits.data, atol=1e-5, rtol=0
    )


LAST = K - 1  # a label that no other one beats after `favour_last`


def favour_last(logits):
    logits = logits.clone()
    logits[:, LAST] += 1e4
    return logits


@pytest.mark.parametrize("method", ["inference", "whole_inference", "encode_decode"])
def test_a_subclass_changes_the_logits_by_any_of_mmsegs_methods(method):
    model, _ = predictor()

    def changed(self, *args, **options):
        return favour_last(getattr(super(kind, self), method)(*args, **options))

    kind = type("Changed", (type(model),), {method: changed})
    model.__class__ = kind
    (found,) = predictions([model], SHAPES, n=1)
    assert (found[0].pred_sem_seg.data == LAST).all()


@pytest.mark.parametrize("where", ["head", "model"])
def test_a_replaced_method_of_an_instance_is_called(where):
    model, _ = predictor()
    part, name = {
        "head": (model.decode_head, "predict_by_feat"),
        "model": (model, "postprocess_result"),
    }[where]
    call = getattr(part, name)
    setattr(part, name, lambda logits, *args: call(favour_last(logits), *args))
    (found,) = predictions([model], SHAPES, n=1)
    assert (found[0].pred_sem_seg.data == LAST).all()


def test_predicting_a_large_photo_takes_no_logits_of_its_size():
    """64 x 56 px resized to 1200 x 1600: 38 MB of logits, of which a strip exists at a time."""
    model, _ = predictor()
    metas = dict(img_shape=(64, 56), pad_shape=(64, 56), ori_shape=(1200, 1600))
    with torch.profiler.profile(profile_memory=True) as profile:
        predictions([model], metas, n=1)
    largest = max(e.cpu_memory_usage for e in profile.events())
    assert 2 << 20 < largest <= 8 * 1200 * 1600 + 4096  # the labels


def test_a_whole_model_trains_and_predicts_as_mmsegs():
    theirs = segmentor("FPN", "FPNHead")
    ours = segmentor("fpn_neck.FPN", "fpn_neck.FPNHead")
    assert isinstance(ours.neck, fpn_neck.FPN) and not isinstance(theirs.neck, fpn_neck.FPN)
    theirs.init_weights()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images, (samples, _) = torch.randn(2, 3, 72, 56), truth(72, 56)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (ours, theirs)]
    first = None
    for step in range(3):  # the losses of step 2 and 3 also prove the gradients
        found = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            torch.manual_seed(step)
            losses = model.train().loss(images, samples)
            optimizer.zero_grad()
            losses["decode.loss_ce"].backward()
            optimizer.step()
            found.append({k: v.item() for k, v in losses.items()})
        assert list(found[0]) == list(found[1])
        assert found[0]["decode.loss_ce"] == pytest.approx(found[1]["decode.loss_ce"], abs=ATOL)
        assert found[0]["decode.acc_seg"] == pytest.approx(found[1]["decode.acc_seg"], abs=1e-3)
        first = first or found[0]["decode.loss_ce"]
    assert found[0]["decode.loss_ce"] != first  # the steps changed something

    metas = dict(ori_shape=(72, 56), img_shape=(72, 56), pad_shape=(72, 56))
    for sample in samples:
        sample.set_metainfo(metas)
    with torch.no_grad():
        a, b = (m.eval().predict(images, copy.deepcopy(samples)) for m in (ours, theirs))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x.seg_logits.data, y.seg_logits.data, atol=1e-5, rtol=0)
        assert (x.pred_sem_seg.data == y.pred_sem_seg.data).float().mean() > 0.999


# --------------------------------------------------------------------------------- large photos


def large(model, tile, steps="test_step", **metas):
    """What a model makes of a photo of just above two tiles of 768 px."""
    small = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(3))
    photo = (255 * F.interpolate(small, size=(1001, 1203), mode="bilinear"))[0].byte()
    sample = SegDataSample(metainfo=dict(img_shape=(1001, 1203), ori_shape=(501, 700)) | metas)
    model.test_cfg.update(tile=tile)
    with torch.no_grad():
        return getattr(model, steps)({"inputs": [photo], "data_samples": [sample]})[0]


@pytest.fixture(scope="module")
def local():
    torch.manual_seed(3)
    model = segmentor("fpn_neck.FPN", "fpn_neck.FPNHead", type="fpn_neck.EncoderDecoder")
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    model.data_preprocessor.channel_conversion = True
    return model.eval()


@pytest.mark.parametrize("metas", [{}, dict(padding_size=[2, 3, 4, 5])], ids=["plain", "padded"])
def test_tiles_give_the_whole_photos_labels(local, metas):
    tiled, whole = (large(local, t, **metas).pred_sem_seg.data for t in (768, None))
    assert tiled.shape == whole.shape == (1, 501, 700) and tiled.dtype == torch.int64
    assert whole.unique().numel() > 1
    assert (tiled == whole).float().mean() > 0.999


def test_tiles_of_one_logit_give_mmsegs_labels_and_probabilities():
    torch.manual_seed(3)
    parts = "fpn_neck.FPN", "fpn_neck.FPNHead"
    ours = segmentor(*parts, type="fpn_neck.EncoderDecoder", **ONE_LOGIT).eval()
    torch.nn.init.normal_(ours.decode_head.conv_seg.weight)
    theirs = segmentor(*parts, **ONE_LOGIT).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    expected = large(theirs, None).seg_logits.data
    ours.decode_head.threshold = float(expected.median())
    found = large(ours, 768)
    labels = found.pred_sem_seg.data
    assert labels.dtype == torch.int64 and labels.shape == expected.shape == (1, 501, 700)
    assert 0.4 < labels.float().mean() < 0.6
    assert (labels == (expected > expected.median())).float().mean() > 0.999
    torch.testing.assert_close(found.seg_logits.data, expected, atol=5e-3, rtol=0)


def test_the_backbone_sees_no_more_than_a_tile(local):
    seen = []
    hook = local.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    large(local, 768, "val_step")
    tiles = list(seen)
    seen.clear()
    large(local, None, "val_step")
    hook.remove()
    assert len(tiles) > 1 and max(max(shape[2:]) for shape in tiles) < 800
    assert seen == [(1, 3, 1001, 1203)]


def test_what_tiles_are_not_for_is_seen_whole(local):
    logits = large(local, 768, flip=True, flip_direction="horizontal").seg_logits
    assert type(logits) is PixelData  # mmseg's own way
    stock, _ = predictor()
    assert large(stock, 768).pred_sem_seg.shape == (501, 700)  # mmseg's own head


def test_hooks_see_a_large_photo_whole(local):
    seen = []
    for part in (local, local.backbone):
        hook = part.register_forward_hook(lambda module, args, out: seen.append(module))
        large(local, 768)
        hook.remove()
    assert seen == [local, local.backbone]


def test_a_subclass_predicts_large_photos_too(local):
    def predict(self, inputs, data_samples=None):
        samples = super(kind, self).predict(inputs, data_samples)
        for sample in samples:
            sample.pred_sem_seg.data.fill_(LAST)
        return samples

    kind = type("Changed", (type(local),), {"predict": predict})
    model = copy.deepcopy(local)
    model.__class__ = kind
    assert (large(model, 768).pred_sem_seg.data == LAST).all()


@pytest.mark.parametrize(
    "norm_cfg", [dict(type="GN", num_groups=4), dict(type="IN")], ids=["GN", "IN"]
)
def test_a_neck_whose_norms_see_the_whole_map_takes_no_tiles(local, norm_cfg):
    model = copy.deepcopy(local)
    model.neck = MODELS.build(
        dict(type="fpn_neck.FPN", in_channels=[8, 16, 32, 64], out_channels=16, norm_cfg=norm_cfg)
    )
    tiled, whole = (large(model.eval(), tile).pred_sem_seg.data for tile in (768, None))
    assert whole.unique().numel() > 1 and (tiled == whole).all()
