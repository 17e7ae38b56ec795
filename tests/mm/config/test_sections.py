"""Configs whose sections are of another type than the tools read."""

import re
from argparse import ArgumentParser
from pathlib import Path

import pytest

pytest.importorskip("mmengine")

from helpers.toy_run import toy_config  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from fpn_neck.mm.config.arguments import Options  # noqa: E402
from fpn_neck.mm.config.evaluators import check_masks  # noqa: E402
from fpn_neck.mm.config.load import load_config  # noqa: E402
from fpn_neck.mm.config.sections import (  # noqa: E402
    check_length,
    check_levels,
    check_loader,
    check_metrics,
    check_schedule,
    check_sections,
    require,
    require_photos,
)
from fpn_neck.mm.training.install_hooks import install_hooks  # noqa: E402
from fpn_neck.mm.training.label_hook import LabelHook  # noqa: E402
from fpn_neck.utils.walk import type_name  # noqa: E402


@pytest.mark.parametrize(
    ("name", "cfg"),
    [
        ("model", {"model": "FPN"}),
        ("model.type", {"model": {"backbone": {}}}),
        ("model.backbone", {"model": {"type": "FasterRCNN", "backbone": None}}),
        ("model.decode_head", {"model": {"type": "EncoderDecoder", "decode_head": None}}),
        ("train_dataloader", {"train_dataloader": [1]}),
        ("val_dataloader.dataset", {"val_dataloader": {"dataset": None}}),
        (
            r"train_dataloader.dataset.datasets\[0\]",
            {"train_dataloader": {"dataset": {"datasets": [3]}}},
        ),
        (r"pipeline\[1\]", {"test_dataloader": {"dataset": {"pipeline": [{"type": "A"}, None]}}}),
        ("default_hooks.logger", {"default_hooks": {"logger": 3}}),
        (r"custom_hooks\[0\].type", {"custom_hooks": [{"priority": 3}]}),
        (r"custom_hooks\[0\].type", {"custom_hooks": [{"type": ""}]}),
        ("val_evaluator", {"val_evaluator": "mIoU"}),
        ("load_from", {"load_from": 3}),
    ],
)
def test_a_section_of_another_type_is_named(name, cfg):
    with pytest.raises(TypeError, match=f"config: {name}=" if "pipeline" not in name else name):
        check_sections(cfg)


@pytest.mark.parametrize("hooks", [{}, {"default_hooks": None}, {"default_hooks": {}}], ids=str)
def test_a_config_without_a_checkpoint_hook_gets_one(hooks):
    cfg = Config(hooks)
    install_hooks(cfg)
    assert cfg.default_hooks.checkpoint.type == "fpn_neck.CheckpointHook"


@pytest.mark.parametrize("kind", ["mmengine.CheckpointHook", MMEngineCheckpointHook], ids=str)
def test_mmengines_checkpoint_hook_is_replaced_whatever_its_name(kind):
    cfg = Config({"default_hooks": {"checkpoint": {"type": kind, "interval": 3}}})
    install_hooks(cfg)
    assert cfg.default_hooks.checkpoint == {"type": "fpn_neck.CheckpointHook", "interval": 3}


@pytest.mark.parametrize("kind", ["fpn_neck.LabelHook", LabelHook], ids=str)
def test_our_hooks_are_added_once_whatever_their_name(kind):
    cfg = Config({"custom_hooks": [{"type": kind}, {"type": "EMAHook"}]})
    install_hooks(cfg)
    names = [type_name(hook) for hook in cfg.custom_hooks]
    assert names[0] == "EMAHook" and sorted(names) == sorted(set(names)) and "LabelHook" in names


def test_a_config_that_fails_as_python_is_named(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("a = 1 / 0")
    with pytest.raises(ValueError, match="wrong.py: not a config .ZeroDivisionError"):
        load_config(str(path))


@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_configs_that_a_wheel_lacks_are_named_with_the_way_that_works(tmp_path, package):
    if (Path(pytest.importorskip(package).__file__).parent / "configs").exists():
        pytest.skip(f"{package} comes with {package}/configs")
    path = tmp_path / "mine.py"
    path.write_text(
        "from mmengine.config import read_base\n"
        f"with read_base():\n    from {package}.configs.fpn.some import *\n"
    )
    words = f"{package}.configs, which is not in .* wheel; write _base_ = '{package}::fpn/"
    with pytest.raises(ValueError, match=words):
        load_config(str(path))


def test_an_option_without_a_place_is_named(tmp_path):
    path = tmp_path / "right.py"
    path.write_text("steps = [1, 2]")
    with pytest.raises(ValueError, match="steps.9.*has no place"):
        load_config(str(path), {"steps.9": 3})


def test_an_option_that_nothing_reads_is_named(tmp_path):
    path = tmp_path / "right.py"
    path.write_text("steps = [1, 2]")
    with pytest.raises(ValueError, match="optim_wraper.optimizer.lr: .*setting 'optim_wraper'"):
        load_config(str(path), {"optim_wraper.optimizer.lr": 1})
    cfg = load_config(str(path), {"load_from": "a.pth", "sync_bn": "torch", "steps": [3]})
    assert (cfg.load_from, cfg.steps) == ("a.pth", [3])


def test_an_option_without_a_value_is_named():
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=Options)
    with pytest.raises(ValueError, match="--cfg-options a.b: expected KEY=VALUE"):
        parser.parse_args(["--cfg-options", "c=1", "a.b"])
    assert parser.parse_args(["--cfg-options", "c=1", "d=e"]).cfg_options == {"c": 1, "d": "e"}


def test_settings_that_no_checkpoint_hook_knows_are_named():
    with pytest.raises(ValueError, match="default_hooks.checkpoint.foo=0"):
        install_hooks(
            Config(dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook", foo=0))))
        )
    known = dict(type="CheckpointHook", interval=2, save_best="mIoU", priority="LOW")
    install_hooks(Config(dict(default_hooks=dict(checkpoint=known))))


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_iters", 0), ("max_epochs", 0), ("max_iters", -3), ("max_iters", 2.5)]
    + [("max_epochs", "12"), ("max_iters", None), ("val_interval", 0), ("val_interval", -1)],
)
def test_a_training_of_no_step_is_refused(name, value):
    expected = f"config: train_cfg.{name}={value!r}: expected a whole number of at least 1"
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_length({"by_epoch": False, name: value})
    check_length({name: 1})
    check_length({name: 1e4})


def test_a_train_cfg_that_is_no_dict_is_named():
    with pytest.raises(TypeError, match="config: train_cfg=True: expected a dict"):
        check_length(True)


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"batch_size": None}, "batch_size=None: expected a whole number, at least 1"),
        ({"num_workers": -1}, "num_workers=-1: expected at least 0"),
        ({"num_workers": "two"}, "num_workers='two': expected a whole number, at least 0"),
        ({"sampler": None}, "sampler=None: expected a dict with the key 'type'"),
        (
            {"batch_size": 2, "sampler": {"type": "MultiSourceSampler", "batch_size": 4}},
            "sampler.batch_size=4: expected the loader's batch_size, 2",
        ),
        (
            {"persistent_workers": True, "num_workers": 0},
            "persistent_workers=True: expected val_dataloader.num_workers of at least 1",
        ),
        ({"prefetch_factor": 2}, "prefetch_factor=2: expected val_dataloader.num_workers of"),
    ],
)
def test_a_loaders_setting_that_torch_refuses_is_named(loader, expected):
    with pytest.raises((TypeError, ValueError), match=f"config: val_dataloader.{expected}"):
        check_loader("val_dataloader", loader)


def test_loaders_of_published_configs_pass():
    several = dict(num_workers=2, persistent_workers=True, prefetch_factor=4)
    check_loader("train_dataloader", dict(batch_size=1, sampler=dict(type="A"), **several))
    check_loader("train_dataloader", dict(num_workers=0, prefetch_factor=None))
    check_loader("train_dataloader", {})
    sizes = dict(batch_size=[2, 1], batch_sampler=dict(type="MultiDataAspectRatioBatchSampler"))
    check_loader("train_dataloader", sizes)


MASK_HEAD = {"type": "FCNMaskHead"}


@pytest.mark.parametrize(
    ("model", "gives_masks"),
    [
        ({"type": "FasterRCNN", "roi_head": {"type": "StandardRoIHead"}}, False),
        ({"type": "FasterRCNN", "roi_head": {"type": "R", "mask_head": None}}, False),
        ({"type": "RetinaNet", "test_cfg": {"mask_thr_binary": 0.5}}, False),
        ({"type": "mmdet.FCOS", "data_preprocessor": {"pad_mask": True}}, False),
        ({"type": "MaskRCNN", "roi_head": {"type": "R", "mask_head": MASK_HEAD}}, True),
        ({"type": "CascadeRCNN", "roi_head": {"type": "R", "mask_head": [MASK_HEAD]}}, True),
        ({"type": "RTMDet", "bbox_head": {"type": "RTMDetInsSepBNHead"}}, True),
        ({"type": "MaskFormer", "panoptic_head": {"type": "H"}}, True),
    ],
)
@pytest.mark.parametrize("kind", ["CocoMetric", "mmdet.CocoMetric"])
def test_masks_are_not_evaluated_of_a_model_without_them(model, gives_masks, kind):
    pytest.importorskip("mmdet")
    import mmdet.evaluation  # noqa: F401  (registers the metric)

    evaluator = {"type": kind, "metric": ["bbox", "segm"]}
    cfg = Config({"default_scope": "mmdet", "model": model, "val_evaluator": evaluator})
    boxes = Config({**cfg.to_dict(), "val_evaluator": {"type": kind, "metric": "bbox"}})
    check_masks(boxes, "val")
    if gives_masks:
        check_masks(cfg, "val")
        return
    name = model["type"].rpartition(".")[2]
    with pytest.raises(ValueError, match=f"val_evaluator.metric=.*segm.*{name}.*metric='bbox'"):
        check_masks(cfg, "val")


@pytest.mark.parametrize("cfg", [{}, {"model": None}, {"model": {}}])
def test_a_missing_section_is_named(cfg):
    with pytest.raises(ValueError, match="config: model="):
        require(cfg, "model")


@pytest.mark.parametrize(
    "loader", [None, {"dataset": {"pipeline": []}}, {"dataset": {"pipeline": [{"type": "Load"}]}}]
)
def test_a_test_pipeline_that_prepares_nothing_is_named(loader):
    cfg = {"model": {"type": "A"}, "test_dataloader": loader}
    with pytest.raises(ValueError, match="config: test_dataloader"):
        require_photos(cfg)


@pytest.mark.parametrize("levels", [{"num_outs": 4}, {"in_channels": [8, 8, 8, 8]}])
def test_a_level_that_the_neck_does_not_make_is_named(levels):
    model = {"neck": {"type": "fpn_neck.FPN"} | levels, "decode_head": {"in_index": [0, 1, 2, 9]}}
    with pytest.raises(ValueError, match=r"in_index=\[0, 1, 2, 9\]: expected numbers below the 4"):
        check_levels(model)
    check_levels(model | {"decode_head": {"in_index": [0, 3]}})
    check_levels(model | {"decode_head": [{}]})


def test_a_metric_that_mmseg_does_not_know_is_named():
    evaluator = {"type": "fpn_neck.OccurringIoUMetric", "iou_metrics": ["mIoU", "foo"]}
    with pytest.raises(ValueError, match="val_evaluator.iou_metrics=.*'foo'.*mDice"):
        check_metrics("val_evaluator", [{"type": "Other"}, evaluator])
    for right in (["mFscore"], "mIoU"):
        check_metrics("val_evaluator", evaluator | {"iou_metrics": right})
    for wrong in (True, 7, None, [["mIoU"]]):
        with pytest.raises(ValueError, match="val_evaluator.iou_metrics="):
            check_metrics("val_evaluator", evaluator | {"iou_metrics": wrong})
    for other in (None, "IoUMetric", 7, [3], {"iou_metrics": 7}):
        check_metrics("val_evaluator", other)
    check_metrics("val_evaluator", None)


WARM_UP = dict(type="LinearLR", start_factor=0.001, begin=0, end=100)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(param_scheduler=[WARM_UP]), r"param_scheduler\[0\]"),
        (dict(param_scheduler=WARM_UP | dict(by_epoch=True)), "param_scheduler"),
        (dict(param_scheduler=dict(neck=[WARM_UP])), r"param_scheduler\['neck'\]\[0\]"),
        (dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook"))), ".*checkpoint"),
    ],
)
def test_what_counts_epochs_in_a_training_by_iterations_is_refused(settings, name):
    with pytest.raises(ValueError, match=rf"^config: {name}\.by_epoch=.* set by_epoch=False$"):
        check_schedule(settings, by_iterations=True)
    check_schedule(settings, by_iterations=False)


def test_a_schedule_of_iterations_passes():
    by_iterations = WARM_UP | dict(by_epoch=False)
    converted = WARM_UP | dict(convert_to_iter_based=True)
    plateau = dict(type="ReduceOnPlateauLR", monitor="mIoU")  # counts validations
    saved = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False))
    parts = dict(param_scheduler=[by_iterations, converted, plateau], default_hooks=saved)
    check_schedule(parts, by_iterations=True)
    check_schedule({}, by_iterations=True)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_warm_up_that_counts_epochs_never_ends(tmp_path, by_epoch):
    """What mmengine itself does with it: the learning rate stays a thousandth in every step."""
    rates = []

    class Rates(Hook):
        def before_train_iter(self, runner, *args, **kwargs):
            rates.append(runner.optim_wrapper.get_lr()["lr"][0])

    cfg = toy_config(tmp_path, steps=5)
    cfg.param_scheduler = [WARM_UP | dict(end=3, by_epoch=by_epoch)]
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Rates())
    runner.train()
    assert rates[0] == pytest.approx(0.01 / 1000)
    assert rates[-1] == pytest.approx(0.01 / 1000 if by_epoch else 0.01)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mmdet::nope.py", "config mmdet::nope.py: mmdet has no such file; see fpn-neck list"),
        ("mmdet::rpn/nope.py", "config mmdet::rpn/nope.py: mmdet has no such file; see fpn-neck"),
        ("nopkg::x/nope.py", "^config nopkg::x/nope.py: package 'nopkg' is not installed or has"),
    ],
)
def test_a_config_that_no_package_has(name, words):
    with pytest.raises((FileNotFoundError, ValueError), match=words):
        load_config(name)
