"""tools/predict.py with mmdet's detectors: detections.json, pictures, and Fast R-CNN's boxes."""

import json
import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.demo_page import ask, file_behind, page_of
from helpers.project import PROJECT
from PIL import Image

for _package in ("mmdet", "timm", "pycocotools"):
    pytest.importorskip(_package)


pytest.importorskip("mmdet.models")

from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402

import fpn_neck  # noqa: E402
from fpn_neck.cli.demo.answer import Answers  # noqa: E402
from fpn_neck.datasets.shapes.write import CLASSES, PALETTE  # noqa: E402
from fpn_neck.mm.config.load import drop_pretraining, load_config  # noqa: E402

CONFIGS = PROJECT / "configs/detection"
META = {"classes": CLASSES[1:], "palette": PALETTE[1:]}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A recipe on the shapes and a checkpoint with random weights that find something."""
    folder, made = tmp_path_factory.mktemp("detectors"), {}

    def get(kind: str, meta=META) -> SimpleNamespace:
        if kind not in made:
            config = sorted(CONFIGS.glob(f"{kind}_lite0_fpn_*_shapes-*.py"))[0]
            cfg = load_config(str(config))
            drop_pretraining(cfg.model)
            torch.manual_seed(0)
            with DefaultScope.overwrite_default_scope("mmdet"):
                model = MODELS.build(cfg.model)
            for name, tensor in model.named_parameters():
                if name.endswith("fc_cls.weight"):  # else every class gets the same score
                    tensor.data.normal_(std=2.0)
            path = folder / f"{kind}.pth"
            torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": meta}}, path)
            made[kind] = SimpleNamespace(cfg=cfg, config=config, path=path, model=model.eval())
        return made[kind]

    return get


@pytest.fixture
def photos(shapes_root, tmp_path):
    """Two scenes in a folder of that name, and their boxes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("000001.jpg", "000002.jpg"):
        shutil.copy(shapes_root / "val/images" / name, folder)
    boxes = {
        "000001.jpg": [[2, 3, 40, 50], [10, 10, 60, 60], [30, 0, 96, 64], [5, 40, 20, 60]],
        "000002.jpg": [[0, 0, 96, 64], [20, 20, 50, 44]],
    }
    return SimpleNamespace(folder=folder, boxes=boxes)


@pytest.fixture
def predict(call_tool, detector, tmp_path):
    def run(kind, *arguments, out="out"):
        model = detector(kind)
        arguments = [model.config, model.path, *arguments, "--out", tmp_path / out]
        done = call_tool("predict", *arguments)
        file = tmp_path / out / "detections.json"
        return done, json.loads(file.read_text()) if file.is_file() else None

    return run


def assert_same(found, sample, names=META["classes"]):
    """The JSON's detections are the sample's, to the digits written."""
    expected = sample.pred_instances
    assert [d["label"] for d in found] == [names[i] for i in expected.labels.tolist()]
    scores = [d["score"] for d in found]
    np.testing.assert_allclose(scores, expected.scores.tolist(), rtol=0, atol=2e-4)
    boxes = np.reshape([d["box"] for d in found], (-1, 4))
    np.testing.assert_allclose(boxes, expected.bboxes.numpy(), rtol=0, atol=0.02)  # px


# -------------------------------------------------------------------------------- any detector


def inference(model, cfg, photo):
    from mmdet.apis import inference_detector

    model.cfg = cfg
    with DefaultScope.overwrite_default_scope("mmdet"):
        return inference_detector(model, photo)


@pytest.mark.parametrize("kind", ["mask-rcnn", "retinanet", "rpn"])
def test_detections_are_mmdets(predict, detector, photos, kind):
    done, found = predict(kind, photos.folder, "--score-thr", 1)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 photos" in done.stdout
    assert list(found) == [str(photos.folder / name) for name in photos.boxes]
    made = detector(kind)
    names = ["object"] if kind == "rpn" else META["classes"]
    for path, detections in found.items():
        assert len(detections) >= 1
        assert_same(detections, inference(made.model, made.cfg, path), names)


TTA = """
_base_ = {config!r}
tta_model = dict(
    type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.6), max_per_img=50))
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale=(96, 64), keep_ratio=True)],
    [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)],
    [dict(type='PackDetInputs', meta_keys=keys)]])]
"""


def test_time_augmentation_is_mmdets(call_tool, assert_refused, detector, photos, tmp_path):
    from mmengine.config import ConfigDict
    from mmengine.dataset import Compose, pseudo_collate

    made = detector("faster-rcnn")
    config, photo = tmp_path / "tta.py", photos.folder / "000001.jpg"
    config.write_text(TTA.format(config=str(made.config)))
    done = call_tool("predict", config, made.path, photo, "--out", tmp_path / "out", "--tta")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "out/detections.json").read_text()).values()

    cfg = load_config(str(config))
    drop_pretraining(cfg.model)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(ConfigDict(**cfg.tta_model, module=cfg.model)).eval()
        views = Compose(cfg.tta_pipeline)({"img_path": str(photo), "img_id": 0})
    model.module.load_state_dict(made.model.state_dict())
    assert len(views["inputs"]) == 2
    with torch.inference_mode():
        (sample,) = model.test_step(pseudo_collate([views]))
    assert len(found) > 5
    assert_same(found, sample)

    plain = [made.config, made.path, photo, "--out", tmp_path / "out"]
    assert_refused(call_tool("predict", *plain, "--tta"), "--tta needs tta_model and tta_pipeline")
    assert call_tool("predict", *plain).returncode == 0
    (without,) = json.loads((tmp_path / "out/detections.json").read_text()).values()
    assert without != found


def test_time_augmentation_of_masks_is_refused_before_a_photo_is_read(
    call_tool, assert_refused, detector, photos, tmp_path
):
    made, config = detector("mask-rcnn"), tmp_path / "tta.py"
    config.write_text(TTA.format(config=str(made.config)))
    command = ["predict", config, made.path, photos.folder, "--out", tmp_path / "out", "--tta"]
    assert_refused(call_tool(*command), "merges boxes, no masks", "leave out --tta")


@pytest.mark.parametrize("given", [False, True], ids=["own ids", "ids of a file"])
def test_cocos_result_files_are_read_by_pycocotools(predict, photos, shapes_root, tmp_path, given):
    truth = shapes_root / "annotations/instances_val.json"
    options = ["--coco", truth] if given else ["--coco"]
    done, found = predict("mask-rcnn", photos.folder, "--overlay", "none", *options)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out/coco"
    assert sorted(p.name for p in folder.iterdir()) == ["bbox.json", "instances.json", "segm.json"]
    coco = COCO(str(truth if given else folder / "instances.json"))
    boxes, masks = (coco.loadRes(str(folder / f"{kind}.json")) for kind in ("bbox", "segm"))
    names = {photo["id"]: photo["file_name"] for photo in coco.dataset["images"]}
    labels = {one["id"]: one["name"] for one in coco.dataset["categories"]}
    total = 0
    for photo, detections in found.items():
        (number,) = (i for i, name in names.items() if name.endswith(photo.rpartition("/")[2]))
        results = boxes.imgToAnns[number]
        total += len(results)
        assert [labels[one["category_id"]] for one in results] == [d["label"] for d in detections]
        for one, detection in zip(results, detections, strict=True):
            x, y, w, h = one["bbox"]
            np.testing.assert_allclose([x, y, x + w, y + h], detection["box"], rtol=0, atol=0.02)
        for one in masks.imgToAnns[number]:
            assert masks.annToMask(one).shape == (64, 96)
    assert total == len(boxes.anns) == len(masks.anns) > 10


def test_nothing_found_is_an_empty_list(predict, photos):
    options = ["--cfg-options", "model.test_cfg.rcnn.score_thr=1.1"]
    done, found = predict("faster-rcnn", photos.folder, *options)
    assert done.returncode == 0, done.stderr
    assert list(found.values()) == [[], []]
    assert len(list((photos.folder.parent / "out/overlays").iterdir())) == 2


def test_a_panoptic_models_segments_are_drawn(predict, photos):
    done, found = predict("panoptic-fpn", photos.folder / "000001.jpg")
    assert done.returncode == 0, done.stderr
    assert list(found.values()) == [[]]  # it has no boxes
    assert len(list((photos.folder.parent / "out/overlays").iterdir())) == 1


def test_overlays_show_what_is_above_the_score(predict, photos, exact_drawing):
    photo = np.asarray(Image.open(photos.folder / "000001.jpg"))
    drawn = {}
    for thr in (0.0, 1.0):
        done, _ = predict("faster-rcnn", photos.folder, "--score-thr", thr)
        assert done.returncode == 0, done.stderr
        drawn[thr] = np.asarray(Image.open(photos.folder.parent / "out/overlays/000001.png"))
        assert drawn[thr].shape == photo.shape
    assert np.abs(drawn[1.0].astype(int) - photo).max() <= 8  # JPEG decoders differ a little
    assert (np.abs(drawn[0.0].astype(int) - photo).max(2) > 60).mean() > 0.02


def test_a_run_goes_on_past_an_unreadable_photo(predict, photos):
    (photos.folder / "000000.jpg").write_bytes(b"no photo")
    done, found = predict("faster-rcnn", photos.folder)
    assert done.returncode == 1
    assert "2 of 3 photos" in done.stdout
    assert sum("000000.jpg" in line for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert list(found) == [str(photos.folder / name) for name in photos.boxes]


def test_photos_of_one_name_are_told_apart(predict, photos):
    (photos.folder / "deep").mkdir()
    shutil.copy(photos.folder / "000002.jpg", photos.folder / "deep/000001.jpg")
    done, found = predict("faster-rcnn", photos.folder)
    assert done.returncode == 0, done.stderr
    assert len(found) == 3
    assert found[str(photos.folder / "deep/000001.jpg")] == found[str(photos.folder / "000002.jpg")]
    assert len(list((photos.folder.parent / "out/overlays").iterdir())) == 3


def test_a_checkpoint_of_another_model_is_one_line(call_tool, assert_refused, detector, photos):
    out = photos.folder.parent / "out"
    config, checkpoint = detector("faster-rcnn").config, detector("rpn").path
    done = call_tool("predict", config, checkpoint, photos.folder, "--out", out)
    assert_refused(done, "rpn.pth", "another model")
    assert not out.exists()


@pytest.fixture
def bare(detector, tmp_path):
    """A checkpoint of weights only."""
    path = tmp_path / "bare.pth"
    torch.save({"state_dict": detector("faster-rcnn").model.state_dict()}, path)
    return path


def test_a_checkpoint_without_names_takes_the_configs(predict, call_tool, detector, photos, bare):
    _, expected = predict("faster-rcnn", photos.folder, out="named")
    made, out = detector("faster-rcnn"), photos.folder.parent / "out"
    done = call_tool("predict", made.config, bare, photos.folder, "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "detections.json").read_text()) == expected
    assert {d["label"] for found in expected.values() for d in found} <= {*META["classes"]}


def test_names_of_other_classes_are_one_line(call_tool, assert_refused, detector, photos, bare):
    made, out = detector("faster-rcnn"), photos.folder.parent / "out"
    other = ["--cfg-options", "test_dataloader.dataset.metainfo.classes=(a,b)"]
    done = call_tool("predict", made.config, bare, photos.folder, "--out", out, *other)
    assert_refused(done, "bare.pth", "metainfo")
    assert not out.exists()


# ---------------------------------------------------------------------------------- Fast R-CNN


def expected_of_fast_rcnn(made, path, boxes):
    """By mmdet's own steps: its pipeline, with the proposals as a data set hands them in."""
    from mmdet.datasets import transforms  # noqa: F401 (registers)
    from mmengine.dataset import Compose

    with DefaultScope.overwrite_default_scope("mmdet"):
        pipeline = Compose(
            [t for t in made.cfg.test_dataloader.dataset.pipeline if t.type != "LoadAnnotations"]
        )
    boxes = np.array(boxes, np.float32)
    data = pipeline({"img_path": path, "img_id": 0, "proposals": {"bboxes": boxes}})
    batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
    with torch.no_grad():
        return made.model.test_step(batch)[0]


@pytest.fixture
def file_of(photos, tmp_path):
    """The boxes as a proposals file or as one of three kinds of JSON."""

    def write(kind):
        entries = {}
        for name, boxes in photos.boxes.items():
            path = photos.folder / name
            key = {"path": str(path), "name": name}.get(kind, f"photos/{name}")
            entries[key] = {"bboxes": np.array(boxes, np.float32)} if kind == "pkl" else boxes
        file = tmp_path / f"boxes.{'pkl' if kind == 'pkl' else 'json'}"
        file.write_bytes(pickle.dumps(entries) if kind == "pkl" else json.dumps(entries).encode())
        return file

    return write


@pytest.mark.parametrize("kind", ["pkl", "name", "folder", "path"])
def test_fast_rcnn_with_boxes_from_a_file(predict, detector, photos, file_of, kind):
    done, found = predict("fast-rcnn", photos.folder, "--proposals", file_of(kind))
    assert done.returncode == 0, done.stderr
    for name, boxes in photos.boxes.items():
        path = str(photos.folder / name)
        assert len(found[path]) >= 1
        assert_same(found[path], expected_of_fast_rcnn(detector("fast-rcnn"), path, boxes))


def test_fast_rcnn_with_boxes_from_an_rpn(predict, detector, photos):
    rpn = detector("rpn")
    done, found = predict("fast-rcnn", photos.folder, "--rpn", rpn.config, rpn.path)
    assert done.returncode == 0, done.stderr
    for path, detections in found.items():
        boxes = inference(rpn.model, rpn.cfg, path).pred_instances.bboxes.numpy()
        assert len(boxes) > 100 and len(detections) >= 1
        assert_same(detections, expected_of_fast_rcnn(detector("fast-rcnn"), path, boxes))


def test_a_photo_without_boxes_has_no_detections(predict, photos, tmp_path):
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(photos.boxes | {"000002.jpg": []}))
    done, found = predict("fast-rcnn", photos.folder, "--proposals", file)
    assert done.returncode == 0, done.stderr
    assert [len(v) > 0 for v in found.values()] == [True, False]


def test_a_photo_that_the_file_lacks_is_named(predict, photos, tmp_path):
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps({"000001.jpg": photos.boxes["000001.jpg"]}))
    done, found = predict("fast-rcnn", photos.folder, "--proposals", file)
    assert done.returncode == 1
    assert "no entry" in done.stderr and "000002.jpg" in done.stderr
    assert list(found) == [str(photos.folder / "000001.jpg")]


def test_boxes_of_another_photo_of_the_name_are_refused(predict, photos, file_of):
    file = file_of("pkl")
    content = pickle.loads(file.read_bytes())
    for entry in content.values():
        entry["photo_bytes"] = 12345
    file.write_bytes(pickle.dumps(content))
    done, found = predict("fast-rcnn", photos.folder, "--proposals", file)
    assert done.returncode == 1 and found is None
    assert done.stderr.count("another photo") == 2


def test_boxes_must_come_from_somewhere(predict, assert_refused, detector, photos, file_of):
    rpn = detector("rpn")
    file = file_of("name")
    done, _ = predict("fast-rcnn", photos.folder)
    assert_refused(done, "--proposals", "--rpn")
    done, _ = predict("faster-rcnn", photos.folder, "--proposals", file)
    assert_refused(done, "finds its boxes itself")
    fast = detector("fast-rcnn")
    done, _ = predict("fast-rcnn", photos.folder, "--rpn", fast.config, fast.path)
    assert_refused(done, "RPN")
    done, _ = predict("fast-rcnn", photos.folder, "--proposals", photos.folder / "no.pkl")
    assert_refused(done, "no.pkl")
    file.write_text("{")
    done, _ = predict("fast-rcnn", photos.folder, "--proposals", file)
    assert_refused(done, "boxes.json", "cannot be read")
    both = ["--proposals", file, "--rpn", rpn.config, rpn.path]
    done, _ = predict("fast-rcnn", photos.folder, *both)
    assert done.returncode == 2 and "not allowed with" in done.stderr
    assert not (photos.folder.parent / "out").exists()


def test_it_reads_photos_as_mmdet_does(photos):
    """Both through OpenCV, so that the comparisons above are of the same pixels."""
    import mmcv

    path = str(photos.folder / "000001.jpg")
    np.testing.assert_array_equal(mmcv.imread(path), cv2.imread(path))


# ------------------------------------------------------------------------------ the page of `demo`


def test_the_page_shows_a_detectors_boxes_beside_a_segmenters_labels(detector, photos, tmp_path):
    segmenter = fpn_neck.Segmenter("resnet10t", 3, neck={"out_channels": 8}, head={"channels": 32})
    segmenter.save_pretrained(tmp_path / "segmenter", classes=("a", "b", "c"))
    model, photo = detector("faster-rcnn"), photos.folder / "000001.jpg"
    found = fpn_neck.load(model.path, model.config, device="cpu")
    labels = fpn_neck.load(tmp_path / "segmenter", device="cpu")
    answer = Answers(labels, found, tmp_path, megapixels=1).of(photo)
    boxes = found(photo).boxes
    assert len(boxes) and not answer.result.boxes
    np.testing.assert_array_equal(answer.objects.boxes, boxes)
    np.testing.assert_array_equal(answer.result.labels, labels(photo).labels)
    with_boxes, without = (
        np.asarray(a.picture(0.5)) for a in (answer, replace(answer, objects=None))
    )
    changed = np.argwhere((with_boxes != without).any(2))[:, ::-1]  # (x, y)
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    assert len(changed) and (changed >= low - 20).all() and (changed <= high + 20).all()
    content = json.loads(answer.save(tmp_path / "out")[1].read_text())
    assert len(content["detector"]["objects"]) == len(boxes) and content["areas"]


def test_the_command_takes_a_detector(detector, photos, tmp_path):
    pytest.importorskip("gradio")
    segmenter = fpn_neck.Segmenter("resnet10t", 3, neck={"out_channels": 8}, head={"channels": 32})
    segmenter.save_pretrained(tmp_path / "segmenter")
    model, photo = detector("faster-rcnn"), photos.folder / "000001.jpg"
    content = torch.load(model.path, weights_only=False)
    content["meta"]["cfg"] = model.cfg.pretty_text
    torch.save(content, tmp_path / "detector.pth")
    with page_of(tmp_path / "segmenter", "--detector", tmp_path / "detector.pth") as (address, _):
        table = json.loads(file_behind(ask(address, photo)[3]).read_text())
    found = json.loads(fpn_neck.load(model.path, model.config, device="cpu")(photo).to_json())
    assert found["objects"] and table["detector"]["objects"] == found["objects"]
