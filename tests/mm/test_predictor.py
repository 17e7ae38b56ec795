"""The two predictors behind one interface: what they share."""

import copy

import numpy as np
import pytest
import torch

for _package in ("mmseg", "mmdet", "timm"):
    pytest.importorskip(_package)

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmseg.datasets import BaseSegDataset  # noqa: E402
from PIL import Image  # noqa: E402

from fpn_neck.mm.predictor import load_model  # noqa: E402
from fpn_neck.mm.seg.predictor import SegmentationPredictor  # noqa: E402

NORM = {"type": "SyncBN"}
MODEL = {
    "type": "EncoderDecoder",
    "test_cfg": {"mode": "whole"},
    "pretrained": "there/is/no/such.pth",
    "data_preprocessor": {"type": "SegDataPreProcessor"},
    "backbone": {
        "type": "ResNetV1c",
        "depth": 18,
        "base_channels": 8,
        "stem_channels": 8,
        "norm_cfg": NORM,
    },
    "neck": {"type": "fpn_neck.FPN", "in_channels": [8, 16, 32, 64], "out_channels": 8},
    "decode_head": {
        "type": "fpn_neck.FPNHead",
        "in_channels": [8] * 4,
        "in_index": [0, 1, 2, 3],
        "feature_strides": [4, 8, 16, 32],
        "channels": 8,
        "num_classes": 3,
        "norm_cfg": NORM,
    },
}
PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
NAMES = {"classes": ("a", "b", "c"), "palette": [[0, 0, 0], [255, 0, 0], [0, 0, 255]]}


@pytest.fixture
def cfg():
    """mmseg's own segmentor, with norms that train on GPUs and weights that start from a file."""
    loader = {"dataset": {"pipeline": PIPELINE}}
    return Config({"default_scope": "mmseg", "model": MODEL, "test_dataloader": loader})


@pytest.fixture
def checkpoint(cfg, tmp_path):
    """Write a checkpoint with this ``meta``."""

    def write(meta):
        torch.manual_seed(0)
        model = copy.deepcopy(cfg.model)
        model.pretrained = None
        with DefaultScope.overwrite_default_scope("mmseg"):
            state = MODELS.build(model).state_dict()
        torch.save({"state_dict": state, "meta": meta}, tmp_path / "model.pth")
        return str(tmp_path / "model.pth")

    return write


@pytest.mark.parametrize(
    "meta",
    [{"dataset_meta": NAMES}, {"CLASSES": NAMES["classes"], "PALETTE": NAMES["palette"]}],
    ids=["mmseg 1", "mmseg 0"],
)
def test_a_segmenter_gives_labels_and_an_overlay(cfg, checkpoint, tmp_path, meta):
    before = copy.deepcopy(cfg.to_dict())
    predictor = SegmentationPredictor(cfg, checkpoint(meta))
    assert cfg.to_dict() == before  # the caller's
    assert predictor.cfg.model.type == "fpn_neck.EncoderDecoder"
    photo = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    prediction = predictor(tmp_path / "photo.png")
    np.testing.assert_array_equal(prediction.image, photo)
    assert prediction.boxes is None
    assert prediction.labels.shape == (40, 64) and prediction.labels.dtype == np.uint8
    assert set(np.unique(prediction.labels)) <= {0, 1, 2}
    assert prediction.draw().size[0] > 2 * 64


@pytest.mark.parametrize("meta", [{}, None, {"CLASSES": None, "PALETTE": NAMES["palette"]}])
def test_labels_without_names_are_refused(cfg, checkpoint, meta):
    with pytest.raises(ValueError, match="model.pth holds no names of its labels"):
        SegmentationPredictor(cfg, checkpoint(meta))


@pytest.mark.parametrize("meta", [{"dataset_meta": {"classes": ["a"]}}, {"CLASSES": ["a"]}])
def test_another_number_of_names_than_of_classes_is_refused(cfg, checkpoint, meta):
    words = "model.pth: its dataset_meta names 1 labels, .*model.decode_head.num_classes=3"
    with pytest.raises(ValueError, match=words):
        SegmentationPredictor(cfg, checkpoint(meta))


@pytest.mark.parametrize(
    "meta",
    [{"dataset_meta": {"classes": ["a", "b", "c"]}}, {"CLASSES": ["a", "b", "c"], "PALETTE": None}],
)
def test_labels_without_colours_get_some(cfg, checkpoint, tmp_path, meta):
    cfg.test_dataloader.dataset = {"type": "ADE20KDataset", "pipeline": PIPELINE}  # other labels
    predictor = SegmentationPredictor(cfg, checkpoint(meta))
    assert predictor.classes == ("a", "b", "c")
    result = predictor(np.zeros((32, 32, 3), np.uint8))
    assert len({tuple(colour) for colour in result.palette}) == 3


@pytest.mark.parametrize("meta", [{}, {"dataset_meta": {"classes": ["a", "b", "c"]}}])
def test_names_and_colours_come_from_the_config_if_the_checkpoint_has_none(cfg, checkpoint, meta):
    cfg.test_dataloader.dataset = {
        "type": "BaseSegDataset",
        "metainfo": NAMES,
        "pipeline": PIPELINE,
    }
    found = SegmentationPredictor(cfg, checkpoint(meta))
    assert found.classes == ("a", "b", "c") and list(found._palette) == NAMES["palette"]


def test_names_of_the_checkpoint_come_first(cfg, checkpoint):
    cfg.test_dataloader.dataset = {"type": "ADE20KDataset", "pipeline": PIPELINE}
    found = SegmentationPredictor(cfg, checkpoint({"dataset_meta": NAMES}))
    assert found.classes == NAMES["classes"] and list(found._palette) == NAMES["palette"]
    words = "do not fit: model.decode_head.num_classes=3, and test_dataloader has K=150"
    with pytest.raises(ValueError, match=words):
        SegmentationPredictor(cfg, checkpoint({}))


def test_what_mmseg_says_of_losses_is_not_heard(cfg, checkpoint, recwarn):
    def heard():
        return {w for w in ("avg_non_ignore", "build_loss") for m in recwarn if w in str(m.message)}

    path = checkpoint({"dataset_meta": NAMES})  # it builds the model too
    assert heard()
    recwarn.clear()
    load_model(cfg, path, "cpu", scope="mmseg")
    assert not heard()


def test_a_part_that_cannot_be_built_is_named(cfg, checkpoint):
    path = checkpoint({})
    cfg.model.neck.type = "Foo"
    with pytest.raises(ValueError, match="model.neck.*Foo"):
        load_model(cfg, path, "cpu", scope="mmseg")


class NeedsItsFiles(BaseSegDataset):
    """A data set that reads its files when it is built."""

    def __init__(self, **kwargs):
        open(kwargs["ann_file"]).close()
        super().__init__(**kwargs)


@pytest.mark.parametrize("value", [True, False])
def test_the_config_says_what_class_0_is_in_the_masks(cfg, checkpoint, value):
    """Also where its data set cannot be built, since the files are elsewhere."""
    cfg.test_dataloader.dataset = {
        "type": NeedsItsFiles,
        "ann_file": "there/is/no/such.txt",
        "reduce_zero_label": value,
        "pipeline": PIPELINE,
    }
    path = checkpoint({"dataset_meta": {**NAMES, "reduce_zero_label": not value}})
    assert SegmentationPredictor(cfg, path)._first_value == value


@pytest.mark.parametrize("value", [True, False])
def test_the_checkpoint_says_it_where_the_data_set_cannot_be_built(cfg, checkpoint, value):
    dataset = {"type": NeedsItsFiles, "ann_file": "there/is/no/such.txt", "pipeline": PIPELINE}
    cfg.test_dataloader.dataset = dataset
    path = checkpoint({"dataset_meta": {**NAMES, "reduce_zero_label": value}})
    assert SegmentationPredictor(cfg, path)._first_value == value


def test_what_class_0_is_in_the_masks_is_not_guessed(cfg, checkpoint):
    dataset = {"type": NeedsItsFiles, "ann_file": "there/is/no/such.txt", "pipeline": PIPELINE}
    cfg.test_dataloader.dataset = dataset
    with pytest.raises(ValueError, match="such.txt.*test_dataloader.dataset.reduce_zero_label="):
        SegmentationPredictor(cfg, checkpoint({"dataset_meta": NAMES}))


def test_settings_that_the_checkpoint_was_not_trained_with_are_refused(cfg, checkpoint):
    path = checkpoint({"dataset_meta": NAMES, "cfg": cfg.pretty_text})
    SegmentationPredictor(cfg, path)
    cfg.model.data_preprocessor.update(mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="model.data_preprocessor.mean=.* here, None in training"):
        SegmentationPredictor(cfg, path)
    with pytest.warns(UserWarning, match="None in training"):
        SegmentationPredictor(cfg, path, allow_mismatch=True)
