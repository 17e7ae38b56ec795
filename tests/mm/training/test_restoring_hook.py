"""What hooks replace on other objects is as before after a training, also after a failed one."""

import gc
import multiprocessing
import signal
from functools import partial

import pytest

pytest.importorskip("mmengine")

from helpers import toy_run  # noqa: E402
from helpers.toy_run import StopHook, ToyData, ToyModel, toy_config, train  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import DATASETS  # noqa: E402

from fpn_neck.mm.training.randomness_hook import seed_from  # noqa: E402


@pytest.fixture(autouse=True)
def generators():
    """mmengine seeds the process's generators; tests that run later must not depend on it."""
    yield
    seed_from(0)
    gc.collect()  # ends the loading processes that a test has begun


def settings(loader):
    """Of a loader, and of what it is made of."""
    batches = loader.batch_sampler
    kinds = [type(x) for x in (loader, loader.sampler, batches, batches.sampler)]
    names = [name for name in vars(loader) if name not in ("sampler", "batch_sampler", "_iterator")]
    return kinds, {name: getattr(loader, name) for name in names}


class Snapshot(Hook):
    """What a runner and this process have before the other hooks, and now."""

    def before_run(self, runner):
        self.runner = runner
        self.before = self.now()

    def now(self):
        runner = self.runner
        train_loader, val_loader = runner.train_loop.dataloader, runner.val_loop.dataloader
        return {
            "optimizer wrapper": set(vars(runner.optim_wrapper)),
            "update_params": runner.optim_wrapper.update_params,
            "step": runner.optim_wrapper.step,
            "loaders": [settings(train_loader), settings(val_loader)],
            "data set": vars(train_loader.dataset).copy(),
            "handler": signal.getsignal(signal.SIGTERM),
        }


class FailHook(Hook):
    """An error when all other hooks have begun."""

    priority = "LOWEST"

    def before_train(self, runner):
        raise RuntimeError("cut off")


def fail():
    raise RuntimeError("cut off")


ENDS = {
    "finished": (None, None),
    "error in a step": (StopHook(step=3, do=fail), RuntimeError),
    "error in validation": (StopHook(validation=5, crash=True), RuntimeError),
    "error in a hook": (FailHook(), RuntimeError),
    "SIGTERM": (StopHook(step=3), SystemExit),
    "NaN": (None, ValueError),
}


@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
@pytest.mark.parametrize("end", ENDS)
def test_everything_is_as_before(tmp_path, end, by_epoch):
    hook, error = ENDS[end]
    snapshot = Snapshot()
    spoil = {f"{i}.jpg": "nan" for i in range(toy_run.SAMPLES)} if end == "NaN" else {}
    config = toy_config(tmp_path, by_epoch=by_epoch, val_interval=5, model=dict(spoil=spoil))
    hooks = [snapshot, *filter(None, [hook])]
    if error:
        with pytest.raises(error):
            train(config, *hooks)
    else:
        train(config, *hooks)
    assert snapshot.now() == snapshot.before
    if not by_epoch:
        iterator = snapshot.runner.train_loop.dataloader_iterator
        batches = [next(iterator) for _ in range(toy_run.SAMPLES)]  # two passes
        assert all(len(batch["inputs"]) == 2 for batch in batches)


@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
def test_no_loading_process_waits_during_training_or_is_left_after_it(tmp_path, by_epoch):
    """Only that of the seeded loader; the one of the replaced loader ends."""
    counts = []
    count = StopHook(step=3, do=lambda: counts.append(len(multiprocessing.active_children())))
    config = toy_config(tmp_path, by_epoch=by_epoch, workers=1, val_interval=100)
    config.train_dataloader.persistent_workers = True
    runner = train(config, count)
    assert counts == [1]
    assert not multiprocessing.active_children()
    if not by_epoch:  # the loop's own iterator begins its process when it is used
        iterator = runner.train_loop.dataloader_iterator
        batches = [next(iterator) for _ in range(toy_run.SAMPLES)]  # two passes
        assert all(len(batch["inputs"]) == 2 for batch in batches)
        assert len(multiprocessing.active_children()) == 1


@DATASETS.register_module(force=True)
class ToyBatches(ToyData):
    """A data set that loads batches by itself."""

    fetched = 0

    def __init__(self, on_instance):
        if on_instance:
            self.__getitems__ = partial(ToyBatches.__getitems__, self)

    def __getitems__(self, indices):
        ToyBatches.fetched += 1
        return [self[i] for i in indices]


@pytest.mark.parametrize("on_instance", [False, True], ids=["of class", "of instance"])
def test_a_data_sets_own_fetching_of_batches_runs_under_the_seed(
    tmp_path, monkeypatch, on_instance
):
    train(toy_config(tmp_path / "items", steps=6))
    expected = list(ToyModel.seen)
    monkeypatch.setattr(ToyBatches, "fetched", 0)
    kind = dict(train_dataloader=dict(dataset=dict(type="ToyBatches", on_instance=on_instance)))
    runner = train(toy_config(tmp_path / "batches", steps=6, **kind))
    assert ToyModel.seen == expected
    assert ToyBatches.fetched == 6
    assert (
        isinstance(vars(runner.train_dataloader.dataset).get("__getitems__"), partial)
        is on_instance
    )
