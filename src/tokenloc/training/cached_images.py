"""TrainingData decoded and resized once and kept on disk: an epoch then only crops, and trains the same bit by bit.

Kept is what the transform of the training makes of an image before anything is drawn at random: upright RGB,
resized whole, 8 bits a channel. It is read through memory maps; see ``disk_cache``. An image that cannot be read is
not kept: it is tried again whenever it is asked for, and treated as without a cache.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features

from tokenloc._files import existing_part
from tokenloc.boxes.frame import Size
from tokenloc.data import ImageDataset, Preprocessing
from tokenloc.data.fingerprints import digest, digest_of_images
from tokenloc.data.loading import LabelledDataset, batches_of_rank, labelled_loader
from tokenloc.data.transforms import resize_whole
from tokenloc.training.disk_cache import DiskCache, Progress, Tell

PART = 256
"""TrainingData a file: 50 MB at 256 x 256."""
BATCH = 16
"""TrainingData that a worker reads at a time."""
NAME = "images"


def sources_of(dataset: ImageDataset, preprocessing: Preprocessing, options: Mapping[str, Any]) -> dict[str, str]:
    """Return what resized images depend on, by name: images, resize, and the decoder that made them.

    Args:
        dataset: the images; see ``digest_of_images``.
        preprocessing: how they are resized; crop and normalisation play no part.
        options: of the dataset.
    """
    return {
        "images": digest_of_images(dataset, options, labels=False),
        "resize": digest([preprocessing.resize, preprocessing.interpolation]),
        "decoder": f"Pillow {features.version('pil')}, libjpeg {features.version('jpg')}",
    }


class ImageCache(DiskCache):
    """Resized images on disk: FOLDER/KEY/images/P.npy, ``PART`` each, of records (readable, pixels [H, W, 3])."""

    what = "images"

    @property
    def part_length(self) -> int:
        """TrainingData a file: what a kill costs at most."""
        return PART


class ResizedImages(ImageDataset):
    """A dataset's images, resized as ``train_transform`` begins, from disk; call ``fill`` first.

    For training and classification: boxes and frames are those of the whole images, and there are no masks.

    Args:
        dataset: the images.
        preprocessing: its ``resize`` and ``interpolation`` are what is done to them.
        folder: where they are kept, in folders of their own; runs may share it.
        options: the dataset's.
    """

    def __init__(
        self, dataset: ImageDataset, preprocessing: Preprocessing, folder: Path, options: Mapping[str, Any]
    ) -> None:
        self.name, self.splits = dataset.name, dataset.splits
        self.dataset, self.preprocessing = dataset, preprocessing
        sources = sources_of(dataset, preprocessing, options)
        self.cache = ImageCache(folder / dataset.split, sources, len(dataset))
        self._opened: dict[int, NDArray[np.void]] = {}
        super().__init__(dataset.split, dataset.classes, dataset.samples)

    def image(self, index: int, min_size: Size | None = None) -> Image.Image:
        """Return an image as it is kept; one that could not be read is read as ever, and raises as ever."""
        record = self._part(index // PART)[index % PART]
        return Image.fromarray(record["pixels"]) if record["readable"] else self.dataset.image(index, min_size)

    def fingerprint(self, index: int) -> str:
        """See ``ImageDataset.fingerprint``."""
        return self.dataset.fingerprint(index)

    def fill(self, workers: int, tell: Tell, progress: Progress, share: tuple[int, int] = (0, 1)) -> None:
        """Resize and keep what is missing. Several processes may do so at once: each begins elsewhere, none waits.

        Args:
            workers: processes that read images.
            tell: for what a person should know.
            progress: yields the parts to do, with a label.
            share: (r, w), for process r of w.

        Raises:
            OSError: where there is no room, or a part cannot be written; see ``DiskCache.write``.
        """
        self.cache.begin(tell)
        missing = self.cache.missing(NAME, tell)
        self._refuse_without_room(missing)
        start = len(missing) * share[0] // share[1]
        parts = missing[start:] + missing[:start]
        for part in progress(parts, f"{self.split} images, resized") if parts else ():
            if not self.cache.holds(NAME, part):  # another process may have been quicker
                self.cache.write(NAME, part, self._resized(part, workers))

    def _resized(self, part: int, workers: int) -> NDArray[np.void]:
        rows = self.cache.rows(part)
        batches = [[rows[row] for row in batch] for batch in batches_of_rank(len(rows), BATCH)]
        pairs = list(labelled_loader(_Resizing(self.dataset, self.preprocessing), batches, workers))
        records = np.empty(len(rows), _record(self.preprocessing.resize))
        records["pixels"] = torch.cat([pixels for pixels, _ in pairs]).numpy()
        records["readable"] = torch.cat([readable for _, readable in pairs]).numpy()
        return records

    def _refuse_without_room(self, missing: list[int]) -> None:
        images = sum(len(self.cache.rows(part)) for part in missing)
        needed = images * _record(self.preprocessing.resize).itemsize
        free = shutil.disk_usage(existing_part(self.cache.folder)).free
        if needed > free:
            raise OSError(
                f"{self.cache.folder}: {images} resized images take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
                "are free; make room, give another folder by --data.cache, or leave data.cached_images away"
            )

    def _part(self, number: int) -> NDArray[np.void]:
        if number not in self._opened:
            self._opened[number] = np.load(self.cache.paths(NAME)[number], mmap_mode="r")
        return self._opened[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # a memory map would travel to workers as what is in it


class _Resizing(LabelledDataset):
    """Images on their way to the disk: (pixels [H, W, 3] uint8, 1), or (zeros, 0) where one cannot be read."""

    def __init__(self, dataset: ImageDataset, preprocessing: Preprocessing) -> None:
        self.dataset, self.resize, self.size = dataset, resize_whole(preprocessing), preprocessing.resize

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        try:
            image = self.dataset.image(index)
        except (ValueError, OSError):  # told when the training asks for it
            return torch.zeros(self.size[1], self.size[0], 3, dtype=torch.uint8), 0
        return torch.from_numpy(np.array(self.resize(image))), 1


def _record(size: Size) -> np.dtype[np.void]:
    return np.dtype([("readable", "?"), ("pixels", "u1", (size[1], size[0], 3))])
