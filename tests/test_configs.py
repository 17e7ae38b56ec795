"""Every recipe loads, builds and says what it claims; nothing is trained here."""

import ast
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("mmdet")
pytest.importorskip("timm")

from mmengine.config import Config  # noqa: E402
from mmengine.dataset import Compose  # noqa: E402
from mmengine.hub import get_config  # noqa: E402
from mmengine.registry import HOOKS, METRICS, MODELS, DefaultScope  # noqa: E402

import fpn_neck  # noqa: E402

pytest.importorskip("mmseg.models")  # importable through fpn_neck

from mmseg.registry import DATASETS  # noqa: E402

CONFIGS = Path(__file__).parents[1] / "configs"
SEGMENTATION = sorted((CONFIGS / "segmentation").glob("*.py"))
DETECTION = sorted((CONFIGS / "detection").glob("*.py"))
# Recipes that are a framework's own with our neck (and head) named in it.
DERIVED = {
    path: f"mmseg::sem_fpn/{path.name}"
    for path in SEGMENTATION
    if "ade20k" in path.name or "cityscapes" in path.name
} | {path: f"mmdet::rpn/{path.name}" for path in DETECTION}


def name_of(path):
    return path.stem


each = pytest.mark.parametrize("path", SEGMENTATION + DETECTION, ids=name_of)
each_segmentation = pytest.mark.parametrize("path", SEGMENTATION, ids=name_of)
each_derived = pytest.mark.parametrize("path", DERIVED, ids=name_of)


def build(cfg):
    """The model on the meta device: no weights are drawn, loaded or downloaded."""
    model = cfg.model.copy()
    model.pop("pretrained", None)
    backbone = model.backbone
    backbone.pop("init_cfg", None)
    if backbone.type == "fpn_neck.TimmBackbone":
        backbone.update(pretrained=False, checkpoint=None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        return MODELS.build(model)


def shapes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def without_scope(cfg):
    """As plain dicts, without the ``_scope_`` that inheriting from a package adds."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k != "_scope_"}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return plain(cfg.to_dict())


def base_names(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_base_":
            bases = ast.literal_eval(node.value)
            return [bases] if isinstance(bases, str) else bases
    return []


def depth(path):
    """Files from this one down to the farthest base, our own ones counted."""
    own = [path.parent / b for b in base_names(path) if "::" not in b]
    return 1 + max((depth(b) for b in own), default=0)


def test_there_are_recipes_of_every_kind():
    assert len(SEGMENTATION) >= 8 and len(DETECTION) >= 1
    assert len(DERIVED) >= 5


@each
def test_inheritance_is_at_most_three_deep(path):
    assert depth(path) <= 3


@each
def test_builds_with_our_neck_and_head(path):
    cfg = Config.fromfile(path)
    model = build(cfg)
    assert cfg.model.neck.type == "fpn_neck.FPN"
    assert isinstance(model.neck, fpn_neck.FPN)
    if path in SEGMENTATION:
        from fpn_neck.integrations.mmseg import FPNHead

        assert cfg.model.decode_head.type == "fpn_neck.FPNHead"
        assert isinstance(model.decode_head, FPNHead)


@each_derived
def test_state_dict_is_that_of_the_stock_recipe(path):
    ours, theirs = build(Config.fromfile(path)), build(get_config(DERIVED[path]))
    assert not isinstance(theirs.neck, fpn_neck.FPN)
    assert shapes_of(ours) == shapes_of(theirs)


@each_derived
def test_nothing_but_neck_and_head_differs_from_the_stock_recipe(path):
    ours, theirs = (without_scope(c) for c in (Config.fromfile(path), get_config(DERIVED[path])))
    for part in ("neck", "decode_head"):
        if part in theirs["model"]:
            name = theirs["model"][part]["type"]
            assert ours["model"][part].pop("type") == f"fpn_neck.{name}"
            del theirs["model"][part]["type"]
    # The line that serves mmcv's operators, where they were not compiled.
    assert ours.pop("custom_imports") == {"imports": ["fpn_neck"]}
    if path in DETECTION:  # mmdet's proposal_fast needs numpy below 1.24
        for cfg in (ours, theirs):
            assert cfg["val_evaluator"].pop("metric").startswith("proposal")
            assert cfg["test_evaluator"].pop("metric").startswith("proposal")
    assert ours == theirs


@each_segmentation
def test_logits_have_the_size_and_classes_of_the_recipe(path):
    cfg = Config.fromfile(path)
    model = build(cfg).eval()
    height, width = cfg.model.data_preprocessor.size
    with torch.device("meta"):
        logits = model(torch.empty(2, 3, height, width), mode="tensor")
    classes = cfg.model.decode_head.num_classes
    assert logits.shape == (2, classes, height // 4, width // 4)
    data = DATASETS.get(cfg.train_dataloader.dataset.type)
    assert len(data.METAINFO["classes"]) == classes


@each
def test_every_named_part_exists(path):
    cfg = Config.fromfile(path)
    hooks = [*cfg.default_hooks.values(), *cfg.get("custom_hooks", [])]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for registry, parts in {
            HOOKS: hooks,
            METRICS: [cfg.val_evaluator, cfg.test_evaluator],
        }.items():
            for part in parts:
                with registry.switch_scope_and_registry(None) as scoped:
                    assert scoped.get(part.type) is not None, part.type
        for split in ("train", "val", "test"):
            assert Compose(cfg[f"{split}_dataloader"].dataset.pipeline).transforms
        if "tta_pipeline" in cfg:
            assert Compose(cfg.tta_pipeline).transforms


@each_segmentation
def test_truth_is_loaded_at_the_photos_own_size(path):
    """Metrics are taken on the mask as the file has it, so it is loaded after every Resize."""
    cfg = Config.fromfile(path)
    for split in ("val", "test"):
        names = [t.type for t in cfg[f"{split}_dataloader"].dataset.pipeline]
        assert "Resize" not in names[names.index("LoadAnnotations") :]


@pytest.mark.parametrize(
    ("variable", "name", "default"),
    [
        ("CLOTHING_ROOT", "fpn_lite0_1xb16-2400_clothing-320x224", "data/clothing"),
        ("SHAPES_ROOT", "fpn_lite0_demo_shapes-256x320", "data/shapes"),
    ],
)
def test_the_data_root_comes_from_the_environment(monkeypatch, variable, name, default):
    for value in (None, "/somewhere/else"):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
        cfg = Config.fromfile(CONFIGS / f"segmentation/{name}.py")
        for split in ("train", "val", "test"):
            assert cfg[f"{split}_dataloader"].dataset.data_root == (value or default)


@each_segmentation
def test_the_schedule_ends_with_the_training(path):
    cfg = Config.fromfile(path)
    assert max(s.end for s in cfg.param_scheduler) == cfg.train_cfg.max_iters
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0


@each
def test_the_file_name_tells_the_training(path):
    """``{algorithm}_{parts}_{gpus}xb{batch}-{iterations}_{data}``."""
    cfg, parts = Config.fromfile(path), path.stem.split("_")
    schedule = next((p for p in parts if "xb" in p), None)
    if schedule is None:
        assert "demo" in parts or "1x" in parts
        return
    batch, iterations = schedule.split("xb")[1].split("-")
    iterations = int(iterations.replace("k", "000"))
    assert cfg.train_dataloader.batch_size == int(batch)
    assert cfg.train_cfg.max_iters == iterations
    height, width = map(int, parts[-1].split("-")[-1].split("x"))
    assert tuple(cfg.model.data_preprocessor.size) == (height, width)
