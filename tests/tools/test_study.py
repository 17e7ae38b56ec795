"""tools/study.py: two steps on generated scenes; what the table says."""

import json

import numpy as np
import pytest
import torch

for _package in ("mmseg", "timm", "segmentation_models_pytorch"):
    pytest.importorskip(_package)

import study  # noqa: E402 (imports fpn_neck, which lets mmseg be imported)
from helpers.project import PROJECT  # noqa: E402
from helpers.tools import SEGMENTATION  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import Compose  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from study_parts import article_masks, smp_head  # noqa: E402, F401 (register)

from fpn_neck.mm.config.load import drop_pretraining  # noqa: E402

STUDY = """
base = {base!r}
common = {{"default_hooks.checkpoint.save_best": None}}
metrics = ["mIoU_occurring", "aAcc"]
factors = {{
    "ema": {{"custom_hooks": [dict(type="EMAHook", momentum=0.1)]}},
    "thin": {{"model.decode_head.channels": 8}},
}}
"""


@pytest.fixture
def study_file(write_config, tmp_path):
    path = tmp_path / "study.py"
    path.write_text(STUDY.format(base=str(write_config("tiny", SEGMENTATION))))
    return path


@pytest.mark.slow
def test_runs_names_and_seeds_once_and_writes_the_table(run_tool, study_file, tmp_path):
    command = ["study", study_file, "base", "ema+thin", "--iters", 2, "--out", tmp_path / "out"]
    done = run_tool(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in (tmp_path / "out/table.md").read_text().splitlines()]
    assert [row[0] for row in rows[2:]] == ["| base", "| ema+thin"]
    assert all(row[1:3] == ["1", "2"] for row in rows[2:])
    results = json.loads((tmp_path / "out/table.json").read_text())
    assert {result["name"] for result in results} == {"base", "ema+thin"}
    assert all(0 <= result["mIoU_occurring"] <= 100 for result in results)
    used = Config.fromfile(tmp_path / "out/ema+thin/seed0/config.py")
    assert used.custom_hooks[0].type == "EMAHook" and used.model.decode_head.channels == 8

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("iter_2.pth")}
    command.remove("ema+thin")
    done = run_tool(*command, "--seeds", 0, 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert times == {path: path.stat().st_mtime_ns for path in times}  # not repeated
    results = json.loads((tmp_path / "out/table.json").read_text())
    assert sorted((r["name"], r["seed"]) for r in results) == [
        ("base", 0),
        ("base", 1),
        ("ema+thin", 0),
    ]


@pytest.mark.slow
def test_minutes_become_iterations_by_a_timing(run_tool, study_file, tmp_path):
    command = ["study", study_file, "base", "--minutes", 0.001, "--out", tmp_path / "out"]
    done = run_tool(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out/table.json").read_text())
    assert result["iters"] == study.TIMED  # at least
    assert not (tmp_path / "out/base/timing/last_checkpoint").exists()  # the next seed is timed


@pytest.mark.slow
def test_a_run_begins_with_weights_of_another_head(run_tool, study_file, tmp_path):
    options = ["--iters", 2, "--out", tmp_path / "out"]
    assert run_tool("study", study_file, "base", *options, cwd=tmp_path).returncode == 0
    first = tmp_path / "out/base/seed0/iter_2.pth"
    text = study_file.read_text().replace('"model.dec', f'"load_from": "{first}", "model.dec')
    study_file.write_text(text)
    done = run_tool("study", study_file, "thin", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(first) in (tmp_path / "out/thin/seed0/log.txt").read_text()


def test_a_run_that_fails_ends_no_other(run_tool, study_file, tmp_path):
    text = study_file.read_text().replace('"model.decode_head.channels": 8', '"work_dir": 3')
    study_file.write_text(text)
    command = ["study", study_file, "thin", "base", "--iters", 2, "--out", tmp_path / "out"]
    done = run_tool(*command, cwd=tmp_path)
    assert done.returncode == 1 and "thin/seed0: exit code" in done.stderr
    assert "| base |" in (tmp_path / "out/table.md").read_text()


def test_the_schedule_is_stretched():
    cfg = Config(
        dict(
            train_cfg=dict(max_iters=2400, val_interval=300),
            param_scheduler=[
                dict(type="LinearLR", begin=0, end=100),
                dict(type="CosineAnnealingLR", begin=100, end=2400),
            ],
        )
    )
    study.set_budget(cfg, 600)
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 25), (25, 600)]
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (600, 600)


def test_the_table_has_means_spreads_and_differences():
    runs = [("a", 20.0), ("a", 22.0), ("base", 18.0), ("base", 19.0), ("c", 17.5)]
    results = [
        {"name": name, "seed": i, "iters": 9, "seconds_per_iteration": 1.5, "m": value}
        for i, (name, value) in enumerate(runs)
    ]
    assert study.table(results, ["m"], "base").splitlines()[2:] == [
        "| base | 2 | 9 | 1.50 | 18.50 ± 0.50 |",
        "| a | 2 | 9 | 1.50 | 21.00 ± 1.00 (+2.50) |",
        "| c | 1 | 9 | 1.50 | 17.50 (-1.00) |",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["base+ema+x", "--iters", 2], ["factor 'x'", "ema, thin"]),
        (["base"], ["--iters N or --minutes M"]),
    ],
    ids=str,
)
def test_mistakes_are_one_line(call_tool, assert_refused, study_file, arguments, words):
    assert_refused(call_tool("study", study_file, *arguments), *words)


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "tools/studies").glob("*.py")), ids=lambda p: p.name
)
def test_every_factor_has_a_place_and_a_part(path):
    """Models, with their losses, and the transforms of the training are built."""
    found, built = study.Study(str(path)), []
    split, labels = ("val", 7) if path.stem == "demo" else ("choosing", 59)
    for name in found.factors:
        cfg = found.config(name)
        assert cfg.val_dataloader.dataset.split == split
        drop_pretraining(cfg.model)
        with DefaultScope.overwrite_default_scope("mmseg"), torch.device("meta"):
            assert Compose(cfg.train_dataloader.dataset.pipeline).transforms
            if cfg.model in built:
                continue
            model = MODELS.build(cfg.model)
            assert model.decode_head.num_classes == (9 if name == "nine" else labels)
        built.append(cfg.model)


def test_the_articles_masks_lose_their_labels():
    truth = np.arange(59, dtype=np.uint8).repeat(300).reshape(100, 177)
    masks = article_masks.ArticleMasks(size=(64, 48)).transform({"gt_seg_map": truth})
    assert masks["gt_seg_map"].shape == (64, 48) and not masks["gt_seg_map"].any()
