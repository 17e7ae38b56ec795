"""Configs whose sections are of another type than the tools read."""

import pytest

pytest.importorskip("mmengine")

from mmengine.config import Config  # noqa: E402

from fpn_neck.integrations.config_sections import check_sections  # noqa: E402
from fpn_neck.integrations.dependable import make_dependable  # noqa: E402
from fpn_neck.integrations.running import load_config  # noqa: E402


@pytest.mark.parametrize(
    ("name", "cfg"),
    [
        ("model", {"model": "FPN"}),
        ("model.type", {"model": {"backbone": {}}}),
        ("train_dataloader", {"train_dataloader": [1]}),
        ("val_dataloader.dataset", {"val_dataloader": {"dataset": None}}),
        (
            r"train_dataloader.dataset.datasets\[0\]",
            {"train_dataloader": {"dataset": {"datasets": [3]}}},
        ),
        (r"pipeline\[1\]", {"test_dataloader": {"dataset": {"pipeline": [{"type": "A"}, None]}}}),
        ("default_hooks.logger", {"default_hooks": {"logger": 3}}),
        (r"custom_hooks\[0\].type", {"custom_hooks": [{"priority": 3}]}),
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
    make_dependable(cfg)
    assert cfg.default_hooks.checkpoint.type == "fpn_neck.CheckpointHook"


def test_a_config_that_fails_as_python_is_named(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("a = 1 / 0")
    with pytest.raises(ValueError, match="wrong.py: not a config .ZeroDivisionError"):
        load_config(str(path))


def test_an_option_without_a_place_is_named(tmp_path):
    path = tmp_path / "right.py"
    path.write_text("steps = [1, 2]")
    with pytest.raises(ValueError, match="steps.9.*has no place"):
        load_config(str(path), {"steps.9": 3})
