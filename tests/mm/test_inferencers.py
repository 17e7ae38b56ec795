"""mmseg's and mmdet's own inferencers read our checkpoints after ``import fpn_neck`` only."""

import pytest
import torch
from helpers.project import PROJECT
from PIL import Image

for _package in ("mmseg.apis", "mmdet.apis", "timm", "pycocotools"):
    pytest.importorskip(_package)

from mmengine.logging import HistoryBuffer  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from fpn_neck.datasets.shapes.write import CLASSES, PALETTE  # noqa: E402
from fpn_neck.mm.config.load import drop_pretraining, load_config  # noqa: E402

RECIPES = {
    "MMSegInferencer": "segmentation/fpn_lite0_demo_shapes-256x320.py",
    "DetInferencer": "detection/retinanet_lite0_fpn_1xb4-600_shapes-256x320.py",
}
CODE = """
import fpn_neck
from {kind}.apis import {name}
inferencer = {name}({config!r}, {weights!r}, device="cpu")
print(len(inferencer({photo!r})["predictions"]))
"""


@pytest.mark.parametrize("name", RECIPES)
def test_an_inferencer_reads_a_checkpoint_of_training(run_python, tmp_path, name):
    cfg = load_config(str(PROJECT / "configs" / RECIPES[name]))
    drop_pretraining(cfg.model)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        state = MODELS.build(cfg.model).state_dict()
    history = HistoryBuffer()
    history.update(1.0)
    meta = {"dataset_meta": {"classes": CLASSES, "palette": PALETTE}}
    content = {"state_dict": state, "meta": meta, "message_hub": {"log_scalars": {"loss": history}}}
    torch.save(content, tmp_path / "model.pth")
    cfg.dump(tmp_path / "config.py")
    Image.new("RGB", (96, 64), "red").save(tmp_path / "photo.png")
    files = {
        "config": str(tmp_path / "config.py"),
        "weights": str(tmp_path / "model.pth"),
        "photo": str(tmp_path / "photo.png"),
    }
    out = run_python(CODE.format(kind=cfg.default_scope, name=name, **files))
    assert out.splitlines()[-1] == ("64" if name == "MMSegInferencer" else "1")
