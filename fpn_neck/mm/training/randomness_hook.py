"""Randomness that is the same in a resumed run, with any number of data loading processes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, count, islice, repeat
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader, Dataset

from fpn_neck.mm.registry import HOOKS

_STEP, _BATCH = 0, 1  # what a seed is for
_LOADER_ARGUMENTS = (
    "num_workers",
    "worker_init_fn",
    "collate_fn",
    "pin_memory",
    "timeout",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
)


def seed_from(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's generators from several non-negative numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@HOOKS.register_module()
class RandomnessHook(Hook):
    """Makes randomness a function of the run's seed and the iteration's number alone.

    mmengine seeds its generators once and saves none of them, so a resumed run augments, drops out
    and (without a fixed seed) shuffles differently from one that was never stopped; and to skip the
    batches behind it, it loads them all. Here every batch and every step gets a seed of its own,
    nothing needs to be saved, and skipped batches are counted, not loaded.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        self._endless = isinstance(loop, IterBasedTrainLoop)
        self._batches = NumberedBatches(
            _build_batch_sampler(runner), runner.seed, endless=self._endless
        )
        loop.dataloader = _with_batches(loop.dataloader, self._batches)
        if self._endless:
            loop.dataloader_iterator = _AfterSkipped(loop.iter, loop.dataloader)

    def before_train_epoch(self, runner: Runner) -> None:
        begin = 0 if self._endless else _begin_of_epoch(runner)
        self._batches.start(begin, skip=runner.iter - begin)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        seed_from(runner.seed, _STEP, runner.iter)

    def after_train(self, runner: Runner) -> None:
        if self._endless:
            # Ends its processes; left to the garbage collector, torch waits seconds for each.
            runner.train_loop.dataloader_iterator = None


def _begin_of_epoch(runner: Runner) -> int:
    """Steps before this epoch; a checkpoint knows, for the data may have grown or shrunk since."""
    epoch, begin = runner.message_hub.get_info("epoch_begin", (None, 0))
    if epoch != runner.epoch:
        begin = runner.iter
        runner.message_hub.update_info("epoch_begin", [runner.epoch, begin])
    return begin


class _AfterSkipped:
    """An iterator over batches, for a loop that first asks for as many as are behind it."""

    def __init__(self, behind: int, dataloader: DataLoader) -> None:
        self._batches = chain(repeat(None, behind), dataloader)

    def __iter__(self) -> Iterator:
        return self._batches

    def __next__(self) -> Any:
        return next(self._batches)

    def skip_iter(self, behind: int) -> None:
        """Ask at once, as OneDL's loop does."""
        for _ in range(behind):
            next(self)


class NumberedBatches:
    """A batch sampler whose batches know their seed.

    Args:
        batch_sampler: yields lists of indices, and holds its ``sampler``.
        seed: of the run.
        endless: begin anew at the end, as iteration-based training does.
    """

    def __init__(self, batch_sampler: Any, seed: int, *, endless: bool) -> None:
        self.batch_sampler, self.sampler = batch_sampler, batch_sampler.sampler
        self.batch_size = getattr(batch_sampler, "batch_size", None)
        self.seed, self.endless = seed, endless
        self.start(0)

    def start(self, first: int, *, skip: int = 0) -> None:
        """Number the coming pass's batches from ``first`` on, and pass over ``skip`` of them."""
        self.first, self.skip = first, skip

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[SeededBatch]:
        passes = self._passes() if self.endless else self.batch_sampler
        for number, indices in islice(enumerate(passes, self.first), self.skip, None):
            yield SeededBatch(indices, (self.seed, _BATCH, get_rank(), number))

    def _passes(self) -> Iterator[list[int]]:
        for epoch in count():
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            yield from self.batch_sampler


class SeededBatch(list):
    """Indices of a batch's samples; ``seed`` goes with them to the process that loads them."""

    def __init__(self, indices: list[int] = (), seed: tuple[int, ...] = ()) -> None:
        super().__init__(indices)
        self.seed = seed


class SeededFetch:
    """A data set's ``__getitems__``, by which torch's loader fetches a batch where there is one."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, batch: SeededBatch) -> list:
        seed_from(*batch.seed)
        return [self.dataset[i] for i in batch]


def _build_batch_sampler(runner: Runner) -> Any:
    """The config's batch sampler, as mmengine builds it, but with a resumed run's seed.

    Samplers without an end go on where they were left, and the loop has begun one already.
    """
    cfg, dataset = runner.cfg.train_dataloader, runner.train_dataloader.dataset
    differ = runner.cfg.get("randomness", {}).get("diff_rank_seed", False)
    seed = runner.seed - get_rank() * differ  # one order for all processes, who share it
    sampler = DATA_SAMPLERS.build(cfg.sampler, default_args=dict(dataset=dataset, seed=seed))
    if not cfg.get("batch_sampler"):
        return BatchSampler(sampler, cfg.batch_size, cfg.get("drop_last", False))
    arguments = dict(sampler=sampler, batch_size=cfg.batch_size)
    return DATA_SAMPLERS.build(cfg.batch_sampler, default_args=arguments)


def _with_batches(loader: DataLoader, batches: NumberedBatches) -> DataLoader:
    """The same loader over other batches."""
    loader.dataset.__getitems__ = SeededFetch(loader.dataset)
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        **{name: getattr(loader, name) for name in _LOADER_ARGUMENTS},
    )
