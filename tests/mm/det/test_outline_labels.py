"""LabelsFromOutlines: the label maps of Panoptic FPN from a COCO file of objects."""

import numpy as np
import pytest
from PIL import Image

for _package in ("mmdet", "pycocotools"):
    pytest.importorskip(_package)
pytest.importorskip("mmdet.models")

from mmdet.datasets.transforms import LoadAnnotations  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402

from fpn_neck.mm.det.datasets import ShapesDetectionDataset  # noqa: E402
from fpn_neck.mm.det.outline_labels import LabelsFromOutlines  # noqa: E402


def test_outlines_give_the_label_maps_of_the_scenes(shapes_root):
    dataset = ShapesDetectionDataset("train", data_root=str(shapes_root), pipeline=[])
    load, labels = LoadAnnotations(with_mask=True), LabelsFromOutlines(6)
    differing = pixels = 0
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        info["ori_shape"] = info["img_shape"] = info["height"], info["width"]
        truth = np.array(Image.open(info["seg_map_path"])).astype(int) - 1
        found = labels(load(info))["gt_seg_map"]
        differing += (found != np.where(truth < 0, 6, truth)).sum()
        pixels += truth.size
    assert pixels > 10_000
    assert differing == 0


def test_a_crowd_is_ignored_below_the_objects():
    masks = np.zeros((3, 4, 6), np.uint8)
    masks[0, :, :3] = masks[1, :, 2:] = masks[2, 0] = 1
    found = LabelsFromOutlines(2)(
        {
            "gt_masks": BitmapMasks(masks, 4, 6),
            "gt_bboxes_labels": np.array([1, 0, 0]),
            "gt_ignore_flags": np.array([False, True, False]),
        }
    )["gt_seg_map"]
    assert found.tolist() == [[0] * 6] + 3 * [[1, 1, 1, 255, 255, 255]]


def test_without_an_object_all_is_stuff():
    empty = {
        "gt_masks": BitmapMasks([], 3, 5),
        "gt_bboxes_labels": np.zeros(0, np.int64),
        "gt_ignore_flags": np.zeros(0, bool),
    }
    found = LabelsFromOutlines(2)(empty)["gt_seg_map"]
    assert found.shape == (3, 5) and (found == 2).all()


@pytest.mark.parametrize("number", [0, 255, 1.5])
def test_a_number_of_classes_out_of_its_rule_is_refused(number):
    with pytest.raises((TypeError, ValueError), match="num_classes"):
        LabelsFromOutlines(number)
