"""Training and validation batches for Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from tokenloc.data import ImageDataset, Preprocessing, create_dataset, evaluation_transform, train_transform
from tokenloc.data.loading import LabelledDataset, TrainingImages, evaluation_loader, training_loader
from tokenloc.data.stratified import few_shot
from tokenloc.inference.processes import rank_and_world
from tokenloc.training.config import DataConfig


class TrainingData(L.LightningDataModule):
    """Training batches, shuffled by seed and epoch, and validation batches; ``batch_size`` is over all processes."""

    def __init__(
        self,
        train: ImageDataset,
        val: ImageDataset | None,
        preprocessing: Preprocessing,
        batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.val, self.preprocessing = train, val, preprocessing
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.training_workers = workers
        self._first_epoch: int | None = None
        self.batches_per_epoch = math.ceil(len(train) / batch_size)

    def steps_per_epoch(self, accumulate: int) -> int:
        """Return the optimiser steps in an epoch, of ``accumulate`` batches each; the last step may have fewer."""
        return math.ceil(self.batches_per_epoch / accumulate)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the current epoch that are left; the trainer calls this for every epoch."""
        epoch, done = self._progress()
        rank, world = rank_and_world()
        share: dict[str, int] = {"start": done, "rank": rank, "world_size": world, "workers": self.training_workers}
        return training_loader(self.examples(epoch), self.batch_size, seed=epoch_seed(self.seed, epoch), **share)

    def examples(self, epoch: int) -> LabelledDataset:
        """Return the examples of an epoch: each image with its random crop and flip of that epoch.

        Those of the first epoch of this process report unreadable images.
        """
        self._first_epoch = epoch if self._first_epoch is None else self._first_epoch
        seed, report = epoch_seed(self.seed, epoch), epoch == self._first_epoch
        return TrainingImages(self.train, train_transform(self.preprocessing), seed, report)

    def val_dataloader(self) -> Any:
        """Return this process's validation batches."""
        if self.val is None:
            return []
        rank, world = rank_and_world()
        # With fewer images than processes, every process takes all of them, which leaves the mean unchanged.
        own = self.val.subset(range(rank, len(self.val), world)) if len(self.val) >= world > 1 else self.val
        transform = evaluation_transform(self.preprocessing, "crop")
        return evaluation_loader(own, transform, math.ceil(self.batch_size / world), workers=self.workers)

    def _progress(self) -> tuple[int, int]:
        """Return the current epoch and how many of its batches are done: some if a run resumes within an epoch."""
        if self.trainer is None:
            return 0, 0
        epoch, accumulate = self.trainer.current_epoch, self.trainer.accumulate_grad_batches
        done = (self.trainer.global_step - epoch * self.steps_per_epoch(accumulate)) * accumulate
        return epoch, done if done < self.batches_per_epoch else 0  # a run that resumes after an epoch starts the next


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the random seed of an epoch, which does not depend on earlier epochs."""
    return (seed * 1_000_003 + epoch * 101) % 2**31


def open_training_images(config: DataConfig) -> ImageDataset:
    """Return the training images, or ``config.per_class`` random ones of each class."""
    images = create_dataset(config.name, config.root, config.train_split, config.classes, **config.options)
    return images if config.per_class is None else few_shot(images, config.per_class, config.draw)


def open_split(config: DataConfig, split: str | None, classes: Sequence[str] | None) -> ImageDataset | None:
    """Return a split with the given classes (None for all); None if ``split`` is None."""
    return None if split is None else create_dataset(config.name, config.root, split, classes, **config.options)
