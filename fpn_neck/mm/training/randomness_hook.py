"""Randomness that is the same in a resumed run, with any number of data loading processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice, repeat
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader, Dataset

from fpn_neck.mm.registry import HOOKS
from fpn_neck.mm.training.batches import build_batch_sampler, no_batch
from fpn_neck.mm.training.restoring_hook import RestoringHook

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
    _seed_torch(seed)


def _seed_torch(seed: int) -> None:
    """Like ``torch.manual_seed``, which also visits the devices that this process does not use.

    For each of them it writes down the call stack, which takes longer than all else here.
    """
    torch.default_generator.manual_seed(seed)
    device = get_device()
    if device == "cuda":
        if torch.cuda.is_initialized():  # not in a process that loads data
            torch.cuda.manual_seed_all(seed)
    elif device != "cpu":
        torch.manual_seed(seed)


@HOOKS.register_module()
class RandomnessHook(RestoringHook):
    """Makes randomness a function of only the run's seed and the iteration's number.

    mmengine seeds its generators once and saves none of them. So a resumed run augments, drops out
    and (without a fixed seed) shuffles differently from a run that was never stopped, and it loads
    all earlier batches to skip them. Here every batch and every step has a seed of its own: nothing
    needs to be saved, and earlier batches are counted, not loaded.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        self._endless = isinstance(loop, IterBasedTrainLoop)
        self._batches = SeededBatchSampler(
            _build_batch_sampler(runner), runner.seed, endless=self._endless
        )
        if self._endless:
            _end_loading(runner)
        loader = loop.dataloader
        self.replace(loader.dataset, "__getitems__", SeededFetch(loader.dataset))
        self.replace(loop, "dataloader", _loader_like(loader, batch_sampler=self._batches))
        if self._endless:
            # Putting the other one back ends this one's processes. If that were left to the garbage
            # collector, torch would wait seconds for each.
            iterator = _LoopIterator(loop.dataloader, skipped=loop.iter)
            self.replace(loop, "dataloader_iterator", iterator)

    def before_train_epoch(self, runner: Runner) -> None:
        begin = 0 if self._endless else _epoch_begin(runner)
        self._batches.start(begin, skip=runner.iter - begin)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        seed_from(runner.seed, _STEP, runner.iter)


def _epoch_begin(runner: Runner) -> int:
    """Iterations before this epoch, from the checkpoint: the data may have grown or shrunk."""
    epoch, begin = runner.message_hub.get_info("epoch_begin", (None, 0))
    if epoch != runner.epoch:
        begin = runner.iter
        runner.message_hub.update_info("epoch_begin", [runner.epoch, begin])
    return begin


def _end_loading(runner: Runner) -> None:
    """Give an iteration-based loop a loader and an iterator like its own, but not begun.

    The loop has begun its own ones. Their processes would wait until the end of the training, and
    samplers without an end can't begin again.
    """
    loop = runner.train_loop
    loader, iterator_type = loop.dataloader, type(loop.dataloader_iterator)
    batches = _build_batch_sampler(runner)
    if loader.batch_size is None:
        loop.dataloader = _loader_like(loader, batch_sampler=batches)
    else:
        loop.dataloader = _loader_like(
            loader,
            sampler=batches.sampler,
            batch_size=loader.batch_size,
            drop_last=loader.drop_last,
        )
    if iterator_type is not _LoopIterator:  # which an earlier training leaves, not begun
        loop.dataloader_iterator = _LoopIterator(_begin_later(iterator_type, loop.dataloader))


def _loader_like(loader: DataLoader, **batches: Any) -> DataLoader:
    """The same loader over other batches."""
    return DataLoader(
        loader.dataset, **batches, **{name: getattr(loader, name) for name in _LOADER_ARGUMENTS}
    )


def _begin_later(iterator_type: Callable[[DataLoader], Iterator], loader: DataLoader) -> Iterator:
    yield from iterator_type(loader)


class _LoopIterator:
    """Batches for a loop that first asks for those before the iteration it is resumed at.

    Args:
        skipped: how many batches these are. The loop drops them, and gets None for each.
    """

    def __init__(self, batches: Iterable, *, skipped: int = 0) -> None:
        self._batches = chain(repeat(None, skipped), batches)

    def __iter__(self) -> Iterator:
        return self._batches

    def __next__(self) -> Any:
        return next(self._batches)

    def skip_iter(self, skipped: int) -> None:
        """Skip all of them in one call, as OneDL's loop does."""
        for _ in range(skipped):
            next(self)


class SeededBatchSampler:
    """A batch sampler whose batches have a seed each.

    Args:
        batch_sampler: yields lists of indices, and has the attribute ``sampler``.
        seed: of the run.
        endless: start again at the end, as iteration-based training does.
    """

    def __init__(self, batch_sampler: Any, seed: int, *, endless: bool) -> None:
        self.batch_sampler, self.sampler = batch_sampler, batch_sampler.sampler
        self.batch_size = getattr(batch_sampler, "batch_size", None)
        self.seed, self.endless = seed, endless
        self.start(0)

    def start(self, first: int, *, skip: int = 0) -> None:
        """Number the next pass's batches from ``first`` on, and leave out ``skip`` of them."""
        self.first, self.skip = first, skip

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[SeededBatch]:
        """Raises a ValueError if a pass over the data has no batch."""
        passes = self._passes() if self.endless else self._pass()
        for number, indices in islice(enumerate(passes, self.first), self.skip, None):
            yield SeededBatch(indices, (self.seed, _BATCH, get_rank(), number))

    def _passes(self) -> Iterator[list[int]]:
        for epoch in count():
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            yield from self._pass()

    def _pass(self) -> Iterator[list[int]]:
        """One pass over the data; a pass without a batch would be repeated without an end."""
        batch = None
        for batch in self.batch_sampler:
            yield batch
        if batch is None:
            raise no_batch("train_dataloader", len(self.sampler), self)


class SeededBatch(list):
    """Indices of a batch's samples; ``seed`` goes with them to the process that loads them."""

    def __init__(self, indices: Iterable[int] = (), seed: tuple[int, ...] = ()) -> None:
        super().__init__(indices)
        self.seed = seed


class SeededFetch:
    """A data set's ``__getitems__``: loads a batch after seeding, by the data set's own if any."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._fetch = getattr(dataset, "__getitems__", None)

    def __call__(self, batch: SeededBatch) -> Any:
        seed_from(*batch.seed)
        if self._fetch:
            return self._fetch(batch)
        return [self._dataset[i] for i in batch]


def _build_batch_sampler(runner: Runner) -> Any:
    """The config's batch sampler, with a resumed run's seed.

    mmengine's own one can't be used: the loop has begun it, and a sampler without an end goes on
    where it was left.
    """
    differ = runner.cfg.get("randomness", {}).get("diff_rank_seed", False)
    seed = runner.seed - get_rank() * differ  # all processes share one order
    return build_batch_sampler(runner.cfg.train_dataloader, runner.train_dataloader.dataset, seed)
