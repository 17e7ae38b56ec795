"""mmdet's view of the data sets, and the panoptic quality, against counts done by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.project import PROJECT
from PIL import Image

for _package in ("mmdet", "timm", "pycocotools", "torchmetrics"):
    pytest.importorskip(_package)


pytest.importorskip("mmdet.models")  # importable through fpn_neck

from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402

from fpn_neck.datasets import clothing, shapes  # noqa: E402
from fpn_neck.mm.det.panoptic_quality import PanopticQualityMetric  # noqa: E402
from fpn_neck.mm.det.pictures_hook import DetectionPicturesHook  # noqa: E402
from fpn_neck.mm.registry import DATASETS  # noqa: E402
from fpn_neck.models.select_levels import SelectLevels  # noqa: E402

THINGS = len(shapes.CLASSES) - 1


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    return shapes.write_shapes(folder, train=3, val=2, size=(64, 96), workers=1)


def build(name, split, **changes):
    cfg = Config.fromfile(PROJECT / f"configs/_base_/{name}_detection.py")
    dataset = cfg[f"{split}_dataloader"].dataset
    dataset.update(changes)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build(dataset)


# ------------------------------------------------------------------------------------ data sets


def test_shapes_boxes_and_labels_are_the_files(root):
    data = build("shapes", "val", data_root=str(root))
    coco = COCO(str(root / "annotations/instances_val.json"))
    assert data.metainfo["classes"] == shapes.CLASSES[1:]
    assert len(data) == len(coco.imgs) == 2
    for i in range(2):
        sample = data[i]["data_samples"]
        truth = coco.imgToAnns[sample.img_id]
        boxes = np.array([a["bbox"] for a in truth])
        boxes[:, 2:] += boxes[:, :2]  # x, y, w, h -> x1, y1, x2, y2
        np.testing.assert_allclose(sample.gt_instances.bboxes.tensor, boxes, atol=1e-3)
        # category ids are the label map's values, of which 0 is the background
        assert (sample.gt_instances.labels + 1).tolist() == [a["category_id"] for a in truth]


def test_background_becomes_the_last_label(root):
    data = build("shapes", "train", data_root=str(root))
    flip = data.pipeline.transforms[2]
    assert type(flip).__name__ == "RandomFlip"
    flip.prob = 0.0
    for i in range(3):
        sample = data[i]["data_samples"]
        file = root / "train/labels" / f"{Path(sample.img_path).stem}.png"
        labels = np.asarray(Image.open(file)).astype(int)
        expected = np.where(labels == 0, THINGS, labels - 1)
        np.testing.assert_array_equal(sample.gt_sem_seg.sem_seg[0], expected)
        # Masks cover the things, and nothing else.
        masks = sample.gt_instances.masks.masks
        assert masks.shape[1:] == labels.shape
        np.testing.assert_array_equal(masks.any(0), labels > 0)


def test_clothing_label_maps_belong_to_their_photos(tmp_path):
    photo, label = np.zeros((40, 30, 3), np.uint8), np.zeros((40, 30), np.uint8)
    label[5:25, 5:25] = 41
    for folder, name, array in (
        ("jpeg_images/IMAGES", "img_0008.jpeg", photo),
        ("png_masks/MASKS", "seg_0008.png", label),
    ):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / folder / name)
    truth = {
        "images": [
            {"id": 8, "file_name": "jpeg_images/IMAGES/img_0008.jpeg", "height": 40, "width": 30}
        ],
        "annotations": [box(41, 0, 0) | {"id": 1, "image_id": 8, "bbox": [5, 5, 20, 20]}],
        "categories": [{"id": i, "name": n} for i, n in enumerate(clothing.CLASSES) if i],
    }
    truth["annotations"][0] |= {"area": 400, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    data = build(
        "clothing", "train", data_root=str(tmp_path), ann_file=str(tmp_path / "instances.json")
    )
    sample = data[0]["data_samples"]
    assert data.metainfo["classes"][sample.gt_instances.labels[0]] == clothing.CLASSES[41]
    assert sample.gt_sem_seg.sem_seg.unique().tolist() == [40, len(clothing.CLASSES) - 1]


# ------------------------------------------------------------------------------ panoptic quality


@pytest.fixture
def scene(tmp_path):
    """A photo of 8 x 10 px: thing 0 in columns 0-3, thing 1 in columns 4-6, stuff, no crowd."""
    return write_scene(tmp_path, [box(1, 0, 4), box(2, 4, 7)])


def box(category, start, end, crowd=0):
    rle = {"counts": [], "size": [8, 10]}
    before, inside = 8 * start, 8 * (end - start)  # COCO's run lengths go down the columns
    rle["counts"] = [before, inside, 80 - before - inside]
    return {
        "category_id": category,
        "bbox": [start, 0, end - start, 8],
        "area": inside,
        "iscrowd": crowd,
        "segmentation": rle,
    }


def write_scene(folder, annotations):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 8, "width": 10}],
        "annotations": [a | {"id": i, "image_id": 7} for i, a in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def quality_of(ann_file, *segments):
    """The metric of a prediction: (label, number, first column, end column), the rest is stuff."""
    found = torch.full((1, 8, 10), 2)
    for label, number, start, end in segments:
        found[..., start:end] = label + 1000 * number
    metric = PanopticQualityMetric(str(ann_file))
    metric.dataset_meta = {"classes": ("one", "two")}
    metric.process(None, [{"img_id": 7, "pred_panoptic_seg": {"sem_seg": found}}])
    return metric.evaluate(1)


def test_the_truth_itself_is_perfect(scene):
    result = quality_of(scene, (0, 1, 0, 4), (1, 2, 4, 7))
    assert result == {
        f"coco_panoptic/{name}{group}": 100.0
        for name in ("PQ", "SQ", "RQ")
        for group in ("", "_th", "_st")
    }


def test_instances_of_other_categories_are_void(scene):
    content = json.loads(scene.read_text())
    content["categories"].append({"id": 3, "name": "three"})
    content["annotations"].append({**content["annotations"][0], "id": 99, "category_id": 3})
    scene.write_text(json.dumps(content))
    assert quality_of(scene, (0, 1, 0, 4), (1, 2, 4, 7))["coco_panoptic/PQ_st"] == 100


@pytest.mark.parametrize("place", [0, 2])
def test_a_crowd_lies_under_the_objects_wherever_the_file_lists_it(scene, place):
    """The prediction holds nothing in the columns that are only crowd."""
    content = json.loads(scene.read_text())
    crowd = {"size": [8, 10], "counts": [0, 64, 16]}  # columns 0 to 7
    one = {**content["annotations"][0], "id": 99, "iscrowd": 1, "segmentation": crowd}
    content["annotations"].insert(place, one)
    scene.write_text(json.dumps(content))
    result = quality_of(scene, (0, 1, 0, 4), (1, 2, 4, 7))
    assert result["coco_panoptic/PQ_th"] == 100


def test_quality_is_iou_over_matches_and_half_the_misses(scene):
    """Thing 0 found in 3 of 4 columns (IoU 3/4), thing 1 missed, stuff 3 of 7 columns (unmatched).

    PQ: 3/4, 0 and 0, for the stuff's IoU 3/7 is no match.
    """
    result = quality_of(scene, (0, 1, 0, 3))
    assert result["coco_panoptic/PQ"] == pytest.approx(100 * 0.75 / 3, abs=0.01)
    assert result["coco_panoptic/PQ_th"] == pytest.approx(100 * 0.75 / 2, abs=0.01)
    assert result["coco_panoptic/SQ_th"] == pytest.approx(100 * 0.75 / 2, abs=0.01)
    assert result["coco_panoptic/RQ_th"] == pytest.approx(50, abs=0.01)
    assert result["coco_panoptic/PQ_st"] == 0


def test_a_second_segment_of_the_same_thing_is_a_false_positive(scene):
    # The stuff is found in 2 of 3 columns, the third is a thing 0 that isn't there.
    result = quality_of(scene, (0, 1, 0, 4), (1, 2, 4, 7), (0, 3, 9, 10))
    assert result["coco_panoptic/PQ_th"] == pytest.approx(100 * (1 / 1.5 + 1) / 2, abs=0.01)
    assert result["coco_panoptic/PQ_st"] == pytest.approx(100 * 2 / 3, abs=0.01)


def test_what_is_found_in_a_crowd_does_not_count(tmp_path):
    file = write_scene(tmp_path, [box(1, 0, 4), box(2, 4, 7, crowd=1)])
    result = quality_of(file, (0, 1, 0, 4), (1, 2, 4, 7))
    assert result["coco_panoptic/PQ_th"] == 100  # the class of the crowd has no segment
    assert result["coco_panoptic/PQ"] == 100


def test_mmdets_void_is_no_segment(scene):
    result = quality_of(scene, (0, 1, 0, 4), (1, 2, 4, 7), (3, 0, 9, 10))
    assert result["coco_panoptic/PQ_th"] == 100
    assert result["coco_panoptic/PQ_st"] == pytest.approx(100 * 2 / 3, abs=0.01)


# --------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("with_photo", [True, False])
def test_pictures_hold_truth_and_detections(root, with_photo):
    from mmdet.models.utils import samplelist_boxtype2tensor
    from mmengine.structures import InstanceData

    data = build("shapes", "val", data_root=str(root))
    sample = data[0]["data_samples"]
    samplelist_boxtype2tensor([sample])  # as a detector does
    found = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 40, 40], [70, 45, 90, 60]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.1]),
    )
    sample.pred_instances = found
    hook = DetectionPicturesHook(with_photo=with_photo)
    np.random.seed(0)  # mmdet varies the masks' colours
    picture = np.asarray(hook._picture(data, sample))
    assert picture.shape == (64, 2 * 96, 3)
    sample.pred_instances = found[:0]
    np.random.seed(0)
    without = np.asarray(hook._picture(data, sample))
    np.testing.assert_array_equal(picture[:, :96], without[:, :96])  # the truth
    changed = (picture[:, 96:] != without[:, 96:]).any(-1)
    assert changed[10:41, 10:41].any()
    assert not changed[44:, 62:].any()  # below the threshold


# ------------------------------------------------------------------------------------ SelectLevels


def test_select_levels():
    levels = tuple(torch.randn(1, 2, s, s) for s in (8, 4, 2))
    assert SelectLevels([0])(levels)[0] is levels[0]
    assert [x.shape[-1] for x in SelectLevels([2, 0])(levels)] == [2, 8]
    with pytest.raises(ValueError, match="indices=.3.*there are 3 levels"):
        SelectLevels([3])(levels)
    with pytest.raises(ValueError, match="indices"):
        SelectLevels([])
    with pytest.raises((TypeError, ValueError), match="indices"):
        SelectLevels([-1])


@pytest.mark.parametrize("segments", [[1000, 3, THINGS], [THINGS, THINGS + 1, 1001], [THINGS + 1]])
def test_pictures_of_panoptic_segments_leave_void_out(root, segments, exact_drawing):
    from mmengine.structures import PixelData

    data = build("shapes", "val", data_root=str(root))
    sample = data[0]["data_samples"]
    del sample.gt_instances
    found = torch.tensor(segments)[torch.arange(96) * len(segments) // 96].repeat(1, 64, 1)
    sample.pred_panoptic_seg = PixelData(sem_seg=found)
    picture = np.asarray(DetectionPicturesHook()._picture(data, sample))[:, 96:]
    photo = np.asarray(Image.open(sample.img_path))
    changed = (picture != photo).any(-1).mean(0) > 0.9  # columns
    drawn = np.isin(found[0, 0] % 1000, range(THINGS))
    assert (changed == drawn).mean() > 0.9
    assert torch.equal(sample.pred_panoptic_seg.sem_seg, found)  # left as it was
