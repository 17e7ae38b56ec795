"""Which evaluators judge a data set by a COCO file."""

import pytest

pytest.importorskip("mmdet")

from mmdet.evaluation import CocoMetric  # noqa: E402
from mmengine.config import Config  # noqa: E402

from fpn_neck.mm.config.evaluators import evaluations  # noqa: E402

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
