"""Loaders that give no batch, or batches without an end, and samples that can't be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader

from fpn_neck.mm.config.pipelines import stretching
from fpn_neck.mm.config.types import framework, loops_by_iteration
from fpn_neck.mm.photos import parts_of
from fpn_neck.utils.text import one_line

_LOOKED_AT = 500  # photos, 0.1 ms each


def check_batches(runner: Runner, *splits: str) -> None:
    """Let the Runner refuse a loader that its loop can't use, as soon as it has built the loader.

    Errors of loading name the sample from then on. A loop asks for the first batch while it is
    built, and would wait for it without an end.

    Args:
        splits: of 'train', 'val', 'test', those whose loaders the run builds, in this order.
    """
    build, names = runner.build_dataloader, [f"{split}_dataloader" for split in splits]

    def checked(dataloader: Any, seed: int | None = None, *args: Any, **kwargs: Any) -> DataLoader:
        name = next((name for name in names if runner.cfg.get(name) == dataloader), None)
        loader = build(dataloader, seed, *args, **kwargs)
        fetch = NamingFetch(loader.dataset)
        vars(loader.dataset).setdefault("__getitems__", fetch)
        if name and loader.batch_sampler is not None:  # else the data set makes the batches
            names.remove(name)  # the next loader with the same settings is of the next split
            endless = name == "train_dataloader" and loops_by_iteration(runner.cfg.train_cfg)
            _refuse_batches(name, runner.cfg[name], loader.dataset, endless=endless)
            if name != "train_dataloader":
                if framework(runner.cfg) == "mmseg":
                    _refuse_stretching(name, loader.dataset)
                _refuse_sizes(name, loader, fetch, getattr(runner.model, "data_preprocessor", None))
        return loader

    runner.build_dataloader = checked


class NamingFetch:
    """A data set's ``__getitems__`` whose errors name the sample."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._fetch = getattr(dataset, "__getitems__", None)

    def __call__(self, indices: Sequence[int]) -> Any:
        """Load a batch's samples.

        Raises:
            ValueError: names the sample and the error.
        """
        return self._fetch(indices) if self._fetch else [self._load(i) for i in indices]

    def _load(self, i: int) -> Any:
        try:
            return self._dataset[i]
        except MemoryError:
            raise
        except Exception as e:  # of any transform
            raise ValueError(
                f"sample {i}{self._file(i)} can't be loaded: {one_line(e, with_type=True)}: "
                "correct its file, or the pipeline"
            ) from e

    def _file(self, i: int) -> str:
        """`` (photo.jpg, 640x480 px)`` as far as it is known."""
        try:
            path = self._dataset.get_data_info(i)["img_path"]
        except Exception:  # data sets of other packages
            return ""
        try:
            with Image.open(path) as photo:
                return f" ({path}, {photo.width}x{photo.height} px)"
        except (OSError, ValueError):
            return f" ({path})"


def _refuse_batches(name: str, cfg: Mapping[str, Any], dataset: Any, *, endless: bool) -> None:
    """Refuse a loader without a batch, or one without an end if its loop waits for the end."""
    if not len(dataset):
        raise ValueError(
            f"config: {name}.dataset holds no sample: correct its paths, or filter_cfg, which may "
            "have left nothing"
        )
    # Other samplers than the loader's: what is begun does not always begin again.
    sampler = build_batch_sampler(cfg, dataset, seed=0).sampler
    if not endless and _never_ends(sampler):
        remedy = f"set {name}.sampler.type='DefaultSampler'"
        if name == "train_dataloader":
            remedy += ", or train by iterations (train_cfg: by_epoch=False, max_iters=...)"
        raise ValueError(
            f"config: {name}.sampler gives samples without an end ({type(sampler).__name__}), and "
            f"its loop would wait for the end of them: {remedy}"
        )
    batches = build_batch_sampler(cfg, dataset, seed=0)
    try:
        first = next(iter(batches), None)
    except Exception as e:  # of batch samplers of other packages, such as mmdet's
        what = f"{name}.batch_sampler" if cfg.get("batch_sampler") else f"{name}.sampler"
        reason = one_line(e, with_type=True)
        raise ValueError(f"config: {what}: no batch can be made ({reason})") from e
    if first is None:
        raise no_batch(name, len(dataset), batches)
    if name != "train_dataloader":
        _refuse_left_out(name, batches)


def _refuse_left_out(name: str, batches: Any) -> None:
    """Refuse an evaluation whose last batch is dropped: its metric would say nothing about it."""
    count, left = sum(1 for _ in batches.sampler), sum(map(len, batches))
    if left < count:
        raise ValueError(
            f"config: {name}.drop_last=True leaves {count - left} of {count} samples out of the "
            f"metric: set {name}.drop_last=False"
        )


def build_batch_sampler(cfg: Mapping[str, Any], dataset: Any, seed: int) -> Any:
    """The batch sampler of a loader's config, as mmengine builds it, but not begun.

    Args:
        cfg: the section of the loader.
        dataset: the loader's data set.
        seed: of the sampler.
    """
    sampler = DATA_SAMPLERS.build(cfg["sampler"], default_args=dict(dataset=dataset, seed=seed))
    if not cfg.get("batch_sampler"):
        return BatchSampler(sampler, cfg["batch_size"], cfg.get("drop_last", False))
    arguments = dict(sampler=sampler, batch_size=cfg["batch_size"])
    return DATA_SAMPLERS.build(cfg["batch_sampler"], default_args=arguments)


def _refuse_sizes(name: str, loader: DataLoader, fetch: NamingFetch, preprocessor: Any) -> None:
    """Refuse photos of different sizes that the model can't put into one batch.

    Looks at the first photos; a batch of others is tried by its step.
    """
    batch_size = getattr(loader.batch_sampler, "batch_size", None)
    if not isinstance(batch_size, int) or batch_size < 2 or not preprocessor:
        return
    samples = fetch(_of_different_sizes(loader.dataset))
    if len(samples) < 2:
        return
    try:
        preprocessor(loader.collate_fn(samples), False)
    except Exception as e:  # of any model
        sizes = {tuple(x["inputs"].shape[-2:]) for x in samples if "inputs" in x}
        found = " and ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(
            f"config: {name}.batch_size={batch_size}, but the pipeline gives photos of different "
            f"sizes ({found} px), which make no batch ({one_line(e, with_type=True)}): set "
            f"{name}.batch_size=1, or resize all photos to one size in its pipeline"
        ) from e


def _refuse_stretching(name: str, dataset: Any) -> None:
    """Refuse a pipeline by which mmseg's labels lie elsewhere than the masks'.

    Looks at the first photo of each data set. Those that can't be loaded are named later.
    """
    try:
        parts = list(parts_of(dataset))
        found = [stretching(part.pipeline.transforms, part.get_data_info(0)) for part in parts]
    except Exception:  # of any transform, and data sets of other packages
        return
    for wrong in found:
        if wrong:
            raise ValueError(f"config: {name}.dataset: {wrong}")


def _of_different_sizes(dataset: Any) -> list[int]:
    """Two samples whose files have different sizes, if there are any among the first ones."""
    first: tuple[int, tuple[int, int]] | None = None
    for i in range(min(len(dataset), _LOOKED_AT)):
        try:
            with Image.open(dataset.get_data_info(i)["img_path"]) as photo:
                size = photo.size
        except Exception:  # data sets of other packages; a photo that can't be read
            continue
        first = first or (i, size)
        if size != first[1]:
            return [first[0], i]
    return []


def no_batch(name: str, count: int, batches: Any) -> ValueError:
    """The error for samples that fill no batch."""
    size = getattr(batches, "batch_size", None)
    return ValueError(
        f"config: {name}: the data set's {count} samples make no batch of batch_size={size} in "
        f"this process: lower {name}.batch_size, or set drop_last=False"
    )


def _never_ends(sampler: Any) -> bool:
    """Whether a sampler gives more samples than it has."""
    try:
        count = len(sampler)
    except TypeError:
        return False
    return next(islice(sampler, count, None), None) is not None
