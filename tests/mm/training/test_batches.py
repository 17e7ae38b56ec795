"""A loader without a batch, or without an end, is refused before the training."""

import itertools
import multiprocessing
from types import SimpleNamespace

import pytest

pytest.importorskip("mmengine")

from helpers import toy_run  # noqa: E402
from helpers.toy_run import ToyModel, toy_config  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch.utils.data import BatchSampler, Sampler, SequentialSampler  # noqa: E402

from fpn_neck.mm.explain import explained  # noqa: E402
from fpn_neck.mm.training import restoring_hook  # noqa: E402
from fpn_neck.mm.training.batches import check_batches  # noqa: E402
from fpn_neck.mm.training.randomness_hook import SeededBatchSampler, seed_from  # noqa: E402


@pytest.fixture(autouse=True)
def generators():
    yield
    seed_from(0)


def train(cfg):
    """As tools/train.py does."""
    ToyModel.seen.clear()
    with explained(cfg, "train") as step:
        runner = Runner.from_cfg(cfg)
        runner.register_hook(step)
        check_batches(runner, "train", "val")
        restoring_hook.train(runner)


def refusal(cfg):
    with pytest.raises(ValueError) as caught:
        train(cfg)
    assert not ToyModel.seen
    return str(caught.value)


DEFAULT = dict(type="DefaultSampler", shuffle=True)
INFINITE = dict(type="InfiniteSampler", shuffle=True)
FEW = dict(batch_size=11, drop_last=True, sampler=DEFAULT)  # of 10 samples


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
def test_fewer_samples_than_a_batch_are_refused(tmp_path, by_epoch, workers):
    cfg = toy_config(tmp_path, by_epoch=by_epoch, workers=workers, train_dataloader=FEW)
    assert refusal(cfg) == (
        "config: train_dataloader: the data set's 10 samples make no batch of batch_size=11 in "
        "this process: lower train_dataloader.batch_size, or set drop_last=False"
    )


def test_an_endless_sampler_fills_any_batch(tmp_path):
    few = FEW | dict(sampler=INFINITE)
    train(toy_config(tmp_path, steps=3, train_dataloader=few))
    assert [len(names) for names, _ in ToyModel.seen] == [11] * 3


@pytest.mark.parametrize("kind", ["by_epoch", "EpochBasedTrainLoop"])
def test_epochs_of_an_endless_sampler_are_refused(tmp_path, kind):
    cfg = toy_config(tmp_path, by_epoch=True, train_dataloader=dict(sampler=INFINITE))
    if kind != "by_epoch":
        del cfg.train_cfg["by_epoch"]
        cfg.train_cfg.type = kind
    text = refusal(cfg)
    for word in ("config: train_dataloader.sampler", "InfiniteSampler", "DefaultSampler"):
        assert word in text
    assert "by_epoch=False" in text


def test_a_validation_over_an_endless_sampler_is_refused(tmp_path):
    text = refusal(toy_config(tmp_path, val_dataloader=dict(sampler=INFINITE)))
    assert "config: val_dataloader.sampler" in text and "by_epoch" not in text


def test_a_validation_without_a_batch_is_refused(tmp_path):
    text = refusal(toy_config(tmp_path, val_dataloader=dict(batch_size=11, drop_last=True)))
    assert text.startswith("config: val_dataloader: the data set's 10 samples make no batch")


def test_a_validation_that_drops_samples_is_refused(tmp_path):
    """Its metric would say nothing about them."""
    text = refusal(toy_config(tmp_path, val_dataloader=dict(batch_size=4, drop_last=True)))
    assert text == (
        "config: val_dataloader.drop_last=True leaves 2 of 10 samples out of the metric: set "
        "val_dataloader.drop_last=False"
    )
    train(toy_config(tmp_path, steps=1, val_dataloader=dict(batch_size=5, drop_last=True)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
def test_a_data_set_without_a_sample_is_refused(tmp_path, monkeypatch, by_epoch, workers):
    """mmengine's endless sampler would look for one while the loop is built."""
    monkeypatch.setattr(toy_run, "SAMPLES", 0)
    cfg = toy_config(tmp_path, by_epoch=by_epoch, workers=workers)
    assert "config: train_dataloader.dataset holds no sample" in refusal(cfg)


class Endless(Sampler):
    """Like mmdet's MultiSourceSampler: endless, with the length of the data set."""

    def __len__(self):
        return 10

    def __iter__(self):
        return iter(itertools.cycle(range(10)))


@pytest.mark.parametrize("endless", [False, True])
def test_an_empty_pass_ends(endless):
    """Batch samplers that drop what is left may have a length and no batch."""
    batches = BatchSampler(SequentialSampler(range(3)), 4, drop_last=True)
    with pytest.raises(ValueError, match="3 samples make no batch of batch_size=4"):
        list(SeededBatchSampler(batches, 0, endless=endless))


def test_a_batch_sampler_that_makes_no_batch_is_named(tmp_path):
    """mmdet's MultiDataAspectRatioBatchSampler wants a list as batch_size."""
    from mmengine.registry import DATA_SAMPLERS

    class Sizes(BatchSampler):
        def __init__(self, sampler, batch_size):
            super().__init__(sampler, batch_size, drop_last=False)

        def __iter__(self):
            yield [0] * self.batch_size[0]

    DATA_SAMPLERS.register_module("TestSizes", module=Sizes, force=True)
    cfg = toy_config(tmp_path, train_dataloader=dict(batch_sampler=dict(type="TestSizes")))
    text = refusal(cfg)
    assert text.startswith(
        "config: train_dataloader.batch_sampler: no batch can be made (TypeError"
    )


def test_endless_samplers_of_any_class_are_known(tmp_path):
    from mmengine.registry import DATA_SAMPLERS

    DATA_SAMPLERS.register_module("TestEndless", module=lambda dataset, seed: Endless(), force=True)
    sampler = dict(sampler=dict(_delete_=True, type="TestEndless"))
    cfg = toy_config(tmp_path, by_epoch=True, train_dataloader=sampler)
    assert "(Endless)" in refusal(cfg)


# --------------------------------------------------------------------------- errors inside a step


class Broken(toy_run.ToyData):
    """Args: fails: index -> the error of loading it."""

    def __init__(self, fails):
        self.fails = fails

    def __getitem__(self, i):
        if i in self.fails:
            raise {"KeyError": KeyError, "IndexError": IndexError, "ValueError": ValueError}[
                self.fails[i]
            ]("gt_seg_map")
        return super().__getitem__(i)

    def get_data_info(self, i):
        return {"img_path": f"photos/{i}.jpg"}


def broken(kind):
    toy_run.DATASETS.register_module("Broken", module=Broken, force=True)
    return dict(dataset=dict(_delete_=True, type="Broken", fails={7: kind}))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["KeyError", "IndexError", "ValueError"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_sample_that_cannot_be_loaded_is_named(tmp_path, split, kind, workers):
    cfg = toy_config(tmp_path, workers=workers, **{f"{split}_dataloader": broken(kind)})
    with pytest.raises(ValueError) as caught:
        train(cfg)
    text = str(caught.value)
    assert "sample 7 (photos/7.jpg) can't be loaded: " in text and kind in text
    assert "gt_seg_map" in text and "\n" not in text and "Traceback (" not in text
    assert not multiprocessing.active_children()


def failing(monkeypatch, mode, kind):
    """The model fails with this error from the second step or validation batch on."""
    forward, calls = ToyModel.forward, []

    def fail(self, inputs, data_samples, mode_="loss", **kwargs):
        given = kwargs.get("mode", mode_)
        calls.append(given)
        if given == mode and calls.count(mode) > 1:
            raise kind("x is missing")
        return forward(self, inputs, data_samples, given)

    monkeypatch.setattr(ToyModel, "forward", fail)


KINDS = [KeyError, AssertionError, IndexError, RecursionError, StopIteration, RuntimeError]


@pytest.mark.parametrize("kind", [*KINDS, ValueError])
def test_an_error_of_a_training_step_is_one_line(tmp_path, monkeypatch, kind):
    failing(monkeypatch, "loss", kind)
    with pytest.raises(ValueError) as caught:
        train(toy_config(tmp_path, checkpoint_interval=1))
    text = str(caught.value)
    assert text.startswith("training step 2 (photos ") and f"{kind.__name__}: " in text
    assert "x is missing" in text and "\n" not in text
    assert f"last good checkpoint: {tmp_path / 'iter_1.pth'}, --resume" in text
    assert "FPN_NECK_TRACEBACK=1" in text


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_validation_is_one_line(tmp_path, monkeypatch, kind):
    failing(monkeypatch, "predict", kind)
    with pytest.raises(ValueError) as caught:
        train(toy_config(tmp_path))
    text = str(caught.value)
    assert "x is missing" in text and "\n" not in text and kind.__name__ in text
    assert text.startswith("validation after step 4, batch 2 (photos 2.jpg, 3.jpg)")
    assert f"last good checkpoint: {tmp_path / 'iter_4.pth'}, --resume" in text


def test_without_a_checkpoint_the_line_says_so(tmp_path, monkeypatch):
    failing(monkeypatch, "loss", KeyError)
    with pytest.raises(ValueError, match="training step 2 .*; no checkpoint is saved yet; "):
        train(toy_config(tmp_path, checkpoint_interval=5))


# ------------------------------------------------------------------------ photos of different sizes


@pytest.fixture
def sizes(tmp_path):
    """Names of a data set of mmseg with photos of these sizes: its config and its model."""
    pytest.importorskip("mmseg")
    import fpn_neck  # noqa: F401

    pytest.importorskip("mmseg.models")
    import numpy as np
    from PIL import Image

    def build(*found, scale=None, keep_ratio=False, before=(), after=()):
        for i, (width, height) in enumerate(found):
            for folder, kind in (("img", "RGB"), ("ann", "L")):
                (tmp_path / folder).mkdir(exist_ok=True)
                zeros = np.zeros((height, width, 3)[: 2 if kind == "L" else 3], np.uint8)
                Image.fromarray(zeros).save(tmp_path / folder / f"{i}.png")
        pipeline = [dict(type="LoadImageFromFile"), *before]
        pipeline += [dict(type="Resize", scale=scale, keep_ratio=keep_ratio)] if scale else []
        pipeline += [dict(type="LoadAnnotations"), *after]
        dataset = dict(
            type="mmseg.BaseSegDataset",
            data_root=str(tmp_path),
            data_prefix=dict(img_path="img", seg_map_path="ann"),
            img_suffix=".png",
            metainfo=dict(classes=["a", "b"]),
            pipeline=[*pipeline, dict(type="PackSegInputs")],
        )
        loader = dict(batch_size=2, num_workers=0, dataset=dataset)
        loader["sampler"] = dict(type="DefaultSampler", shuffle=False)
        cfg = Config(dict(val_dataloader=loader, default_scope="mmseg"))
        with DefaultScope.overwrite_default_scope("mmseg"):
            model = SimpleNamespace(
                data_preprocessor=MODELS.build(dict(type="SegDataPreProcessor"))
            )
            runner = SimpleNamespace(cfg=cfg, model=model)
            runner.build_dataloader = Runner.build_dataloader
            check_batches(runner, "val")
            runner.build_dataloader(cfg.val_dataloader, 0)

    return build


def test_validation_photos_of_different_sizes_are_refused(sizes):
    with pytest.raises(ValueError) as caught:
        sizes((64, 48), (64, 48), (80, 48))
    text = str(caught.value)
    assert text.startswith("config: val_dataloader.batch_size=2, but the pipeline gives photos of")
    assert "(64x48 and 80x48 px)" in text and "val_dataloader.batch_size=1" in text


def test_validation_photos_that_make_a_batch_pass(sizes):
    sizes((64, 48), (64, 48))
    sizes((64, 48), (80, 48), scale=(32, 32))


def test_a_photo_whose_side_becomes_0_is_named(sizes):
    with pytest.raises(ValueError, match=r"sample 1 \(\S+1\.png, 900x1 px\) can't be loaded: "):
        sizes((64, 48), (900, 1), scale=(64, 48), keep_ratio=True)


RESIZE = dict(type="Resize", scale=(32, 32), keep_ratio=True)
PAD, CROP = dict(type="Pad", size_divisor=32), dict(type="CenterCrop", crop_size=(32, 32))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([PAD], [], "Pad of the pipeline makes 64x48 px 64x64, and mmseg stretches the labels"),
        ([CROP], [], "CenterCrop of the pipeline makes 64x48 px 32x32, and mmseg stretches"),
        ([], [RESIZE], "a mask of 32x24 px, and labels are judged at the photo's 64x48 px"),
    ],
)
def test_labels_that_would_not_lie_on_the_masks_are_refused(sizes, before, after, words):
    with pytest.raises(ValueError, match="^config: val_dataloader.dataset: ") as caught:
        sizes((64, 48), before=before, after=after)
    assert words in str(caught.value)


def test_what_changes_no_size_passes(sizes):
    sizes((64, 32), before=[PAD], after=[dict(type="Resize", scale=(64, 32))])
