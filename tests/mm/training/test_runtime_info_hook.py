"""Steps that leave their values on the device, as on a GPU, and are read together.

A CPU reads and checks every step; ``interval`` makes it do as a GPU does.
"""

import pytest
import torch

pytest.importorskip("mmengine")

from helpers import toy_run  # noqa: E402
from helpers.toy_run import StopHook, ToyModel, toy_config, train  # noqa: E402
from helpers.waits import Waits  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402
from torch import nn  # noqa: E402

from fpn_neck.mm.training.randomness_hook import seed_from  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402

NEVER = 1000


@pytest.fixture(autouse=True)
def generators():
    """mmengine seeds the process's generators; tests that run later must not depend on it."""
    yield
    seed_from(0)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: bool(x[0] > 0),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: [1 for _ in range(int(x.sum()))],
    ],
)
def test_the_counter_finds(read):
    with Waits() as waits:
        x = torch.ones(3) * 2 + 1
        assert waits.count == 0
        read(x)
    assert waits.count > 0


@MODELS.register_module(force=True)
class Quiet(BaseModel):
    """A model that reads no value of its own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, inputs, data_samples, mode="loss"):
        y = self.net(torch.stack(inputs))
        parts = {"loss_a": y.square().mean(), "loss_b": (y - 1).abs().mean()}
        return parts | {"acc": y.detach().mean()} if mode == "loss" else [y]


class Count(Hook):
    """Waits in every step: {iteration: number}, with all hooks before and after it."""

    priority = "LOWEST"

    def __init__(self, waits):
        self.waits, self.found, self.before = waits, {}, 0

    def before_train(self, runner):
        self.before = self.waits.count

    def after_train_iter(self, runner, *args, **kwargs):
        self.found[runner.iter + 1] = self.waits.count - self.before
        self.before = self.waits.count


def quiet(work_dir, interval, clip, **changes):
    wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.01), clip_grad=clip)
    info = dict(runtime_info=dict(type="RuntimeInfoHook", interval=interval))
    return toy_config(
        work_dir,
        val_interval=NEVER,
        checkpoint_interval=NEVER,
        model=dict(type="Quiet"),
        optim_wrapper=wrapper,
        default_hooks=info | dict(logger=dict(type="LoggerHook", interval=NEVER)),
        **changes,
    )


@pytest.fixture
def one_pass(monkeypatch):
    """More samples than the run needs: a new pass would read their order."""
    monkeypatch.setattr(toy_run, "SAMPLES", 100)


CLIPS = {"norm": dict(max_norm=0.5), "value": dict(type="value", clip_value=0.5), "none": None}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=list(CLIPS))
def test_a_step_waits_for_nothing_between_two_reads(tmp_path, one_pass, clip):
    """Step 1 begins the pass over the data, step 12 saves a checkpoint."""
    with Waits() as waits:
        count = Count(waits)
        train(quiet(tmp_path, 5, clip), count)
    assert [count.found[step] for step in range(2, 12)] == [0, 0, 0, 2, 0, 0, 0, 0, 2, 0]
    assert waits.operators.count("aten::_foreach_norm") == 12  # none besides the one for clipping


def test_with_an_interval_of_1_every_step_is_read_and_the_norm_is_taken_once(tmp_path, one_pass):
    with Waits() as waits:
        count = Count(waits)
        train(quiet(tmp_path, 1, CLIPS["norm"]), count)
    assert [count.found[step] for step in range(2, 12)] == [3] * 10  # loss, norm, all for the log
    assert waits.operators.count("aten::_foreach_norm") == 12


@pytest.mark.parametrize("clip", CLIPS.values(), ids=list(CLIPS))
def test_weights_and_logged_values_are_mmengines(tmp_path, clip):
    """With the same seeds and loader; to the bit."""
    found = []
    for interval in (None, 1, 5):
        cfg = quiet(tmp_path / str(interval), interval, clip)
        if interval is None:
            cfg.default_hooks.runtime_info = dict(type="RuntimeInfoHook")
            skipped = "fpn_neck.FiniteLossHook"
            cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook["type"] != skipped]
        runner = train(cfg)
        scalars = runner.message_hub.log_scalars
        logged = {k: v.data[0].tolist() for k, v in scalars.items() if k.startswith("train/")}
        logged = {k: v for k, v in logged.items() if "time" not in k}
        weights = {k: v.tolist() for k, v in runner.model.state_dict().items()}
        found.append((weights, logged))
    names = {"train/loss", "train/loss_a", "train/loss_b", "train/acc", "train/lr"}
    names |= {"train/grad_norm"} if clip == CLIPS["norm"] else set()
    assert set(found[0][1]) >= names
    assert all(len(found[0][1][name]) == 12 for name in names)
    assert found[0] == found[1] == found[2]


def test_a_log_has_the_values_up_to_its_step(tmp_path):
    class Logged(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, *args, **kwargs):
            if (runner.iter + 1) % 4 == 0:
                losses.append(len(runner.message_hub.log_scalars["train/loss"].data[0]))

    losses = []
    cfg = quiet(tmp_path, NEVER, None)
    cfg.default_hooks.logger.interval = 4
    train(cfg, Logged())
    assert losses == [4, 8, 12]


# ----------------------------------------------------------------------- values that are not finite


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """The files of each step."""
    train(toy_config(tmp_path_factory.mktemp("straight"), steps=4))
    return [names for names, _ in ToyModel.seen]


def later(work_dir, spoil, **changes):
    """A run that looks at its values only where it must, with bad ones at the third step."""
    info = dict(runtime_info=dict(type="RuntimeInfoHook", interval=NEVER))
    info["logger"] = dict(type="LoggerHook", interval=NEVER)
    return toy_config(work_dir, model=dict(spoil=spoil), default_hooks=info, **changes)


def saved(work_dir):
    return {path.name: load_checkpoint(path)["meta"]["iter"] for path in work_dir.glob("*.pth")}


class SaveHook(Hook):
    """Saves as hooks of other packages do, at step 4."""

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 3:
            runner.save_checkpoint(runner.work_dir, "other.pth")


STOPS = {
    "checkpoint": (dict(checkpoint_interval=2), [], {"iter_2.pth": 2}),
    "validation": (dict(checkpoint_interval=NEVER, val_interval=4), [], {}),
    "end": (dict(checkpoint_interval=NEVER, val_interval=NEVER, steps=4), [], {}),
    "SIGTERM": (dict(checkpoint_interval=NEVER), [StopHook(step=4)], {}),
    "another hook's checkpoint": (dict(checkpoint_interval=NEVER), [SaveHook()], {}),
    "a log": (dict(checkpoint_interval=NEVER, log=4), [], {}),
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(("what", "name"), [("nan", "loss"), ("gradient", "norm of the gradient")])
def test_what_a_bad_step_has_spoilt_is_never_saved(tmp_path, batches, stop, what, name):
    changes, hooks, expected = STOPS[stop]
    changes = dict(changes)
    log = changes.pop("log", NEVER)
    bad = batches[2]
    cfg = later(tmp_path, {bad[0]: what}, **changes)
    cfg.default_hooks.logger.interval = log
    with pytest.raises(ValueError) as error:
        train(cfg, *hooks)
    text = str(error.value)
    assert text.startswith(f"iteration 3: the {name} of {bad[0]}, {bad[1]} is ")
    assert "--skip-nan" in text and "not saved" in text
    assert saved(tmp_path) == expected
    assert (str(tmp_path / "iter_2.pth") if expected else "none yet") in text
    assert len(ToyModel.seen) == 4


def test_dropping_bad_batches_does_not_wait_for_a_read(tmp_path, batches):
    cfg = later(tmp_path, {batches[2][0]: "nan"}, skip_nan=True)
    runner = train(cfg)
    assert all(p.isfinite().all() for p in runner.model.state_dict().values())
    losses = runner.message_hub.log_scalars["train/loss"].data[0]
    assert 0 < len(losses) < 12 and torch.tensor(losses).isfinite().all()
