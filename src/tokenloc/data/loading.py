"""Batches for training and evaluation, in which a broken image never ends a run and is never scored in silence."""

from __future__ import annotations

import logging
import signal
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler

from tokenloc.boxes.frame import Frame
from tokenloc.data.base import ImageDataset, mask_fault
from tokenloc.data.transforms import FramedTransform, TrainTransform

MAX_UNREADABLE = 50
"""Unreadable images in a row after which training gives up: the disk is gone, not an image broken."""

_logger = logging.getLogger(__name__)


class Labelled(Dataset[tuple[torch.Tensor, int]]):
    """What a training learns from: (tensor, class index) at each index."""

    @abstractmethod
    def __len__(self) -> int: ...


class LabelledImages(Labelled):
    """Images and labels for training: (image [3, H, W] float32, class index).

    An image that cannot be read is replaced by the next readable one, with that one's label; each is logged once as
    a warning, by file name.

    Args:
        dataset: the images.
        transform: from an RGB PIL image to [3, H, W].
        min_size: (width, height) that suffices for the transform, so that large JPEGs are decoded faster and a
            little differently; see ``read_image``. None decodes them whole.
        seed: what is random in the transform follows from it and the image's index alone, whoever reads the image
            and after whatever else. None leaves it to torch's global generator.

    Raises:
        ValueError: on reading, where ``MAX_UNREADABLE`` images in a row (or all) cannot be read.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transform: TrainTransform,
        min_size: tuple[int, int] | None = None,
        seed: int | None = None,
    ) -> None:
        self.dataset, self.transform, self.min_size, self.seed = dataset, transform, min_size, seed
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        tries = min(MAX_UNREADABLE, len(self.dataset))
        for candidate in range(index, index + tries):
            position = candidate % len(self.dataset)
            try:
                image = self.dataset.image(position, self.min_size)
            except (ValueError, OSError) as error:
                self._report(position, error)
            else:
                with _drawing_from(None if self.seed is None else self.seed * 1_000_003 + index):
                    return self.transform(image), self.dataset.samples[position].label
        sample = self.dataset.samples[index]
        raise ValueError(
            f"{tries} images in a row cannot be read, from {sample.path or sample.id} on: is the disk still there? "
            "`tokenloc info --data` lists what is wrong with each"
        )

    def _report(self, index: int, error: Exception) -> None:
        if index not in self._reported:
            self._reported.add(index)
            _logger.warning("left out of training, the next image takes its place: %s", error)


@contextmanager
def _drawing_from(seed: int | None) -> Iterator[None]:
    """Let torch's global generator of the CPU start from ``seed`` in the block; it then goes on as if unused."""
    if seed is None:
        yield
        return
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@dataclass(frozen=True)
class Unreadable:
    """An image that evaluation could not read, to be named and counted: it is in no score.

    Args:
        index: of the sample in its dataset.
        id: the sample's id.
        reason: why it could not be read; names the file.
    """

    index: int
    id: str
    reason: str


@dataclass(frozen=True, eq=False)
class LocatedImage:
    """An image for evaluation.

    Args:
        image: [3, H, W] float32.
        label: class index.
        index: of the sample in its dataset.
        frame: between the image's own pixels and those of ``image``.
        mask: [height, width] uint8 of the image's own pixels, see ``ImageDataset.mask``; None where there is none.
    """

    image: torch.Tensor
    label: int
    index: int
    frame: Frame
    mask: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class Located:
    """Images for evaluation; moves to a device as a whole, by Lightning too.

    Args:
        images: [B, 3, H, W] float32; [0, 3, 0, 0] where no image of the batch could be read.
        labels: [B] int64 class indices.
        indices: B indices into the dataset.
        frames: B frames.
        masks: B masks of original pixels, None where an image has none.
        unreadable: the batch's images that could not be read, apart from those B.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: list[int]
    frames: list[Frame]
    masks: list[NDArray[np.uint8] | None]
    unreadable: list[Unreadable]

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Located:
        """Return the batch with images and labels on ``device``."""
        images = self.images.to(device, non_blocking=non_blocking)
        return replace(self, images=images, labels=self.labels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Located:
        """Return the batch in pinned memory; the DataLoader calls this where it was asked to pin."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


class LocatedImages(Dataset["LocatedImage | Unreadable"]):
    """Images for evaluation: a ``LocatedImage`` each, or an ``Unreadable`` where one or its mask cannot be
    read, or the mask is of another size.

    Args:
        dataset: the images.
        transform: from an RGB PIL image to ([3, H, W], frame).
    """

    def __init__(self, dataset: ImageDataset, transform: FramedTransform) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> LocatedImage | Unreadable:
        sample = self.dataset.samples[index]
        try:
            image, mask = self.dataset.image(index), self.dataset.mask(index)
        except (ValueError, OSError) as error:
            return Unreadable(index, sample.id, str(error))
        if fault := mask_fault(image.size, mask):
            return Unreadable(index, sample.id, f"{sample.path or sample.id} {fault}")
        tensor, frame = self.transform(image)
        return LocatedImage(tensor, sample.label, index, frame, mask)


def collate_located(items: Sequence[LocatedImage | Unreadable]) -> Located:
    """Return items of ``LocatedImages`` as a batch: images and labels stacked, the rest as lists."""
    located = [item for item in items if isinstance(item, LocatedImage)]
    return Located(
        torch.stack([item.image for item in located]) if located else torch.zeros(0, 3, 0, 0),
        torch.tensor([item.label for item in located], dtype=torch.int64),
        [item.index for item in located],
        [item.frame for item in located],
        [item.mask for item in located],
        [item for item in items if isinstance(item, Unreadable)],
    )


def training_loader(
    images: Labelled,
    batch_size: int = 32,
    *,
    workers: int = 0,
    seed: int = 0,
    drop_last: bool = True,
    start: int = 0,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[tuple[torch.Tensor, int]]:
    """Return shuffled batches: (images [B, 3, H, W] float32, labels [B] int64), in an order that follows from ``seed``.

    Args:
        images: what is loaded; images have a seed of their own for their random crops.
        batch_size: images a batch.
        workers: worker processes, 0 for none.
        seed: of the order.
        drop_last: leave out the last batch where it is smaller, unless it is the only one.
        start: the first batch to give: those before it are left out, though the loader's length counts them.
        share: (r, w): of each batch only the images r, r + w, r + 2 w …, for process r of w.
    """
    drop_last = drop_last and len(images) >= batch_size
    # An order of its own: a loader that is asked twice for its batches, as in a resumed run, gives the same ones.
    order = RandomSampler(images, generator=torch.Generator().manual_seed(seed))
    batches = _BatchesFrom(start, BatchSampler(order, batch_size, drop_last), share)
    return DataLoader(images, batch_sampler=batches, **_common(workers, seed))


def labelled_loader(
    images: Labelled, batches: Sequence[list[int]], workers: int = 0
) -> DataLoader[tuple[torch.Tensor, int]]:
    """Return the ``batches`` of indices, in their order: (images [B, 3, H, W] float32, labels [B] int64)."""
    return DataLoader(images, batch_sampler=batches, **_common(workers, 0))


class _BatchesFrom(Sampler[list[int]]):
    """A process's share of the batches from ``start`` on; the length is that of all, as Lightning expects of what it
    resumes.
    """

    def __init__(self, start: int, batches: BatchSampler, share: tuple[int, int]) -> None:
        self.start, self.batches, self.share = start, batches, share

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self.share[0] :: self.share[1]] for batch in islice(iter(self.batches), self.start, None))

    def __len__(self) -> int:
        return len(self.batches)


def evaluation_loader(
    dataset: ImageDataset,
    transform: FramedTransform,
    batch_size: int = 32,
    *,
    workers: int = 0,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[Located]:
    """Return batches (``Located``) in the dataset's order, every sample once.

    Args:
        dataset: the images.
        transform: from an RGB PIL image to ([3, H, W], frame), see ``evaluation_transform``.
        batch_size: images a batch, unreadable ones among them.
        workers: worker processes, 0 for none.
        seed: of the workers.
        share: (r, w): only the batches r, r + w, r + 2 w …, for process r of w.
    """
    images: Dataset[Any] = LocatedImages(dataset, transform)
    batches = shared_batches(len(dataset), batch_size, share)
    return DataLoader(images, batch_sampler=batches, collate_fn=collate_located, **_common(workers, seed))


def shared_batches(length: int, batch_size: int, share: tuple[int, int] = (0, 1)) -> list[list[int]]:
    """Return the batches r, r + w, r + 2 w … of the indices 0 … length - 1, for the ``share`` (r, w) of process r of w.

    >>> shared_batches(5, 2), shared_batches(5, 2, share=(0, 2))
    ([[0, 1], [2, 3], [4]], [[0, 1], [4]])
    """
    starts = range(0, length, batch_size)[share[0] :: share[1]]
    return [list(range(start, min(start + batch_size, length))) for start in starts]


def _begin_worker(seed: int, worker: int) -> None:
    """Make what a worker draws follow from ``seed``; leave it to the main process what Ctrl-C means."""
    torch.manual_seed(seed + worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _common(workers: int, seed: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "generator": torch.Generator().manual_seed(seed),
        "worker_init_fn": partial(_begin_worker, seed),
        "pin_memory": torch.cuda.is_available(),
    }
