"""Which evaluators judge a data set by a COCO file, and which results a metric gives."""

import json

import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmdet.evaluation import CocoMetric  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import METRICS  # noqa: E402

from fpn_neck.mm.config.evaluators import (  # noqa: E402
    check_best,
    check_coco_settings,
    evaluations,
)

COCO = dict(type="CocoMetric", ann_file="val.json")


def of(evaluator, *names, dataset=None, **settings):
    cfg = Config(dict(default_scope="mmdet", val_evaluator=evaluator, **settings))
    return evaluations(cfg, dataset or {}, names or ["val"])


@pytest.mark.parametrize("kind", ["CocoMetric", "mmdet.CocoMetric", CocoMetric])
def test_a_metric_of_any_spelling(kind):
    (found,) = of(COCO | {"type": kind, "metric": ["bbox", "segm"]})
    assert found == ("val_evaluator", "val.json", ("bbox", "segm"), False, True, False, True)


def test_metrics_derived_from_it():
    (found,) = of(dict(type="CocoOccludedSeparatedMetric", ann_file="a.json"))
    assert found.ann_file == "a.json"


def test_a_list_an_evaluator_of_several_and_none():
    others = [COCO, COCO | {"ann_file": "b.json"}, dict(type="VOCMetric")]
    assert [one.ann_file for one in of(others)] == ["val.json", "b.json"]
    several = dict(type="Evaluator", metrics=others)
    assert [one.ann_file for one in of(several)] == ["val.json", "b.json"]
    assert of(None) == of(dict(type="mmseg.IoUMetric")) == of(dict(type="Nowhere")) == ()


def test_the_same_evaluator_of_two_splits_counts_once():
    assert len(of(COCO, "val", "test", test_evaluator=COCO)) == 1
    assert len(of(COCO, "val", "test", test_evaluator=COCO | {"ann_file": "b.json"})) == 2
    assert of(COCO, "train") == ()


def test_parts_of_a_data_set():
    (found,) = of(COCO, "val 2 of 2")
    assert not found.whole
    metrics = [COCO, COCO | {"ann_file": "b.json"}]
    each = dict(type="MultiDatasetsEvaluator", metrics=metrics, dataset_prefixes=["a", "b"])
    (found,) = of(each, "val 2 of 2")
    assert found.whole and found.ann_file == "b.json"


def test_panoptic_metrics():
    (found,) = of(dict(type="CocoPanopticMetric", ann_file="a.json"))
    assert found.panoptic
    (found,) = of(dict(type="fpn_neck.PanopticQualityMetric", ann_file="a.json"))
    assert not found.panoptic and found.metrics == ("segm",)


def test_files_elsewhere_are_not_read():
    assert of(COCO | {"ann_file": "s3://bucket/a.json"}) == ()
    assert of(COCO | {"backend_args": {"backend": "petrel"}}) == ()


def test_annotations_of_the_samples():
    pipeline = [dict(type="PackDetInputs", meta_keys=("img_id", "instances"))]
    (found,) = of(dict(type="CocoMetric"), dataset={"pipeline": pipeline})
    assert found.ann_file is None and found.sees_instances
    (found,) = of(dict(type="CocoMetric", format_only=True))
    assert not found.sees_instances and not found.scores


def check(save_best, evaluator, **settings):
    hooks = dict(checkpoint=dict(type="CheckpointHook", save_best=save_best))
    settings = dict(default_scope="mmseg", val_cfg=dict(type="ValLoop")) | settings
    check_best(Config(dict(default_hooks=hooks, val_evaluator=evaluator, **settings)))


def results_of_segmentation(metric):
    metric.dataset_meta = dict(classes=("a", "b"), super_classes={"all": ("a", "b")})
    labels = {"data": torch.tensor([[[0, 1, 1]]])}
    metric.process({}, [{"pred_sem_seg": labels, "gt_sem_seg": labels}])
    return metric.evaluate(1)


def results_of_detection(metric):
    metric.dataset_meta = dict(classes=("a",))
    boxes = dict(bboxes=torch.tensor([[1.0, 1, 9, 9]]), scores=torch.ones(1))
    found = dict(boxes, labels=torch.zeros(1, dtype=torch.int64))
    metric.process({}, [dict(img_id=1, ori_shape=(10, 10), pred_instances=found)])
    return metric.evaluate(1)


@pytest.mark.parametrize(
    "evaluator",
    [
        dict(type="mmseg.IoUMetric"),
        dict(type="mmseg.IoUMetric", iou_metrics=["mDice", "mFscore"], prefix="here"),
        dict(type="fpn_neck.OccurringIoUMetric", iou_metrics=["mIoU", "mFscore"]),
        dict(type="fpn_neck.SuperClassIoUMetric"),
        dict(type="mmdet.CocoMetric"),
        dict(type="mmdet.CocoMetric", metric=["bbox", "proposal"], prefix="here"),
        dict(type="mmdet.CocoMetric", metric="bbox", metric_items=["mAP_50", "AR@100"]),
        dict(type="mmdet.CocoMetric", metric="proposal_fast", proposal_nums=(10, 20, 30)),
    ],
)
def test_save_best_is_a_result_of_the_metric(evaluator, tmp_path):
    """Every result that the metric gives is taken, and others are refused."""
    is_coco = "Coco" in evaluator["type"]
    if is_coco:
        box = dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 8, 8], area=64, iscrowd=0)
        truth = dict(info={}, images=[dict(id=1, width=10, height=10, file_name="a.jpg")])
        truth |= dict(annotations=[box], categories=[dict(id=1, name="a")])
        (tmp_path / "a.json").write_text(json.dumps(truth))
        evaluator = evaluator | dict(ann_file=str(tmp_path / "a.json"))
    names = list(
        (results_of_detection if is_coco else results_of_segmentation)(METRICS.build(evaluator))
    )
    assert len(names) >= 3 or evaluator.get("metric_items")
    for name in [*names, names, "auto", None]:
        check(name, evaluator)
        check(name, [evaluator])
    for wrong in (names[0] + "x", names[0].lower(), [names[0], "coco/mAP"]):
        with pytest.raises(
            ValueError, match="config: default_hooks.checkpoint.save_best=.*expected"
        ):
            check(wrong, evaluator)


@pytest.mark.parametrize(
    "evaluator",
    [
        None,
        dict(type="Nowhere"),
        [dict(type="mmseg.IoUMetric"), dict(type="mmdet.VOCMetric")],
        dict(type="mmdet.CocoMetric", ann_file="a.json", classwise=True),
    ],
)
def test_results_that_are_not_known_are_left_to_the_validation(evaluator):
    check("anything", evaluator)


def test_a_loop_that_renames_results_or_adds_losses_is_left_to_itself():
    loop = dict(type="mmdet.TeacherStudentValLoop")
    check("teacher/coco/bbox_mAP", dict(type="mmdet.CocoMetric"), val_cfg=loop)
    check("val/loss", dict(type="mmseg.IoUMetric"))


def test_a_metric_of_ones_own_with_a_stock_name_is_left_to_itself():
    own = type("IoUMetric", (METRICS.get("mmseg.IoUMetric"),), {})
    check("mBoundary", dict(type=own))


def test_without_validation_nothing_is_the_best():
    check("anything", dict(type="mmseg.IoUMetric"), val_cfg=None)


def score(metric):
    """What mmdet's metric says of perfect predictions of two photos."""
    for i in (1, 2):
        box = torch.tensor([[4.0, 5.0, 24.0, 35.0]])
        truth = [dict(bbox=box[0].tolist(), bbox_label=0, ignore_flag=0)]
        found = dict(bboxes=box, scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long))
        sample = dict(img_id=i, ori_shape=(60, 80), instances=truth, pred_instances=found)
        metric.process({}, [sample])
    return metric.evaluate(2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(metric_items=["mAP", "mAP_60"]), r"metric_items=\['mAP_60'\]: expected a list out"),
        (dict(proposal_nums=(300, 1000, 3000)), r"proposal_nums=.*expected three numbers, 100"),
        (dict(proposal_nums=(100,), metric="proposal"), r"proposal_nums=\[100\]: expected three"),
        (dict(iou_thrs=[0.5]), r"iou_thrs=\[0.5\]: pycocotools takes an array only"),
    ],
)
def test_settings_by_which_cocos_metric_fails_or_gives_no_map(settings, words):
    cfg = Config(dict(default_scope="mmdet", val_evaluator=dict(type="CocoMetric", **settings)))
    with pytest.raises(ValueError, match=f"^config: val_evaluator.{words}"):
        check_coco_settings(cfg, "val")
    metric = CocoMetric(**settings)
    metric.dataset_meta = dict(classes=("cat",))
    try:
        found = score(metric)["coco/bbox_mAP"]
    except (KeyError, IndexError, ValueError):
        return
    assert found == -1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(metric_items=["mAP", "AR@1000"], proposal_nums=(1, 10, 100)),
        dict(proposal_nums=[300], use_mp_eval=True),  # V3Det's
    ],
)
def test_right_settings_of_cocos_metric_pass(settings):
    evaluator = dict(type="mmdet.CocoMetric", **settings)
    cfg = Config(dict(default_scope="mmdet", val_evaluator=[evaluator, dict(type="VOCMetric")]))
    check_coco_settings(cfg, "val")
    metric = CocoMetric(**settings)
    metric.dataset_meta = dict(classes=("cat",))
    assert score(metric)["coco/bbox_mAP"] == 1
