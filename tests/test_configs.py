"""Every recipe loads, builds and says what it claims; nothing is trained here."""

import re
from importlib.util import find_spec

import pytest
import torch
from helpers.project import PROJECT

pytest.importorskip("mmseg")
pytest.importorskip("mmdet")
pytest.importorskip("timm")

from mmengine.config import Config  # noqa: E402
from mmengine.dataset import Compose  # noqa: E402
from mmengine.hub import get_config  # noqa: E402
from mmengine.registry import HOOKS, METRICS, MODELS, DefaultScope  # noqa: E402

import fpn_neck  # noqa: E402
from fpn_neck.mm.config.load import drop_pretraining, reading_configs  # noqa: E402

pytest.importorskip("mmseg.models")  # importable through fpn_neck

from mmseg.registry import DATASETS  # noqa: E402

CONFIGS = PROJECT / "configs"
SEGMENTATION = sorted((CONFIGS / "segmentation").glob("*.py"))
DETECTION = sorted((CONFIGS / "detection").glob("*.py"))
ABLATION = sorted((CONFIGS / "ablation").glob("*.py"))
# Recipes that are a framework's own with our neck (and head) named in it.
DERIVED = {
    path: f"mmseg::sem_fpn/{path.name}"
    for path in SEGMENTATION
    if "ade20k" in path.name or "cityscapes" in path.name
} | {
    path: f"mmdet::{path.name.split('_')[0].replace('-', '_')}/{path.name}"
    for path in DETECTION
    if path.stem.endswith("_coco")
}
OWN = [path for path in SEGMENTATION + DETECTION + ABLATION if "1xb" in path.name]


@pytest.fixture(autouse=True)
def _reading_configs():
    with reading_configs():
        yield


def name_of(path):
    return path.stem


each = pytest.mark.parametrize("path", SEGMENTATION + DETECTION, ids=name_of)
each_of_all = pytest.mark.parametrize("path", SEGMENTATION + DETECTION + ABLATION, ids=name_of)
each_own = pytest.mark.parametrize("path", OWN, ids=name_of)
each_ablation = pytest.mark.parametrize("path", ABLATION, ids=name_of)
each_segmentation = pytest.mark.parametrize("path", SEGMENTATION, ids=name_of)
each_derived = pytest.mark.parametrize("path", DERIVED, ids=name_of)


def build(cfg):
    """The model on the meta device: no weights are drawn, loaded or downloaded."""
    model = cfg.model.copy()
    model.pop("pretrained", None)
    model.backbone.pop("init_cfg", None)
    drop_pretraining(model)
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


@each
def test_builds_with_our_neck_and_head(path):
    cfg = Config.fromfile(path)
    model = build(cfg)
    assert cfg.model.neck.type == "fpn_neck.FPN"
    assert isinstance(model.neck, fpn_neck.FPN)
    if path in SEGMENTATION:
        from fpn_neck.mm.seg.head import FPNHead

        assert cfg.model.decode_head.type == "fpn_neck.FPNHead"
        assert isinstance(model.decode_head, FPNHead)


@each_derived
def test_state_dict_is_that_of_the_stock_recipe(path):
    ours, theirs = build(Config.fromfile(path)), build(get_config(DERIVED[path]))
    assert not isinstance(theirs.neck, fpn_neck.FPN)
    assert shapes_of(ours) == shapes_of(theirs)


@each_derived
def test_nothing_but_segmentor_neck_and_head_differs_from_the_stock_recipe(path):
    ours, theirs = (without_scope(c) for c in (Config.fromfile(path), get_config(DERIVED[path])))
    if theirs["model"]["type"] == "EncoderDecoder":
        assert ours["model"].pop("type") == f"fpn_neck.{theirs['model'].pop('type')}"
    for part in ("neck", "decode_head", "semantic_head"):
        if part in theirs["model"]:
            name = theirs["model"][part]["type"]
            assert ours["model"][part].pop("type") == f"fpn_neck.{name}"
            del theirs["model"][part]["type"]
    # The line that serves mmcv's operators, where they were not compiled.
    assert ours.pop("custom_imports") == {"imports": ["fpn_neck"]}
    if "rpn_r50" in path.name:  # mmdet's proposal_fast needs numpy below 1.24
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


def evaluators(cfg):
    return cfg if isinstance(cfg, list) else [cfg]


@each_of_all
def test_every_named_part_exists(path):
    cfg = Config.fromfile(path)
    hooks = [*cfg.default_hooks.values(), *cfg.get("custom_hooks", [])]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for registry, parts in {
            HOOKS: hooks,
            METRICS: [*evaluators(cfg.val_evaluator), *evaluators(cfg.test_evaluator)],
        }.items():
            for part in parts:
                with registry.switch_scope_and_registry(None) as scoped:
                    assert scoped.get(part.type) is not None, part.type
        if "LoadPanopticAnnotations" in str(cfg.to_dict()) and not find_spec("panopticapi"):
            return  # mmdet's transform needs a package that PyPI lacks
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


@each_own
def test_the_schedule_ends_with_the_training(path):
    cfg = Config.fromfile(path)
    assert max(s.end for s in cfg.param_scheduler) == cfg.train_cfg.max_iters
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0


@each_of_all
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
    size = tuple(map(int, parts[-1].split("-")[-1].split("x")))
    if path in SEGMENTATION:
        assert tuple(cfg.model.data_preprocessor.size) == size
    else:  # photos stand upright, scenes lie: mm's scale takes the sides in any order
        scales = re.findall(r"'scale': \((\d+), (\d+)\)", str(cfg.test_dataloader.to_dict()))
        assert [sorted(map(int, scale)) for scale in scales] == [sorted(size)]


# ------------------------------------------------------------------------------------ ablations


def anchor_sizes(generator):
    """Side of a square anchor in px, per level."""
    return [[scale * stride for scale in generator.scales] for stride in generator.strides]


@each_ablation
def test_ablations_differ_in_the_pyramid_alone(path):
    """The same anchors in all, 32 to 512 px in the paper: over the levels, or all on one map."""
    cfg = Config.fromfile(path)
    row = path.stem.split("_")[2]
    neck = cfg.model.neck
    if row in ("c4", "c5"):
        assert neck is None
    elif row == "finest":
        assert [part.type for part in neck] == ["fpn_neck.FPN", "fpn_neck.SelectLevels"]
    else:
        assert neck.type == "fpn_neck.FPN"
        assert neck.get("top_down", True) == (row != "bottom-up")
        assert neck.get("laterals", True) == (row != "no-laterals")
    stride = {"c4": 16, "c5": 32, "finest": 4}.get(row)
    sizes = anchor_sizes(cfg.model.rpn_head.anchor_generator)
    smallest = 16 if "lite0" in path.stem else 32
    expected = [smallest << i for i in range(5)]
    assert sizes == ([expected] if stride else [[size] for size in expected])
    if stride:
        assert cfg.model.rpn_head.anchor_generator.strides == [stride]


@each_ablation
def test_ablations_give_the_levels_that_their_head_takes(path):
    model = build(Config.fromfile(path)).eval()
    with torch.device("meta"):
        levels = model.extract_feat(torch.empty(1, 3, 128, 192))
    scores, boxes = model.bbox_head(levels)  # mmdet's name for the head of an RPN
    stride = {"c4": 16, "c5": 32, "finest": 4}.get(path.stem.split("_")[2])
    cells = [(128 // s, 192 // s) for s in ([stride] if stride else [4, 8, 16, 32, 64])]
    anchors = 15 if stride else 3
    assert [tuple(x.shape[1:]) for x in scores] == [(anchors, *cell) for cell in cells]
    assert [tuple(x.shape[1:]) for x in boxes] == [(4 * anchors, *cell) for cell in cells]
