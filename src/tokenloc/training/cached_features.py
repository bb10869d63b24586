"""What a frozen backbone makes of the training images, kept on disk: an epoch then costs the head alone.

Every image has N views, the crops and mirrors of the first N epochs; epoch e shows view e mod N. What the method
pools out of a view (``Frozen.pool``) is computed once, in float32 and in batches that do not depend on the run, and
read through memory maps; see ``disk_cache``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenloc.backbones.weights import weights_digest
from tokenloc.data import ImageDataset, Preprocessing
from tokenloc.data.fingerprints import digest, digest_of_images
from tokenloc.data.loading import LabelledDataset, batches_of_rank, labelled_loader
from tokenloc.methods import Method, Output
from tokenloc.methods.frozen import Frozen
from tokenloc.training.disk_cache import DiskCache, Progress, Tell
from tokenloc.training.fit import TrainingData

PART = 1024
"""TrainingData a file."""
BATCH = 32
"""TrainingData that are pooled at a time, whatever the batch of the training: in other company the last bit differs."""


def sources_of(
    model: Frozen, dataset: ImageDataset, preprocessing: Preprocessing, seed: int, options: Mapping[str, Any]
) -> dict[str, str]:
    """Return digests of what pooled features depend on, by name: weights, network, preprocessing, seed, images.

    Args:
        model: its backbone makes the features.
        dataset: the images: each is known by its file's place, size and time of change; a generated one by its id.
        preprocessing: how they become the network's input.
        seed: of their crops and mirrors.
        options: of the dataset.
    """
    config = model.config
    network = [config.method, config.backbone, config.image_size, config.backbone_options]
    return {
        "weights": weights_digest(model.backbone),
        "network": digest(network),
        "preprocessing": digest(preprocessing.to_dict()),
        "seed": str(seed),
        "images": digest_of_images(dataset, options, labels=True),
    }


class View(LabelledDataset):
    """One view of every image: (pooled [P] float32, class index), read through memory maps."""

    def __init__(self, parts: list[NDArray[np.void]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        record = self.parts[index // PART][index % PART]
        return torch.from_numpy(record["pooled"].copy()), int(record["label"])


class FeatureCache(DiskCache):
    """Pooled views on disk: FOLDER/KEY/view-V/P.npy, ``PART`` images each, of records (pooled, label).

    Its ``sources`` are those of ``sources_of``.
    """

    what = "features"

    @property
    def part_length(self) -> int:
        """TrainingData a file: what a kill costs at most."""
        return PART

    def view(self, number: int) -> View:
        """Return a view that was filled."""
        return View([np.load(path, mmap_mode="r") for path in self.paths(_name(number))])

    def write_view(self, number: int, part: int, pooled: Tensor, labels: Tensor) -> None:
        """Write a part: ``pooled`` [M, P] float32, ``labels`` [M]; raises as ``write``."""
        records = np.empty(len(labels), [("pooled", "<f4", pooled.shape[1:]), ("label", "<i8")])
        records["pooled"], records["label"] = pooled.numpy(), labels.numpy()
        self.write(_name(number), part, records)


def _name(number: int) -> str:
    return f"view-{number}"


class CachedFeatureData(TrainingData):
    """Training images as a frozen backbone's pooled features, ``views`` of each; call ``fill`` first.

    Args:
        feed: the same images as images.
        cache: where the features are.
        views: N, at least 1.
    """

    def __init__(self, feed: TrainingData, cache: FeatureCache, views: int) -> None:
        super().__init__(feed.train, feed.val, feed.preprocessing, feed.batch_size, feed.workers, feed.seed)
        self.cache, self.views = cache, views

    @property
    def readers(self) -> int:
        """No process of its own has to read what is in memory maps."""
        return 0

    def examples(self, epoch: int) -> LabelledDataset:
        """Return the view that an epoch shows."""
        return self.cache.view(epoch % self.views)

    def training_pass(self, model: Method) -> Callable[[Tensor], Output]:
        """Return what of ``model`` is run in a training step: the head."""
        return frozen(model).from_pooled

    def fill(self, model: Method, epochs: int, device: torch.device, tell: Tell, progress: Progress) -> None:
        """Compute what is missing of the views that ``epochs`` epochs show.

        Raises:
            OSError: where a part cannot be written; see ``DiskCache.write``.
        """
        self.cache.begin(tell)
        backbone = model.backbone.to(device).eval()
        for number in range(min(self.views, epochs)):
            missing = self.cache.missing(_name(number), tell)
            batches = {part: self._batches(part) for part in missing}
            loader = labelled_loader(super().examples(number), list(chain(*batches.values())), self.workers)
            pooled = ((frozen(model).pool(backbone(images.to(device))).cpu(), labels) for images, labels in loader)
            for part in progress(missing, f"features, view {number + 1}") if missing else ():
                with torch.no_grad():
                    features, labels = zip(*islice(pooled, len(batches[part])), strict=True)
                self.cache.write_view(number, part, torch.cat(features), torch.cat(labels))

    def _batches(self, part: int) -> list[list[int]]:
        rows = self.cache.rows(part)
        return [[rows[row] for row in batch] for batch in batches_of_rank(len(rows), BATCH)]


def frozen(model: Method) -> Frozen:
    """Return ``model``; raise ValueError where it is none whose backbone stays as it is."""
    if not isinstance(model, Frozen):
        raise ValueError(
            f"data.cached_views keeps the features of a backbone that never changes; {model.config.method} trains its "
            "own. Leave it at 0, or choose lcar or tokencut"
        )
    return model
