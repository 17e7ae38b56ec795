"""Where `--resume` continues, and what it refuses: on a model of two layers, in this process."""

import shutil

import pytest
import torch

pytest.importorskip("mmengine")

from helpers.toy_run import ToyMetric, toy_config, train  # noqa: E402
from mmengine.runner import FlexibleRunner, Runner  # noqa: E402

from fpn_neck.mm.last_checkpoint import (  # noqa: E402
    check_last_checkpoint,
    last_checkpoint,
)
from fpn_neck.mm.training import finite_loss_hook  # noqa: E402
from fpn_neck.mm.training.checkpoint_guard import CheckpointGuard, guard_checkpoints  # noqa: E402
from fpn_neck.mm.training.randomness_hook import seed_from  # noqa: E402
from fpn_neck.mm.training.resuming import check_resumable, optimizer_kinds  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402


@pytest.fixture(autouse=True)
def generators():
    """mmengine seeds the process's generators: reset them for the tests that follow."""
    yield
    seed_from(0)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The work dir of a run of four steps: a checkpoint every two steps, and a best one at 4."""
    work_dir = tmp_path_factory.mktemp("first") / "a"
    train(toy_config(work_dir, steps=4))
    return work_dir


@pytest.fixture
def a(first, tmp_path):
    """A copy of that work dir, in which files name each other by their new paths."""
    work_dir = shutil.copytree(first, tmp_path / "a")
    content = load_checkpoint(work_dir / "iter_4.pth")
    # This one was saved before the validation; the next one would hold the best score.
    best = {"best_ckpt": str(work_dir / "best_acc_iter_4.pth"), "best_score": 0.0, "validated": 4}
    content["message_hub"]["runtime_info"].update(best)
    content["message_hub"]["resumed_keys"].update(dict.fromkeys(best, True))
    torch.save(content, work_dir / "iter_4.pth")
    (work_dir / "last_checkpoint").write_text(str(work_dir / "iter_4.pth"))
    return work_dir


def resumed(work_dir, checkpoint=None, **options):
    options = dict(steps=8) | options
    cfg = toy_config(work_dir, resume=True, **options)
    cfg.load_from = checkpoint and str(checkpoint)
    return train(cfg, CheckpointGuard())


# ----------------------------------------------------------------------------- best checkpoints


def test_another_runs_best_checkpoint_is_not_removed(a, tmp_path):
    before = (a / "best_acc_iter_4.pth").read_bytes()
    runner = resumed(tmp_path / "b", a / "iter_4.pth")
    unchanged = (a / "best_acc_iter_4.pth").read_bytes() == before
    assert unchanged  # apart from the comparison, of which pytest would explain all bytes
    best = tmp_path / "b/best_acc_iter_8.pth"
    assert best.is_file() and runner.message_hub.get_info("best_ckpt") == str(best)


def test_its_own_is_replaced(a):
    resumed(a)
    assert [p.name for p in a.glob("best*")] == ["best_acc_iter_8.pth"]


def test_a_best_checkpoint_that_is_not_beaten_is_still_named(a, monkeypatch, tmp_path):
    monkeypatch.setattr(ToyMetric, "value", -100)
    runner = resumed(tmp_path / "b", a / "iter_4.pth")
    assert runner.message_hub.get_info("best_ckpt") == str(a / "best_acc_iter_4.pth")


def test_a_best_checkpoint_that_is_gone_is_forgotten(a, monkeypatch):
    monkeypatch.setattr(ToyMetric, "value", -100)
    (a / "best_acc_iter_4.pth").unlink()
    runner = resumed(a, steps=5)  # its score too, which this run does not reach
    assert runner.message_hub.get_info("best_ckpt") == str(a / "best_acc_iter_5.pth")


def test_a_moved_work_dir_finds_its_best_checkpoint_and_the_last(a):
    moved = a.rename(a.with_name("moved"))
    assert last_checkpoint(moved) == str(moved / "iter_4.pth")
    resumed(moved, last_checkpoint(moved))
    assert [p.name for p in moved.glob("best*")] == ["best_acc_iter_8.pth"]
    assert last_checkpoint(moved) == str(moved / "iter_8.pth")


@pytest.mark.parametrize("kind", [Runner, FlexibleRunner])
def test_a_checkpoint_is_read_on_the_cpu(first, tmp_path, monkeypatch, kind):
    """A GPU would hold weights and optimizer twice; the device "meta" stands for it."""
    runner = kind.from_cfg(toy_config(tmp_path, steps=1, env_cfg={"mp_cfg": {}}))
    runner.train()
    guard_checkpoints(runner)
    for module in ("runner.runner", "_strategy.single_device"):
        monkeypatch.setattr(f"mmengine.{module}.get_device", lambda: "meta")
    runner.resume(str(first / "iter_4.pth"))
    weights = load_checkpoint(first / "iter_4.pth")["state_dict"]
    assert all(torch.equal(v, weights[k]) for k, v in runner.model.state_dict().items())


# ---------------------------------------------------------------------------- the last checkpoint


def test_a_work_dir_that_was_never_used_has_no_last_checkpoint(tmp_path):
    check_last_checkpoint(tmp_path / "new")
    assert last_checkpoint(tmp_path / "new") is None
    (tmp_path / "pretrained.pth").touch()
    check_last_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"is missing, beside it iter_4\.pth, iter_6\.pth: give --resume FILE, or another"),
        ("", r"is empty, beside it iter_4\.pth: give"),
        ("/gone/iter_2.pth", r"names /gone/iter_2\.pth, which is neither there nor beside it"),
    ],
)
def test_a_last_checkpoint_that_is_lost_is_refused(a, text, words):
    (a / "last_checkpoint").unlink()
    if text is not None:
        (a / "last_checkpoint").write_text(text)
    else:
        (a / "iter_6.pth").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        check_last_checkpoint(a)


def test_a_run_that_was_killed_before_it_named_its_first_checkpoint(tmp_path):
    (tmp_path / "iter_2.pth").touch()
    check_last_checkpoint(tmp_path)
    assert last_checkpoint(tmp_path) == str(tmp_path / "iter_2.pth")


# -------------------------------------------------------------------- what a checkpoint must hold


SPOILT = {
    "published": (lambda c: c.pop("optimizer"), "no state of the optimizer"),
    "no schedules": (lambda c: c.pop("param_schedulers"), "no state of the schedules"),
    "two schedules": (
        lambda c: c["param_schedulers"].append({}),
        "the state of 2 schedules, the config has 1",
    ),
    "no hub": (lambda c: c.pop("message_hub"), "holds no message_hub"),
    "half a hub": (lambda c: c["message_hub"].pop("resumed_keys"), "holds no message_hub"),
    "no epoch": (lambda c: c["meta"].pop("epoch"), "meta.epoch=None"),
    "no iter": (lambda c: c["meta"].pop("iter"), "doesn't say at which iteration"),
    "text": (lambda c: c["meta"].update(iter="2"), "meta.iter='2', not a whole number"),
    "negative": (lambda c: c["meta"].update(iter=-5), "meta.iter=-5, not a whole number"),
    "no groups": (lambda c: c["optimizer"].pop("param_groups"), "no state of the optimizer"),
    "fewer": (
        lambda c: c["optimizer"]["param_groups"][0]["params"].pop(),
        r"groups of \[5\] parameters, the model has \[6\]",
    ),
    "shape": (
        lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        r"exp_avg \(3,\) for a parameter of \(4096, 4\)",
    ),
}


@pytest.fixture(scope="module")
def runners(tmp_path_factory):
    """One of each kind, built, to check other checkpoints with."""
    cfg = toy_config(tmp_path_factory.mktemp("plain"), steps=1)
    flexible = FlexibleRunner.from_cfg(
        toy_config(tmp_path_factory.mktemp("flexible"), steps=1, env_cfg={"mp_cfg": {}})
    )
    flexible.train()
    return {"Runner": train(cfg), "FlexibleRunner": flexible}


@pytest.mark.parametrize("kind", ["Runner", "FlexibleRunner"])
@pytest.mark.parametrize("how", SPOILT)
def test_what_would_start_from_zero_is_refused(first, runners, kind, how):
    content = load_checkpoint(first / "iter_4.pth")
    check_resumable(runners[kind], content, "some.pth")
    spoil, words = SPOILT[how]
    spoil(content)
    with pytest.raises(ValueError, match=f"some.pth .*{words}.*: start from its weights with"):
        check_resumable(runners[kind], content, "some.pth")


@pytest.mark.parametrize("kind", ["Runner", "FlexibleRunner"])
def test_what_both_runners_save_holds_all(runners, kind):
    runner = runners[kind]
    content = load_checkpoint(last_checkpoint(runner.work_dir))
    check_resumable(runner, content, "some.pth")
    assert content["meta"]["optimizers"] == optimizer_kinds(runner.optim_wrapper) == {"": "AdamW"}


def test_a_run_refuses_before_it_goes_on(a):
    content = load_checkpoint(a / "iter_4.pth")
    del content["optimizer"], content["param_schedulers"]
    torch.save(content, a / "published.pth")
    with pytest.raises(ValueError, match=r"published\.pth holds no state of the schedules"):
        resumed(a, a / "published.pth")


@pytest.mark.parametrize("other", ["Adam", "Adamax", "SGD"])
def test_another_kind_of_optimizer_is_refused(a, other):
    with pytest.raises(ValueError, match=f"another optimizer, AdamW, than {other} .restore optim_"):
        resumed(a, optim_wrapper=dict(optimizer=dict(type=other, lr=0.01)))


def test_without_its_name_hyperparameters_tell_it(a):
    content = load_checkpoint(a / "iter_4.pth")
    del content["meta"]["optimizers"]
    torch.save(content, a / "iter_4.pth")
    sgd = dict(_delete_=True, type="SGD", lr=0.01)
    words = "another optimizer, with amsgrad, betas, eps, than SGD, with dampening, momentum,"
    with pytest.raises(ValueError, match=words):
        resumed(a, optim_wrapper=dict(optimizer=sgd))
    assert resumed(a).iter == 8


# ------------------------------------------------------------------------------- nothing to train


@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
def test_a_run_that_is_at_its_end_says_so(a, tmp_path, by_epoch, capsys):
    if by_epoch:
        train(toy_config(tmp_path / "epochs", by_epoch=True))
    capsys.readouterr()
    work_dir = tmp_path / "epochs" if by_epoch else a
    resumed(work_dir, steps=4, by_epoch=by_epoch)
    words = "epoch 3, and train_cfg.max_epochs=3" if by_epoch else "iter 4, and train_cfg.max_iters"
    out = capsys.readouterr()
    assert f"nothing left to train: the checkpoint is at {words}" in out.out + out.err


# --------------------------------------------------------------------------------- NaN in weights


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(a, tmp_path, value):
    content = load_checkpoint(a / "iter_4.pth")
    content["state_dict"]["net.0.weight"][0, 0] = value
    torch.save(content, a / "bad.pth")
    cfg = toy_config(tmp_path / "b", skip_nan=True)
    cfg.load_from = str(a / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth: net\.0\.weight holds NaN or infinity"):
        train(cfg, CheckpointGuard())
    assert not list((tmp_path / "b").glob("*.pth"))


def test_skipping_ends_where_every_batch_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(finite_loss_hook, "MAX_SKIPPED", 3)
    spoil = dict(spoil={f"{i}.jpg": "nan" for i in range(10)})
    cfg = toy_config(tmp_path, skip_nan=True, model=spoil, checkpoint_interval=100)
    with pytest.raises(
        ValueError, match="iteration 3: .*3 dropped batches in a row: the cause is the weights"
    ):
        train(cfg)


# ------------------------------------------------------------------------------------- the option


RECIPE = "_base_ = '{configs}/segmentation/fpn_lite0_demo_shapes-256x320.py'"


def test_an_empty_value_is_refused(call_tool, assert_refused, write_config, tmp_path):
    pytest.importorskip("mmseg")
    config = write_config("any", RECIPE)
    done = call_tool("train", config, "--work-dir", tmp_path, "--resume", "")
    assert_refused(done, "--resume '' is empty", "variable")


def test_a_lost_last_checkpoint_stops_the_tool(call_tool, assert_refused, write_config, tmp_path):
    pytest.importorskip("mmseg")
    config = write_config("any", RECIPE)
    for name in ("iter_2.pth", "iter_4.pth"):
        (tmp_path / name).touch()
    options = ["--work-dir", tmp_path, "--resume", "--no-check"]
    for load_from in ([], ["--cfg-options", "load_from=some.pth"]):
        done = call_tool("train", config, *options, *load_from)
        assert_refused(done, "iter_2.pth", "--resume FILE", "--work-dir")
