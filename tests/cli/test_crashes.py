"""Runs that are killed, stopped, or meet a full disk or a loss that is NaN, and go on.

Most tests train a model of two layers in this process; those of tools/train.py are at the end.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from itertools import zip_longest

import pytest
import torch
from helpers.project import PROJECT

pytest.importorskip("mmengine")

from helpers import toy_run  # noqa: E402
from helpers.toy_run import StopHook, ToyModel, toy_config, train  # noqa: E402

from fpn_neck.cli import train as train_verb  # noqa: E402
from fpn_neck.mm.prepare import prepare_training  # noqa: E402
from fpn_neck.mm.training.randomness_hook import seed_from  # noqa: E402
from fpn_neck.weights.checkpoints import load_checkpoint  # noqa: E402


@pytest.fixture(autouse=True)
def generators():
    """mmengine seeds the process's generators; tests that run later must not depend on it."""
    yield
    seed_from(0)


def leaves(content):
    """(path, value) of everything in nested dicts and lists; a tensor as its bytes."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in items:
        if isinstance(value, torch.Tensor):
            yield name, (value.dtype, tuple(value.shape), value.numpy().tobytes())
        elif isinstance(value, (dict, list, tuple)):
            yield from ((f"{name}.{path}", leaf) for path, leaf in leaves(value))
        else:
            yield name, value


def difference(a, b):
    """What differs first between two checkpoints, bit for bit; None if nothing does.

    Only a name: with CI=true pytest explains a failed ``==`` by a diff, here of all weights.
    """
    for part in ("state_dict", "optimizer", "param_schedulers"):
        for x, y in zip_longest(leaves(a[part]), leaves(b[part])):
            if x != y:
                return f"{part}: {(x or y)[0]}"
    names = ("iter", "epoch", "seed")
    return next((f"meta: {name}" for name in names if a["meta"][name] != b["meta"][name]), None)


def assert_same(a, b):
    """Bit for bit, the whole content: weights, optimizer, schedules."""
    assert difference(a, b) is None


def last(work_dir):
    """The content of the checkpoint that the work dir names as its last."""
    return load_checkpoint((work_dir / "last_checkpoint").read_text())


def refused_late(code, stderr, *words):
    """Exit code 2 and a last line for the user, after what a Runner prints when it is built."""
    assert code == 2 and "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0] == stderr.splitlines()[-1]
    for word in words:
        assert word in lines[0]


def checkpoints(work_dir):
    return sorted(p.name for p in work_dir.iterdir() if p.suffix == ".pth")


# ------------------------------------------------------------------------ resuming, bit for bit


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The last checkpoint of a run that was not stopped, and its data at every step."""
    done = {}

    def get(by_epoch):
        if by_epoch not in done:
            work_dir = tmp_path_factory.mktemp("straight")
            train(toy_config(work_dir, by_epoch=by_epoch))
            done[by_epoch] = last(work_dir), list(ToyModel.seen)
        return done[by_epoch]

    return get


@pytest.mark.parametrize(("by_epoch", "workers"), [(False, 0), (True, 0), (True, 1)])
def test_a_run_stopped_twice_ends_as_one_that_was_not(straight, tmp_path, by_epoch, workers):
    """Epochs have five steps: step 7 is in mid-epoch, step 10 at the end of one."""
    expected, seen = straight(by_epoch)
    found = []
    for stop in (7, 10, None):
        config = toy_config(tmp_path, by_epoch=by_epoch, workers=workers, resume=True)
        if stop is None:
            train(config)
        else:
            with pytest.raises(SystemExit) as ended:
                train(config, StopHook(step=stop))
            assert ended.value.code == 143
            assert last(tmp_path)["meta"]["iter"] == stop
        found += ToyModel.seen
    assert found == seen  # no sample twice, none left out
    assert_same(last(tmp_path), expected)
    assert "interrupted.pth" not in checkpoints(tmp_path)


def test_gradients_that_a_checkpoint_interrupts_are_not_lost(tmp_path):
    """Updates follow steps 4, 8 and 12."""
    kind = dict(optim_wrapper=dict(accumulative_counts=4))
    train(toy_config(tmp_path / "a", **kind))
    with pytest.raises(SystemExit):
        train(toy_config(tmp_path / "b", **kind), StopHook(step=7))
    assert len(last(tmp_path / "b")["gradients"]) == 6  # weights and biases of three layers
    train(toy_config(tmp_path / "b", **kind, resume=True))
    assert_same(last(tmp_path / "a"), last(tmp_path / "b"))
    assert "gradients" not in last(tmp_path / "b")


@pytest.mark.parametrize("samples", [6, 14])
@pytest.mark.parametrize("stop", [7, 10])
def test_photos_added_or_removed_between_two_epochs(tmp_path, monkeypatch, samples, stop):
    """Epochs have five steps, then three or seven; the one that was interrupted is completed."""
    with pytest.raises(SystemExit):
        train(toy_config(tmp_path, by_epoch=True), StopHook(step=stop))
    monkeypatch.setattr(toy_run, "SAMPLES", samples)
    train(toy_config(tmp_path, by_epoch=True, resume=True))
    epoch = samples // 2
    rest = max(0, epoch - (stop - 5))
    assert len(ToyModel.seen) == rest + epoch
    assert last(tmp_path)["meta"]["epoch"] == 3
    names = [name for names, _ in ToyModel.seen[rest:] for name in names]
    assert sorted(names) == sorted(f"{i}.jpg" for i in range(samples))


@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
def test_the_number_of_loading_processes_changes_nothing(straight, tmp_path, by_epoch):
    train(toy_config(tmp_path, by_epoch=by_epoch, workers=2))
    assert_same(last(tmp_path), straight(by_epoch)[0])


def test_another_seed_changes_the_weights(straight, tmp_path):
    train(toy_config(tmp_path, seed=1))
    assert difference(last(tmp_path), straight(False)[0]).startswith("state_dict: net.")


def test_a_run_without_a_seed_keeps_the_one_it_drew(tmp_path):
    with pytest.raises(SystemExit):
        train(toy_config(tmp_path / "a", seed=None), StopHook(step=7))
    train(toy_config(tmp_path / "a", seed=None, resume=True))
    drawn = last(tmp_path / "a")["meta"]["seed"]
    train(toy_config(tmp_path / "b", seed=drawn))
    assert_same(last(tmp_path / "a"), last(tmp_path / "b"))


def test_batches_behind_are_not_loaded_again(tmp_path):
    train(toy_config(tmp_path, steps=8))
    toy_run.loaded.clear()
    train(toy_config(tmp_path, steps=9, resume=True))
    assert len(toy_run.loaded) == 2 + toy_run.SAMPLES  # one batch, one validation


def test_samplers_of_mmdet_that_keep_batches_of_one_shape_resume_too(tmp_path):
    """The config's own batch sampler is built, and gets a finite sampler's next pass."""
    pytest.importorskip("mmdet.datasets")
    batches = dict(batch_sampler=dict(type="mmdet.AspectRatioBatchSampler"))
    sampler = dict(sampler=dict(type="DefaultSampler", shuffle=True))
    kinds = dict(train_dataloader=batches | sampler)
    train(toy_config(tmp_path / "a", **kinds))
    seen = list(ToyModel.seen)
    assert len({tuple(names) for names, _ in seen}) > 5
    with pytest.raises(SystemExit):
        train(toy_config(tmp_path / "b", **kinds), StopHook(step=7))
    train(toy_config(tmp_path / "b", **kinds, resume=True))
    assert ToyModel.seen == seen[7:]
    assert_same(last(tmp_path / "a"), last(tmp_path / "b"))


# ------------------------------------------------------------------------------- stopped by signal


def test_sigterm_in_validation_loses_nothing(straight, tmp_path):
    """Step 8 is saved before it is validated, so the run may end at once."""
    with pytest.raises(SystemExit) as ended:
        train(toy_config(tmp_path), StopHook(validation=8))
    assert ended.value.code == 143
    assert checkpoints(tmp_path) == ["best_acc_iter_4.pth", "iter_8.pth"]
    train(toy_config(tmp_path, resume=True))
    assert_same(last(tmp_path), straight(False)[0])


def test_sigterm_in_a_validation_without_checkpoint_waits_for_its_end(straight, tmp_path):
    config = toy_config(tmp_path, val_interval=3)
    with pytest.raises(SystemExit):
        train(config, StopHook(validation=3))
    assert last(tmp_path)["meta"]["iter"] == 3
    train(toy_config(tmp_path, val_interval=3, resume=True))
    assert_same(last(tmp_path), straight(False)[0])


def test_sigterm_at_a_step_that_is_saved_anyway_saves_once(tmp_path):
    for stop in (8, 12):  # 12 is the last one
        with pytest.raises(SystemExit):
            train(toy_config(tmp_path, resume=True), StopHook(step=stop))
        assert [n for n in checkpoints(tmp_path) if "best" not in n] == [f"iter_{stop}.pth"]
        assert last(tmp_path)["meta"]["iter"] == stop


STALLED = """
import sys, time
sys.path.insert(0, {tests!r})
from helpers import toy_run

class Stalling(toy_run.ToyData):
    left = {loads}
    def __getitem__(self, i):
        Stalling.left -= 1
        if Stalling.left < 0:
            print("stalled", flush=True)
            {stall}
        return super().__getitem__(i)

toy_run.DATASETS.register_module("Stalling", module=Stalling)
cfg = toy_run.toy_config({work_dir!r}, by_epoch={by_epoch}, workers={workers}, val_interval=5)
cfg.{split}_dataloader.dataset.type = "Stalling"
toy_run.train(cfg)
"""
FOREVER = "while True: time.sleep(0.1)"


def end_stalled(tmp_path, split, loads, *, workers=0, by_epoch=False, stall=FOREVER, patience=30.0):
    """SIGTERM to a run that waits for data: exit code, seconds."""
    facts = dict(tests=str(PROJECT / "tests"), work_dir=str(tmp_path), split=split, loads=loads)
    code = STALLED.format(**facts, workers=workers, by_epoch=by_epoch, stall=stall)
    hook = "fpn_neck.mm.training.termination_hook"
    code = f"import {hook}\n{hook}.PATIENCE = {patience}\n{code}"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert any("stalled" in line for line in process.stdout)
            time.sleep(0.5)
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            return process.wait(timeout=60), time.monotonic() - begin
        finally:
            process.kill()


@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_ends_a_run_that_waits_for_data(straight, tmp_path, workers, by_epoch):
    """Step 4 waits; a process may be signalled while earlier steps are under way."""
    code, seconds = end_stalled(tmp_path, "train", 6, workers=workers, by_epoch=by_epoch)
    assert code == 143 and seconds < 20
    if not workers:
        assert last(tmp_path)["meta"]["iter"] == 3
    train(toy_config(tmp_path, by_epoch=by_epoch, resume=True))
    assert_same(last(tmp_path), straight(by_epoch)[0])


def test_sigterm_ends_a_run_that_waits_for_its_first_data(tmp_path):
    code, seconds = end_stalled(tmp_path, "train", 0)
    assert code == 143 and seconds < 20
    assert not checkpoints(tmp_path)


def test_sigterm_ends_a_validation_that_waits_for_data(tmp_path):
    """Its weights may be averages, so nothing is saved: the run gives the data some time."""
    code, seconds = end_stalled(tmp_path, "val", 2, patience=2.0)
    assert code == 143 and 1.5 < seconds < 20
    assert last(tmp_path)["meta"]["iter"] == 4


def test_sigterm_ends_a_run_whose_loading_process_does_not_listen(tmp_path):
    """Only SIGKILL ends a process that waits in C."""
    stall = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); time.sleep(1000)"
    code, seconds = end_stalled(tmp_path, "train", 6, workers=1, stall=stall)
    assert code == 143 and seconds < 20


@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
def test_a_validation_that_was_cut_off_is_made_up_for(tmp_path, by_epoch):
    """At the very end mmengine would have nothing left to do, and no best checkpoint."""
    at = 15 if by_epoch else 12
    with pytest.raises(RuntimeError, match="cut off"):
        train(toy_config(tmp_path, by_epoch=by_epoch), StopHook(validation=at, crash=True))
    interrupted = last(tmp_path)
    assert not any(name.startswith(f"best_acc_iter_{at}") for name in checkpoints(tmp_path))
    runner = train(toy_config(tmp_path, by_epoch=by_epoch, resume=True))
    assert runner.message_hub.get_info("validated") == at
    name = "best_acc_epoch_3.pth" if by_epoch else "best_acc_iter_12.pth"
    assert name in checkpoints(tmp_path)
    assert_same(last(tmp_path), interrupted)  # it looked, and changed nothing


# ----------------------------------------------------------------------------------------- killed

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.toy_run import toy_config, train

root, left = Path({root!r}), [0]

def count_down(event, arguments):
    # Before every step that makes, renames or removes a checkpoint or names the last one.
    if event in ("open", "os.rename", "os.remove") and isinstance(arguments[0], (str, os.PathLike)):
        path = str(arguments[0])
        if path.startswith(str(root)) and ("last_checkpoint" in path or ".pth" in path):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

sys.stdout = sys.stderr
train(toy_config(root / "0", steps=2))  # so that no child has to load and compile what it needs
sys.stdout = sys.__stdout__
for step in range(1, 1000, {every}):
    process = os.fork()
    if process == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        sys.addaudithook(count_down)
        left[0] = step
        train(toy_config(root / str(step), steps=6))
        os._exit(0)
    if os.waitpid(process, 0)[1] == 0:
        print(step - {every})
        break
"""


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_before_any_step_of_any_write_leaves_a_good_checkpoint(
    straight, run_python, tmp_path, every
):
    """Training that saves at steps 2, 4 and 6, killed at every system call that counts."""
    code = KILLED.format(tests=str(PROJECT / "tests"), root=str(tmp_path), every=every)
    kills = int(run_python(code).split()[-1])
    assert kills > 30
    named = []
    for step in range(1, kills + 1, every):
        work_dir = tmp_path / str(step)
        for path in work_dir.glob("*.pth"):
            load_checkpoint(path)
        if (work_dir / "last_checkpoint").exists():
            named.append(last(work_dir)["meta"]["iter"])
    assert named == sorted(named) and set(named) == {2, 4, 6}
    for step in (1, 1 + kills // 2 // every * every, kills):
        work_dir = tmp_path / str(step)
        train(toy_config(work_dir, resume=True))
        assert_same(last(work_dir), straight(False)[0])
        assert "iter_12.pth" in checkpoints(work_dir)
        # What the killed run left half-written or was about to remove was cleared away.
        assert not [p for p in work_dir.iterdir() if p.name.startswith(".")]
        assert len(list(work_dir.glob("iter_*"))) == 1


# -------------------------------------------------------------------------------------- full disk


@pytest.fixture
def full_disk():
    """No file may grow beyond 100 kB: to a program, as good as no room for a checkpoint."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_checkpoint(straight, full_disk, tmp_path):
    hook = StopHook(step=3, do=full_disk)
    with pytest.raises(OSError, match="iter_4.pth can't be written .*too large.*--resume"):
        train(toy_config(tmp_path), hook)
    assert checkpoints(tmp_path) == ["iter_2.pth"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert last(tmp_path)["meta"]["iter"] == 2
    train(toy_config(tmp_path, resume=True))
    assert_same(last(tmp_path), straight(False)[0])


# ------------------------------------------------------------------------------------------- NaN


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_bad_loss_stops_before_it_touches_the_weights(straight, tmp_path, value):
    bad = straight(False)[1][2][0]  # the files of the third step
    config = toy_config(tmp_path, checkpoint_interval=1, model=dict(spoil={bad[0]: value}))
    with pytest.raises(ValueError) as stop:
        train(config)
    text = str(stop.value)
    assert text.startswith(f"iteration 3: the loss of {bad[0]}, {bad[1]} is {value}")
    assert str(tmp_path / "iter_2.pth") in text and "--skip-nan" in text
    assert last(tmp_path)["meta"]["iter"] == 2


def test_a_bad_gradient_of_a_good_loss_stops_too(straight, tmp_path):
    bad = straight(False)[1][0][0]
    config = toy_config(tmp_path, model=dict(spoil={bad[0]: "gradient"}))
    with pytest.raises(ValueError, match="iteration 1: the norm of the gradient .*none yet"):
        train(config)


@pytest.mark.parametrize("value", ["nan", "inf", "gradient", "input"])
def test_skipping_drops_the_batch_and_all_that_it_did(straight, tmp_path, value):
    bad = straight(False)[1][2][0][0]
    spoil = dict(spoil={bad: value})
    train(toy_config(tmp_path / "before", steps=2))
    train(toy_config(tmp_path / "bad", steps=3, skip_nan=True, model=spoil))
    before, after = last(tmp_path / "before"), last(tmp_path / "bad")
    torch.testing.assert_close(after["state_dict"], before["state_dict"], atol=0, rtol=0)
    train(toy_config(tmp_path / "bad", skip_nan=True, model=spoil, resume=True))
    end = last(tmp_path / "bad")
    assert end["meta"]["iter"] == 12
    assert all(v.isfinite().all() for v in end["state_dict"].values())
    assert not torch.equal(end["state_dict"]["net.0.weight"], after["state_dict"]["net.0.weight"])
    losses = end["message_hub"]["log_scalars"]["train/loss"]._log_history
    assert len(losses) < 12 and torch.tensor(losses).isfinite().all()


# --------------------------------------------------------------------------------- tools/train.py

TINY = """
_base_ = '{configs}/segmentation/fpn_lite0_demo_shapes-256x320.py'
model = dict(data_preprocessor=dict(size=(64, 96)), backbone=dict(checkpoint=None))
train_dataloader = dict(batch_size=2)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=10, val_interval=5)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1000)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""
SIMPLE = "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"


@pytest.fixture(scope="module")
def tiny(write_config):
    for package in ("mmseg", "timm"):
        pytest.importorskip(package)
    return write_config("tiny", TINY)


@pytest.fixture
def start(shapes_root, tmp_path):
    """Start tools/train.py in a session of its own, its output in a file."""
    running = []

    def begin(*arguments, **options):
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {"PYTHONPATH": os.pathsep.join(paths), "SHAPES_ROOT": str(shapes_root)}
        command = [sys.executable, str(PROJECT / "tools/train.py"), *map(str, arguments)]
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=os.environ | env,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                **options,
            )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition, process, seconds=300):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert condition(), process.poll()


def test_sigterm_to_all_processes_saves_and_the_resumed_run_ends_alike(
    tiny, start, run_tool, tmp_path
):
    straight = tmp_path / "straight"
    options = ["--cfg-options", *SIMPLE]
    done = run_tool("train", tiny, "--work-dir", straight, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    stopped = tmp_path / "stopped"  # with a loading process, which gets the signal too
    process = start(tiny, "--work-dir", stopped)
    wait_for((stopped / "last_checkpoint").is_file, process)
    os.killpg(process.pid, signal.SIGTERM)
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # again and again: the exit code stays the same
    assert process.poll() == 143
    assert last(stopped)["meta"]["iter"] < 10
    done = run_tool("train", tiny, "--work-dir", stopped, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "overridden" not in done.stderr  # the schedules recognise the replaced step
    assert_same(last(stopped), last(straight))


def test_a_full_disk_is_one_line(tiny, start, tmp_path):
    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    options = ["--work-dir", tmp_path / "work", "--cfg-options", *SIMPLE]
    process = start(tiny, *options, preexec_fn=no_large_files)
    stderr = process.communicate(timeout=300)[1]
    refused_late(process.returncode, stderr, "iter_2.pth", "too large", "--resume")
    assert checkpoints(tmp_path / "work") == []


def test_an_unwritable_work_dir_is_one_line(tiny, run_tool, assert_refused, tmp_path):
    (tmp_path / "file").touch()
    work_dir = tmp_path / "file/work"
    done = run_tool("train", tiny, "--work-dir", work_dir, cwd=tmp_path)
    assert_refused(done, str(work_dir))


@pytest.mark.slow
def test_a_loss_that_explodes_is_one_line(tiny, run_tool, tmp_path):
    options = ["--cfg-options", *SIMPLE, "optim_wrapper.optimizer.lr=1e38"]
    done = run_tool("train", tiny, "--work-dir", tmp_path / "work", *options, cwd=tmp_path)
    words = "iteration 2: the loss of ", ".jpg is ", "--skip-nan"
    refused_late(done.returncode, done.stderr, *words)


@pytest.fixture
def configure(tiny, monkeypatch):
    """The config that tools/train.py makes of its arguments."""

    def make(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", str(tiny), *map(str, arguments)])
        return prepare_training(train_verb.parse_args())

    return make


def test_resuming_before_there_is_a_checkpoint_starts_from_the_configs_weights(configure, tmp_path):
    """A run that was killed early must not go on from random weights."""
    arguments = ["--work-dir", tmp_path, "--resume", "--cfg-options", "load_from=some.pth"]
    cfg = configure(*arguments)
    assert not cfg.get("resume") and cfg.load_from == "some.pth"
    (tmp_path / "last_checkpoint").write_text("iter_2.pth")
    cfg = configure(*arguments)
    assert cfg.resume and cfg.load_from is None
    arguments[2:3] = ["--resume", "other.pth"]
    cfg = configure(*arguments)
    assert cfg.resume and cfg.load_from == "other.pth"


@pytest.mark.parametrize("skip", [False, True])
def test_the_flag_reaches_the_hook(configure, skip):
    cfg = configure(*["--skip-nan"] * skip)
    (hook,) = (h for h in cfg.custom_hooks if h.type == "fpn_neck.FiniteLossHook")
    assert hook.skip is skip
    assert cfg.default_hooks.checkpoint.type == "fpn_neck.CheckpointHook"
    assert cfg.default_hooks.checkpoint.interval == 2
    assert cfg.randomness.seed == 0


@pytest.mark.slow
def test_thirty_kills_at_random_moments(tiny, start, run_tool, tmp_path):
    """A checkpoint of 60 MB at every step, so that many kills fall into the writing of one."""
    chance = random.Random(0)
    work_dir = tmp_path / "work"
    options = ["--cfg-options", *SIMPLE, "default_hooks.checkpoint.interval=1"]
    options += ["train_cfg.val_interval=7"]
    in_writing, reached, output = 0, 0, tmp_path / "output"
    for kill in range(30):
        process = start(
            tiny, "--work-dir", work_dir, "--resume", *options, "train_cfg.max_iters=1000"
        )
        wait_for(lambda: "Checkpoints will be saved" in output.read_text(), process)
        time.sleep(chance.uniform(0, 5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        in_writing += any(p.name.startswith(".") for p in work_dir.iterdir())
        for path in work_dir.glob("*.pth"):
            load_checkpoint(path)
        if (work_dir / "last_checkpoint").exists():
            iteration = last(work_dir)["meta"]["iter"]
            assert iteration >= reached
            reached = iteration
        print(f"kill {kill + 1}: step {reached}, {in_writing} in writing", file=sys.stderr)
    assert reached and in_writing

    steps = [f"train_cfg.max_iters={reached + 2}"]
    for name, resume in (("work", ["--resume"]), ("straight", [])):
        arguments = ["--work-dir", tmp_path / name, *resume, *options, *steps]
        done = run_tool("train", tiny, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert_same(last(work_dir), last(tmp_path / "straight"))
