"""Published configs of mmdet and mmseg that need mmcv's operators: one for each operator.

Each model is built from the installed package's config, trained for one step and tested.
"""

import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

import fpn_neck.registry  # noqa: E402, F401 (mmcv's operators)

pytest.importorskip("mmdet.models")  # importable through fpn_neck

from mmdet.testing._utils import demo_mm_inputs  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from fpn_neck.mm.config.load import load_config  # noqa: E402

pytestmark = pytest.mark.slow
SIZE = 96, 128
DETECTORS = {
    "deform_conv2d": "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "modulated_deform_conv2d": "dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py",
    "deform_roi_pool": "dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py",
    "modulated_deform_roi_pool": "dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py",
    "modulated_deform_conv2d, larger offsets": "dyhead/atss_r50_fpn_dyhead_1x_coco.py",
    "carafe": "carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py",
    "ms_deform_attn": "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "masked_conv2d": "guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py",
    "deform_conv2d, switchable": "detectors/detectors_cascade-rcnn_r50_1x_coco.py",
    "deform_conv2d, points": "reppoints/reppoints-moment_r50_fpn_1x_coco.py",
    "roi_align": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "point_sample": "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py",
    "soft_nms": "cornernet/cornernet_hourglass104_10xb5-crop511-210e-mstest_coco.py",
}
SEGMENTERS = {
    "psa_mask": "psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "ms_deform_attn": "mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
    "point_sample": "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
}


def without_weights(node):
    """The config without what it would download."""
    if isinstance(node, dict):
        gone = {"pretrained": None} if isinstance(node.get("pretrained"), str) else {}
        if node.get("init_cfg") and "Pretrained" in str(node["init_cfg"]):
            gone["init_cfg"] = None
        return {key: without_weights(value) for key, value in {**node, **gone}.items()}
    if isinstance(node, list | tuple):
        return type(node)(map(without_weights, node))
    return node


def built(scope, name):
    cfg = load_config(f"{scope}::{name}")
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(without_weights(cfg.model.to_dict())))
    model.init_weights()
    return model


def assert_trains(model, batch):
    """One step: a finite loss, and a finite gradient of each parameter that has one."""
    data = model.train().data_preprocessor(batch, True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert loss.isfinite() and all(grad.isfinite().all() for grad in grads)
    assert sum(bool(grad.any()) for grad in grads) > 20


@pytest.mark.parametrize("name", DETECTORS.values(), ids=DETECTORS)
def test_a_detector_trains_and_predicts(name):
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = built("mmdet", name)
        assert_trains(model, demo_mm_inputs(2, (3, *SIZE), num_classes=2, with_mask=True))
        with torch.no_grad():
            (sample,) = model.eval().test_step(demo_mm_inputs(1, (3, *SIZE), num_classes=2))
    boxes = sample.pred_instances.bboxes
    assert boxes.shape[1] == 4 and boxes.isfinite().all()


def photos(count):
    samples = []
    for _ in range(count):
        meta = {"img_shape": SIZE, "ori_shape": SIZE, "pad_shape": SIZE}
        samples.append(SegDataSample(metainfo=meta))
        samples[-1].gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, *SIZE)))
    inputs = [torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8) for _ in range(count)]
    return {"inputs": inputs, "data_samples": samples}


@pytest.mark.parametrize("name", SEGMENTERS.values(), ids=SEGMENTERS)
def test_a_segmenter_trains_and_predicts(name):
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = revert_sync_batchnorm(built("mmseg", name))
        assert_trains(model, photos(2))
        with torch.no_grad():
            (sample,) = model.eval().test_step(photos(1))
    labels = sample.pred_sem_seg.data
    assert labels.shape == (1, *SIZE) and labels.max() < 19
