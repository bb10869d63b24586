"""Batches for training and evaluation. A broken image never ends a run, and is never scored silently."""

from __future__ import annotations

import logging
import signal
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from tokenloc.boxes.frame import Frame
from tokenloc.data.base import ImageDataset
from tokenloc.data.transforms import FramedTransform, TrainTransform

MAX_UNREADABLE = 50
"""Number of consecutive unreadable images after which training gives up: then the disk is broken, not an image."""

_logger = logging.getLogger(__name__)


class LabelledDataset(Dataset[tuple[torch.Tensor, int]]):
    """Pairs of (tensor, class index) to learn from."""

    @abstractmethod
    def __len__(self) -> int: ...


class TrainingImages(LabelledDataset):
    """Images and labels for training: (image [3, H, W] float32, class index).

    An unreadable image is replaced by the next readable one, with that one's label.

    If ``MAX_UNREADABLE`` consecutive images (or all) cannot be read, that is a ValueError.

    Args:
        dataset: the images.
        transform: from an RGB PIL image to [3, H, W].
        seed: the random transform depends on it and the image's index only, whichever process reads the image.
        report: log a warning, once, for each unreadable image.
    """

    def __init__(self, dataset: ImageDataset, transform: TrainTransform, seed: int = 0, report: bool = True) -> None:
        self.dataset, self.transform, self.seed, self.report = dataset, transform, seed, report
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        tries = min(MAX_UNREADABLE, len(self.dataset))
        for candidate in range(index, index + tries):
            position = candidate % len(self.dataset)
            try:
                image = self.dataset.image(position)
            except (ValueError, OSError) as error:
                if self.report and position not in self._reported:
                    self._reported.add(position)
                    _logger.warning("skipped in training and replaced by the next image: %s", error)
            else:
                with torch.random.fork_rng(devices=[]):  # restores the CPU's generator
                    torch.default_generator.manual_seed(self.seed * 1_000_003 + index)
                    return self.transformed(image, position), self.dataset.samples[position].label
        sample = self.dataset.samples[index]
        raise ValueError(
            f"{tries} consecutive images cannot be read, starting at {sample.path or sample.id}; is the disk there? "
            "`tokenloc info --data` lists the problem of each"
        )

    def transformed(self, image: Image.Image, index: int) -> torch.Tensor:
        """Return the tensor of the ``image`` at ``index``, drawing from torch's global generator."""
        del index
        return self.transform(image)


@dataclass(frozen=True)
class Unreadable:
    """An image, by index and id, that evaluation could not read: it is reported with a reason, and is in no score."""

    index: int
    id: str
    reason: str


@dataclass(frozen=True, eq=False)
class EvaluationBatch:
    """Images for evaluation; ``to`` and Lightning move its tensors to a device.

    Args:
        images: [B, 3, H, W] float32; [0, 3, 0, 0] if no image of the batch could be read.
        labels: [B] int64 class indices.
        indices: of the B images in the dataset.
        frames: of the B images.
        masks: of the B images, in original pixels; None for images without one.
        unreadable: images of the batch that could not be read, in addition to those B.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: list[int]
    frames: list[Frame]
    masks: list[NDArray[np.uint8] | None]
    unreadable: list[Unreadable]

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EvaluationBatch:
        """Return the batch with images and labels on ``device``; copies to a CUDA device do not block."""
        non_blocking = non_blocking or torch.device(device).type == "cuda"
        images = self.images.to(device, non_blocking=non_blocking)
        return replace(self, images=images, labels=self.labels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> EvaluationBatch:
        """Return the batch in pinned memory; called by the DataLoader."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


class _EvaluationImages(Dataset[EvaluationBatch]):
    """Images for evaluation, each a batch of one; ``unreadable`` if the image or its mask cannot be read or differ."""

    def __init__(self, dataset: ImageDataset, transform: FramedTransform) -> None:
        self.dataset, self.transform = dataset, transform

    def __getitem__(self, index: int) -> EvaluationBatch:
        sample = self.dataset.samples[index]
        try:
            image, mask = self.dataset.image(index), self.dataset.mask(index)
            if fault := self.dataset.mask_fault(image.size, mask):
                raise ValueError(f"{sample.path or sample.id} {fault}")
        except (ValueError, OSError) as error:
            return EvaluationBatch(_NO_IMAGES, _NO_LABELS, [], [], [], [Unreadable(index, sample.id, str(error))])
        tensor, frame = self.transform(image)
        return EvaluationBatch(tensor[None], torch.tensor([sample.label]), [index], [frame], [mask], [])


_LISTS = ("indices", "frames", "masks", "unreadable")
_NO_IMAGES, _NO_LABELS = torch.zeros(0, 3, 0, 0), torch.zeros(0, dtype=torch.int64)


def _collate(batches: Sequence[EvaluationBatch]) -> EvaluationBatch:
    readable = [batch for batch in batches if len(batch)]
    return EvaluationBatch(
        torch.cat([batch.images for batch in readable]) if readable else _NO_IMAGES,
        torch.cat([batch.labels for batch in readable]) if readable else _NO_LABELS,
        *([item for batch in batches for item in getattr(batch, name)] for name in _LISTS),
    )


def training_loader(
    images: LabelledDataset,
    batch_size: int = 32,
    *,
    workers: int = 0,
    seed: int = 0,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[tuple[torch.Tensor, int]]:
    """Return shuffled batches: (images [B, 3, H, W] float32, labels [B] int64).

    Args:
        images: the pairs to load.
        batch_size: the last batch may be smaller.
        workers: number of worker processes.
        seed: of the order.
        start: first batch to return; the loader's length still counts the earlier ones.
        rank: of each batch, return only every ``world_size``-th image, starting at this one.
        world_size: number of processes.
    """
    # Plain lists without state: Lightning starts two iterators in an epoch, and worker processes read ahead in both.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    own = _BatchesFrom(start, [batch[rank::world_size] for batch in batches])
    return DataLoader(images, batch_sampler=own, **_common(workers))


def labelled_loader(
    images: LabelledDataset, batches: Sequence[list[int]], workers: int = 0
) -> DataLoader[tuple[torch.Tensor, int]]:
    """Return the given ``batches`` of indices in order: (images [B, 3, H, W] float32, labels [B] int64)."""
    return DataLoader(images, batch_sampler=batches, **_common(workers))


class _BatchesFrom(Sampler[list[int]]):
    """The ``batches`` from ``start``; the length is that of all, as Lightning expects to resume."""

    def __init__(self, start: int, batches: Sequence[list[int]]) -> None:
        self.start, self.batches = start, batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches[self.start :])

    def __len__(self) -> int:
        return len(self.batches)


def evaluation_loader(
    dataset: ImageDataset,
    transform: FramedTransform,
    batch_size: int = 32,
    *,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[EvaluationBatch]:
    """Return batches of ``batch_size`` images, including unreadable ones, in order; see ``batches_of_rank``."""
    images, batches = _EvaluationImages(dataset, transform), batches_of_rank(len(dataset), batch_size, rank, world_size)
    return DataLoader(images, batch_sampler=batches, collate_fn=_collate, **_common(workers))


def batches_of_rank(length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Return every ``world_size``-th batch of the indices 0 … length - 1, starting at batch ``rank``.

    >>> batches_of_rank(5, 2), batches_of_rank(5, 2, rank=0, world_size=2)
    ([[0, 1], [2, 3], [4]], [[0, 1], [4]])
    """
    starts = range(0, length, batch_size)[rank::world_size]
    return [list(range(start, min(start + batch_size, length))) for start in starts]


def _leave_interrupts(worker: int) -> None:
    """Leave Ctrl-C to the main process."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _common(workers: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "generator": torch.Generator().manual_seed(0),  # else the loader draws from the global one
        "worker_init_fn": _leave_interrupts,
        "pin_memory": torch.cuda.is_available(),
    }
