"""What a Runner loads in our tools: no code, and nothing of another model without the option."""

import itertools

import pytest
import torch

pytest.importorskip("mmengine")

from types import SimpleNamespace  # noqa: E402

from mmengine.config import Config  # noqa: E402
from mmengine.model import BaseModel, BaseTTAModel  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import fpn_neck.mm.registry  # noqa: E402,F401 (lets mmengine read its own checkpoints)
from fpn_neck.mm.distributed.fsdp import FSDPStrategy  # noqa: E402
from fpn_neck.mm.training.checkpoint_guard import CheckpointGuard, guard_checkpoints  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402

NUMBERS = itertools.count()  # mmengine wants another name for every Runner


class Classifier(BaseModel):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(2, 4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, inputs, mode="tensor"):
        return {"loss": self.head(self.body(inputs)).square().mean()}


class Samples(list):
    """A data set with metainfo."""


class Augmented(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


@pytest.fixture
def runner(tmp_path):
    """Build a Runner with guarded checkpoints, as our tools do."""

    def build(
        num_classes=3, *, steps=1, allow_mismatch=False, augmented=False, classes="abc", **options
    ):
        model, samples = Classifier(num_classes), Samples([{"inputs": torch.ones(2)}] * 4)
        samples.metainfo = {"classes": classes}
        runner = Runner(
            model=Augmented(model) if augmented else model,
            work_dir=str(tmp_path / "work"),
            train_dataloader=DataLoader(samples, batch_size=1),
            train_cfg=dict(by_epoch=False, max_iters=steps),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1)),
            log_level="WARNING",
            experiment_name=f"guard_{next(NUMBERS)}",
            cfg=Config(options),
            **options,
        )
        guard_checkpoints(runner, "train", "val", allow_mismatch=allow_mismatch)
        return runner

    return build


@pytest.fixture
def checkpoint(runner, tmp_path):
    """mmengine's own checkpoint after one step, with HistoryBuffer and optimizer."""
    runner().train()
    path = tmp_path / "work/iter_1.pth"
    content = torch.load(path, weights_only=False)
    kinds = {type(v).__name__ for v in content["message_hub"]["log_scalars"].values()}
    assert kinds == {"HistoryBuffer"} and content["optimizer"]["state"]
    return path


def changed(path, **parts):
    """A copy of a checkpoint with other parts."""
    content = torch.load(path, weights_only=False)
    other = path.with_name(f"changed_{'_'.join(parts)}.pth")
    torch.save(content | parts, other)
    return str(other)


def test_resuming_does_not_run_the_config_in_the_checkpoint(runner, checkpoint, tmp_path):
    """mmengine's resume executes ``meta.config``, which is Python."""
    text = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    meta = torch.load(checkpoint, weights_only=False)["meta"] | {"config": text}
    going_on = runner(steps=2, load_from=changed(checkpoint, meta=meta), resume=True)
    going_on.train()
    assert going_on.iter == 2
    assert not (tmp_path / "ran").exists()
    Config.fromstring(text, file_format=".py")
    assert (tmp_path / "ran").exists()


# ------------------------------------------------------------------------- checkpoints that fit


def test_mmengines_own_checkpoint_resumes(runner, checkpoint):
    going_on = runner(steps=2, resume=True)  # finds it in the work dir
    going_on.load_or_resume()
    assert going_on.iter == 1
    history, _ = going_on.message_hub.get_scalar("train/loss").data
    assert len(history) == 1
    going_on.train()
    assert going_on.iter == 2


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("allow_mismatch", [False, True])
def test_weights_that_fit_are_loaded_whole(runner, checkpoint, augmented, allow_mismatch):
    made = runner(load_from=str(checkpoint), augmented=augmented, allow_mismatch=allow_mismatch)
    made.load_or_resume()
    weights = load_checkpoint(checkpoint)["state_dict"]
    model = made.model.module if augmented else made.model
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("container", ["model", None])
def test_weights_are_found_where_other_libraries_keep_them(runner, checkpoint, container):
    weights = load_checkpoint(checkpoint)["state_dict"]
    path = checkpoint.with_name("other.pth")
    torch.save({container: weights} if container else weights, path)
    made = runner(load_from=str(path))
    made.load_or_resume()
    assert all(torch.equal(v, weights[k]) for k, v in made.model.state_dict().items())


# ----------------------------------------------------------------------- checkpoints that don't


@pytest.mark.parametrize("augmented", [False, True])
def test_another_k_is_refused_before_anything_is_loaded(runner, checkpoint, augmented):
    made = runner(5, load_from=str(checkpoint), augmented=augmented)
    before = {k: v.clone() for k, v in made.model.state_dict().items()}
    finding = (
        r"iter_1\.pth is of another model: 2 of another shape: "
        r"head\.weight \(3, 4\) for \(5, 4\), head\.bias \(3,\) for \(5,\)"
    )
    with pytest.raises(ValueError, match=finding):
        made.load_or_resume()
    assert all(torch.equal(v, before[k]) for k, v in made.model.state_dict().items())


@pytest.mark.parametrize("explicit", [False, True])
def test_resuming_with_another_k_is_refused(runner, checkpoint, explicit):
    options = {"load_from": str(checkpoint)} if explicit else {}
    with pytest.raises(ValueError, match=r"iter_1\.pth is of another model.*head\.bias"):
        runner(5, steps=2, resume=True, **options).train()


def test_the_rest_is_loaded_with_allow_mismatch(runner, checkpoint, capsys):
    made = runner(5, load_from=str(checkpoint), allow_mismatch=True)
    before = made.model.head.weight.clone()
    made.load_or_resume()
    weights = load_checkpoint(checkpoint)["state_dict"]
    assert torch.equal(made.model.body.weight, weights["body.weight"])
    assert torch.equal(made.model.head.weight, before)
    out = capsys.readouterr()
    assert (
        "2 tensors loaded; 2 of another shape: head.weight (3, 4) for (5, 4)" in out.out + out.err
    )


def test_a_file_of_weights_only_cannot_be_resumed(runner, checkpoint):
    path = checkpoint.with_name("bare.pth")
    torch.save(load_checkpoint(checkpoint)["state_dict"], path)
    with pytest.raises(ValueError, match=r"bare\.pth doesn't say at which iteration.*load_from"):
        runner(steps=2, load_from=str(path), resume=True).train()


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"epoch": 3}, [1, 2]], ids=str)
def test_a_checkpoint_without_weights_is_refused(runner, tmp_path, content):
    torch.save(content, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="no state_dict"):
        runner(load_from=str(tmp_path / "empty.pth")).load_or_resume()


# ------------------------------------------------------------------------------- wrapped weights


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "module.module.", "module._orig_mod."])
def test_wrapped_weights_are_loaded_whole(runner, checkpoint, prefix):
    weights = load_checkpoint(checkpoint)["state_dict"]
    wrapped = {f"{prefix}{k}": v for k, v in weights.items()}
    made = runner(load_from=changed(checkpoint, state_dict=wrapped))
    made.load_or_resume()
    assert all(torch.equal(v, weights[k]) for k, v in made.model.state_dict().items())


# -------------------------------------------------------------------------------- sharded models


class Masked(nn.Module):
    """Holds -inf by design, as attention masks do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 4)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    """A runner with a model that FSDP shards over one process."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    strategy = FSDPStrategy(
        work_dir=str(tmp_path), experiment_name=f"fsdp_{next(NUMBERS)}", env_kwargs={}
    )
    strategy.logger = strategy.build_logger(log_level="WARNING")
    model = strategy._wrap_model(Masked())
    yield SimpleNamespace(
        model=model, cfg=Config(dict(load_from="a.pth")), work_dir=".", logger=strategy.logger
    )
    torch.distributed.destroy_process_group()


def test_a_sharded_model_may_hold_infinity_where_it_has_it_itself(sharded):
    weights = Masked().state_dict()
    guard = CheckpointGuard()
    guard.after_load_checkpoint(sharded, {"state_dict": dict(weights)})
    for name, value in (("body.weight", torch.inf), ("body.bias", torch.nan)):
        bad = {k: v.clone() for k, v in weights.items()}
        bad[name].fill_(value)
        with pytest.raises(ValueError, match=f"{name} holds NaN or infinity"):
            guard.after_load_checkpoint(sharded, {"state_dict": bad})


def test_a_sharded_model_refuses_weights_of_another_one_and_takes_wrapped_ones(sharded):
    """FSDP itself would load no tensor, without a word."""
    weights = Masked().state_dict()
    guard = CheckpointGuard()
    with pytest.raises(ValueError, match=r"1 of another shape: body\.bias \(5,\) for \(4,\)"):
        guard.after_load_checkpoint(
            sharded, {"state_dict": dict(weights) | {"body.bias": torch.zeros(5)}}
        )
    content = {"state_dict": {f"model.{k}": v for k, v in weights.items()}}
    guard.after_load_checkpoint(sharded, content)
    assert content["state_dict"].keys() == weights.keys()


@pytest.mark.parametrize("options", [{}, {"resume": True}], ids=["load_from", "resume"])
def test_classes_in_another_order_are_refused(runner, checkpoint, options):
    """The weights fit, and every label would have another's name."""
    meta = torch.load(checkpoint, weights_only=False)["meta"]
    assert list(meta["dataset_meta"]["classes"]) == ["a", "b", "c"]
    options |= {"load_from": str(changed(checkpoint)), "steps": 2}
    with pytest.raises(
        ValueError, match="train_dataloader in another order: label 1 is 'b' and 'c'"
    ):
        runner(classes="acb", **options).train()
    runner(classes="acb", allow_mismatch=True, **options).train()
    runner(classes="abc", **options).train()
    runner(classes="abd", **options).train()  # other names, which may be better ones
