"""mmengine's average of the weights (EMAHook) with this package's hooks."""

import shutil

import pytest
import torch

pytest.importorskip("mmengine")

from helpers.toy_run import toy_config, train  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402

from fpn_neck.mm.training.checkpoint_guard import CheckpointGuard  # noqa: E402
from fpn_neck.mm.training.randomness_hook import seed_from  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402

MOMENTUM = 0.25


@pytest.fixture(autouse=True)
def generators():
    yield
    seed_from(0)


class Recorder(Hook):
    """The weights after every step, and those that are validated."""

    priority = "VERY_LOW"

    def __init__(self):
        self.trained, self.validated = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.trained.append(weight(runner.model.state_dict()))

    def before_val_epoch(self, runner):
        self.validated.append(weight(runner.model.state_dict()))


def weight(state_dict):
    return state_dict["net.4.weight"].clone()


def config(work_dir, **options):
    ema = dict(type="EMAHook", momentum=MOMENTUM)
    return toy_config(work_dir, custom_hooks=[ema], **options)


@pytest.fixture
def run(tmp_path):
    recorder = Recorder()
    train(config(tmp_path / "whole", steps=8), recorder)
    return tmp_path / "whole", recorder


def test_the_average_is_validated_and_saved_and_the_weights_go_on(run):
    work_dir, recorder = run
    average, averages = recorder.trained[0], []
    for trained in recorder.trained:
        if averages:
            average = (1 - MOMENTUM) * average + MOMENTUM * trained
        averages.append(average)
    for found, step in zip(recorder.validated, (4, 8), strict=True):
        torch.testing.assert_close(found, averages[step - 1])
    saved = load_checkpoint(work_dir / "iter_8.pth")
    torch.testing.assert_close(weight(saved["state_dict"]), averages[-1])
    plain = {k.removeprefix("module."): v for k, v in saved["ema_state_dict"].items()}
    assert torch.equal(weight(plain), recorder.trained[-1])
    best = load_checkpoint(next(work_dir.glob("best*")))
    torch.testing.assert_close(weight(best["state_dict"]), averages[-1])


def test_a_resumed_run_ends_with_the_same_average(run, tmp_path):
    work_dir, _ = run
    train(config(tmp_path / "part", steps=4))
    moved = shutil.copytree(tmp_path / "part", tmp_path / "resumed")
    cfg = config(moved, steps=8, resume=True)
    cfg.load_from = str(moved / "iter_4.pth")
    train(cfg, CheckpointGuard())
    whole, resumed = (load_checkpoint(d / "iter_8.pth") for d in (work_dir, moved))
    for part in ("state_dict", "ema_state_dict"):
        assert whole[part].keys() == resumed[part].keys()
        for name, tensor in whole[part].items():
            assert torch.equal(tensor, resumed[part][name]), (part, name)
