"""Segmenters in a local folder: saved, loaded, refused, and used on photos."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fpn_neck

pytest.importorskip("safetensors")

NAMES = {"classes": ["sky", "car", "dog"], "palette": [[0, 0, 255], [255, 0, 0], [0, 200, 0]]}
SMALL = {"neck": {"out_channels": 8}, "head": {"channels": 32}}


class Backbone(torch.nn.Module):
    out_channels, strides = (4, 8), (4, 8)

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 4, 4)
        self.next = torch.nn.Conv2d(4, 8, 2, 2)

    def forward(self, x):
        c2 = self.stem(torch.nn.functional.pad(x, (0, -x.shape[-1] % 8, 0, -x.shape[-2] % 8)))
        return [c2, self.next(c2)]


@pytest.fixture
def model():
    return fpn_neck.Segmenter(Backbone(), 3, **SMALL).eval()


def test_a_segmenter_comes_back_with_its_weights_and_facts(model, tmp_path):
    model.save_pretrained(tmp_path / "model", mean=[100, 110, 120], std=[50, 51, 52.5], **NAMES)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert len({p.stat().st_mode for p in (tmp_path / "model").iterdir()}) == 1  # readable alike
    again = fpn_neck.Segmenter.from_pretrained(tmp_path / "model", backbone=Backbone()).eval()
    images = torch.rand(1, 3, 40, 56)
    torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)
    assert again.facts == model.facts
    assert again.facts.classes == ("sky", "car", "dog") and again.facts.std == (50, 51, 52.5)
    again.save_pretrained(tmp_path / "again")  # with the same facts
    assert (tmp_path / "again/config.json").read_text() == (
        tmp_path / "model/config.json"
    ).read_text()


def test_a_new_size_of_photos_replaces_the_old_one_of_either_kind(model, tmp_path):
    for size in ({"fit": (96, 64)}, {"exact": (80, 48)}, {"fit": (64, 48)}):
        model.save_pretrained(tmp_path, **size)
        assert {"fit": model.facts.fit, "exact": model.facts.exact} == {
            "fit": None,
            "exact": None,
        } | size


def test_a_timm_segmenter_is_built_by_its_name_and_predicts_photos(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = fpn_neck.Segmenter("resnet10t", 3, **SMALL).eval()
    torch.nn.init.normal_(model.head.conv_seg.weight, std=3.0)
    model.save_pretrained(tmp_path / "model", mean=[120] * 3, std=[60] * 3, **NAMES)
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    predictor = fpn_neck.load(tmp_path / "model", device="cpu")
    images = (torch.from_numpy(photo).float() - 120) / 60
    expected = model.predict(images.permute(2, 0, 1)[None])[0].numpy()
    assert len(np.unique(expected)) > 1
    for given in (photo, tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        result = predictor(given)
        np.testing.assert_array_equal(result.labels, expected)
        assert result.classes == ("sky", "car", "dog")
    assert sum(result.areas.values()) == 50 * 70
    with pytest.raises(ValueError, match="leave out config"):
        fpn_neck.load(tmp_path / "model", "config.py")


@pytest.mark.parametrize("rule", [{}, {"fit": (60, 40)}, {"exact": (48, 33)}], ids=str)
def test_test_time_augmentation_takes_three_sizes_and_their_mirror_images(tmp_path, rule):
    """The sizes of the second photo, 30 x 47 px, are counted by hand."""
    pytest.importorskip("timm")
    model = fpn_neck.Segmenter("resnet10t", 3, **SMALL).eval()
    model.save_pretrained(tmp_path, **NAMES, **rule)
    predictor, seen = fpn_neck.load(tmp_path, device="cpu", tta=True), []
    hook = lambda _, args: seen.append(tuple(args[0].shape))  # noqa: E731
    predictor._model.backbone.register_forward_pre_hook(hook)
    assert predictor(np.zeros((30, 47, 3), np.uint8)).labels.shape == (30, 47)
    sizes = {
        "": [(24, 38), (30, 47), (38, 59)],
        "fit": [(31, 48), (38, 60), (48, 75)],
        "exact": [(26, 38), (33, 48), (41, 60)],
    }["".join(rule)]
    assert seen == [(1, 3, *size) for size in sizes for _ in range(2)]
    if not rule:
        assert predictor(np.zeros((40, 40, 3), np.uint8)).labels.shape == (40, 40)  # not at 32x32


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"classes": ["a", "b"]}, "the model has 3 labels"),
        ({"classes": "abc"}, "classes='abc': expected a list"),
        ({"std": [1, 0, 1]}, "std=(1.0, 0.0, 1.0): expected numbers above 0"),
        ({"mean": [1, 2]}, "expected a number per channel"),
        ({"fit": [96]}, "fit=[96]: expected two numbers of px above 0"),
        ({"fit": "ab"}, "fit='ab': expected two numbers of px above 0"),
        ({"fit": ["96", "64"]}, "fit=['96', '64']: expected two numbers of px above 0"),
        ({"fit": [512, True]}, "fit=[512, True]: expected two numbers of px above 0"),
        ({"exact": [0, 64]}, "exact=[0, 64]: expected two whole numbers of px above 0"),
        ({"exact": [96.5, 64]}, "exact=[96.5, 64]: expected two whole numbers of px above 0"),
        ({"mean": [True, 1, 1]}, "expected a list of numbers, one for each channel"),
        ({"palette": [(0.9, 0.1, 0.1)] * 3}, "three whole numbers 0 to 255 for each of 3"),
        ({"classes": ["a", "b", "a"]}, "'a' stands twice"),
        ({"fit": [96, 64], "exact": [96, 64]}, "give one of both"),
        ({"first_value": 2}, "first_value=2: expected 0 or 1"),
        ({"first_value": True}, "first_value=True: expected 0 or 1"),
        ({"first_value": 1.0}, "first_value=1.0: expected 0 or 1"),
        ({"palette": [[0, 0, 256]] * 3}, "three whole numbers 0 to 255 for each of 3 classes"),
        ({"palette": [0, 0, 255]}, "three whole numbers 0 to 255 for each of 3 classes"),
        ({"palette": ["abc"] * 3}, "three whole numbers 0 to 255 for each of 3 classes"),
    ],
)
def test_facts_that_break_their_rule_are_refused_and_nothing_is_written(
    model, tmp_path, facts, words
):
    with pytest.raises(ValueError) as refused:
        model.save_pretrained(tmp_path / "model", **facts)
    assert words in str(refused.value)
    assert not (tmp_path / "model").exists()


def test_numbers_of_numpy_and_tied_weights_are_kept(model, tmp_path):
    model.neck.fpn_convs[0].conv.bias = model.neck.fpn_convs[1].conv.bias
    mean, std = np.float32([1.5, 2, 3]), np.float32([4, 5, 6])
    model.save_pretrained(tmp_path, mean=tuple(mean), std=tuple(std))
    again = fpn_neck.Segmenter.from_pretrained(tmp_path, backbone=Backbone())
    assert (again.facts.mean, again.facts.std) == ((1.5, 2, 3), (4, 5, 6))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again.eval()(x), model.eval()(x), atol=0, rtol=0)


def test_another_classifier_than_the_model_was_built_with_is_refused(model, tmp_path):
    model.head.conv_seg = torch.nn.Conv2d(32, 4, 1)
    with pytest.raises(ValueError, match="gives 4 logits, .* built with num_classes=3"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_of_other_channels_predicts_no_photos(tmp_path):
    pytest.importorskip("timm")
    grey = fpn_neck.Segmenter("resnet10t", 3, backbone_options={"in_channels": 1}, **SMALL)
    assert (grey.facts.mean, grey.facts.std) == ((0.0,), (255.0,))
    with pytest.raises(ValueError, match="images have 1 channels"):
        grey.save_pretrained(tmp_path / "grey", mean=[127.0] * 3, std=[50.0] * 3)
    grey.save_pretrained(tmp_path / "grey")
    with pytest.raises(ValueError, match="takes 1 channels, and photos are RGB"):
        fpn_neck.load(tmp_path / "grey")


def test_a_weight_that_float16_does_not_hold_is_refused(model, tmp_path):
    torch.nn.init.constant_(model.head.conv_seg.weight, 7e4)
    with pytest.raises(ValueError, match=r"head.conv_seg.weight has a weight above 65504"):
        model.save_pretrained(tmp_path / "model", float16=True)
    assert not (tmp_path / "model").exists()


def test_a_module_as_backbone_has_to_be_given_again(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"give from_pretrained\(backbone=\)"):
        fpn_neck.Segmenter.from_pretrained(tmp_path)


def test_arguments_that_are_not_plain_data_are_refused(tmp_path):
    model = fpn_neck.Segmenter(Backbone(), 3, neck={"out_channels": 8}, head={"channels": 32})
    model._architecture["head"]["norm_cfg"] = torch.nn.BatchNorm2d
    with pytest.raises(ValueError, match="not plain data"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: {}, "is not what save_pretrained writes"),
        (lambda c: {"schema": 2}, "schema 2, and this version reads 1"),  # of other keys
        (lambda c: c | {"schema": 2}, "schema 2, and this version reads 1"),
        (lambda c: c | {"classes": 3}, "classes=3"),
        (lambda c: c | {"architecture": [1]}, r"architecture \[1\]: expected an object"),
        (lambda c: c | {"architecture": {"backbone": "resnet10t", "x": 1}}, "no Segmenter has"),
        (
            lambda c: c | {"architecture": c["architecture"] | {"num_classes": 4}},
            "of another shape",
        ),
    ],
)
def test_a_folder_that_was_changed_is_refused(model, tmp_path, change, words):
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=words):
        fpn_neck.Segmenter.from_pretrained(tmp_path, backbone=Backbone())


def test_a_missing_or_cut_file_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json: no such file"):
        fpn_neck.Segmenter.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read"):
        fpn_neck.Segmenter.from_pretrained(tmp_path, backbone=Backbone())
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors: no such file"):
        fpn_neck.Segmenter.from_pretrained(tmp_path, backbone=Backbone())
