"""Cached features of a frozen backbone: the backbone runs once, and an epoch then costs only the head.

Every image has N views, the random crops and flips of the first N epochs; epoch e uses view e mod N.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenloc._files import durable_write, exclusive_lock, refuse_unwritable, remove_partial_files, write_json
from tokenloc.backbones.weights import weights_digest
from tokenloc.data import ImageDataset, Preprocessing
from tokenloc.data.loading import LabelledDataset, labelled_loader
from tokenloc.methods import Method
from tokenloc.methods.base import Frozen
from tokenloc.training.config import DataConfig
from tokenloc.training.data import TrainingData

PART = 1024  # images in a file
BATCH = 32  # images that pass the backbone together; fixed because it changes the last bits of the features
SOURCES = "sources.json"

Progress = Callable[[Iterable[int], str], Iterator[int]]
Report = Callable[[str], None]


def feature_sources(
    model: Frozen, dataset: ImageDataset, preprocessing: Preprocessing, seed: int, options: Mapping[str, Any]
) -> dict[str, str]:
    """Return digests of all that the features depend on; ``seed`` is of the crops, ``options`` are of the dataset."""
    config = model.config
    return {
        "weights": weights_digest(model.backbone),
        "network": _digest([config.method, config.backbone, config.image_size, config.backbone_options]),
        "preprocessing": _digest(asdict(preprocessing)),
        "seed": str(seed),
        "images": _digest_of_images(dataset, options),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _digest_of_images(dataset: ImageDataset, options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all ids, class indices and fingerprints, and of the dataset's ``options``."""
    known = hashlib.sha256(f"{dataset.name} {json.dumps(options, sort_keys=True, default=str)}".encode())
    for index, sample in enumerate(dataset.samples):
        try:
            fingerprint = dataset.fingerprint(index)
        except OSError:  # training skips it, so it may be missing here
            fingerprint = "absent"
        known.update(f"\n{sample.id} {sample.label} {fingerprint}".encode("utf-8", "surrogateescape"))
    return known.hexdigest()


class CachedView(LabelledDataset):
    """One view of every image: (pooled features [...] float32, class index), read through memory maps."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.parts: list[NDArray[np.void]] = [np.load(path, mmap_mode="r") for path in files]  # ends before the digest

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        record = self.parts[index // PART][index % PART]
        return torch.from_numpy(record["pooled"].copy()), int(record["label"])


class FeatureCache:
    """Pooled features of ``length`` images on disk: FOLDER/KEY/view-V/P.npy; KEY is the digest of ``sources``.

    Each file ends with the SHA-256 of what precedes, 32 bytes that NumPy ignores.
    """

    def __init__(self, folder: Path, sources: Mapping[str, str], length: int) -> None:
        self.folder, self.sources = folder, dict(sources)
        self.path = folder / _digest(self.sources)[:16]
        self.parts = [range(start, min(start + PART, length)) for start in range(0, length, PART)]

    def create(self, report: Report) -> None:
        """Create FOLDER/KEY, unless it exists, and report how the other caches in FOLDER differ."""
        if (self.path / SOURCES).is_file():
            return
        refuse_unwritable(self.folder)
        for path in sorted(self.folder.glob(f"*/{SOURCES}")):
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.keys() == self.sources.keys():
                names = ", ".join(name for name in self.sources if stored[name] != self.sources[name])
                report(f"the features in {path.parent} are of different {names}; computing new ones in {self.path}")
        write_json(self.path / SOURCES, self.sources)

    def files(self, view: int) -> list[Path]:
        """Return the files of a view in order."""
        return [self.path / f"view-{view}" / f"{part:05d}.npy" for part in range(len(self.parts))]

    def missing(self, view: int, report: Report) -> list[int]:
        """Return the parts of a view that are missing or damaged; report the damaged ones."""
        missing = []
        for part, path in enumerate(self.files(view)):
            with suppress(OSError, ValueError, TypeError, EOFError):
                if _is_intact(path) and len(np.load(path, mmap_mode="r")) == len(self.parts[part]):
                    continue
            missing.append(part)
            if path.exists():
                report(f"{path} is damaged, or has no checksum, and is computed again")
        return missing

    def write(self, view: int, part: int, pooled: Tensor, labels: Tensor) -> None:
        """Write a part atomically: ``pooled`` [M, ...] float32 and class indices ``labels`` [M]."""
        records = np.empty(len(labels), [("pooled", "<f4", pooled.shape[1:]), ("label", "<i8")])
        records["pooled"], records["label"] = pooled.numpy(), labels.numpy()
        content = io.BytesIO()
        np.save(content, records)  # np.save to a file hides the reason of a failure
        remedy = "free disk space or choose another folder with --data.cache, then continue with --resume"
        with durable_write(self.files(view)[part], remedy) as file:
            file.write(content.getbuffer())
            file.write(hashlib.sha256(content.getbuffer()).digest())


def _is_intact(path: Path) -> bool:
    """Return whether a file ends with the SHA-256 of what precedes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = path.stat().st_size - digest.digest_size
        while block := file.read(max(0, min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        return left == 0 and file.read() == digest.digest()


class CachedFeatureData(TrainingData):
    """Training batches of a frozen backbone's pooled features, in N ``views``; call ``fill`` before training."""

    def __init__(self, data: TrainingData, model: Frozen, cache: FeatureCache, views: int) -> None:
        super().__init__(data.train, data.val, data.preprocessing, data.batch_size, data.workers, data.seed)
        self.model, self.cache, self.views = model, cache, views
        self.training_workers = 0  # memory maps need no worker processes

    def examples(self, epoch: int) -> LabelledDataset:
        """Return the view of an epoch."""
        return CachedView(self.cache.files(epoch % self.views))

    def fill(self, epochs: int, device: str, report: Report, progress: Progress | None) -> None:
        """Compute the missing features of the views that ``epochs`` epochs use; raises OSError if it cannot write.

        Other processes that use the same cache wait until it is complete.
        """
        views = range(min(self.views, epochs))
        if not any(self.cache.missing(view, lambda _: None) for view in views):
            return  # also if the folder is read-only
        self.cache.create(report)
        with exclusive_lock(self.cache.path, wait=True):
            remove_partial_files(self.cache.path)
            self._compute(views, device, report, progress)

    def _compute(self, views: Iterable[int], device: str, report: Report, progress: Progress | None) -> None:
        backbone = self.model.backbone.to(device).eval()
        for view in views:
            missing = self.cache.missing(view, report)
            rows = [self.cache.parts[part] for part in missing]
            batches = [list(part[start : start + BATCH]) for part in rows for start in range(0, len(part), BATCH)]
            loader = labelled_loader(super().examples(view), batches, self.workers)
            inputs = ((images.to(device, non_blocking=device == "cuda"), labels) for images, labels in loader)
            pooled = ((self.model.pool(backbone(images)).cpu(), labels) for images, labels in inputs)
            for part in progress(missing, f"features, view {view + 1}") if missing and progress else missing:
                with torch.no_grad():
                    count = math.ceil(len(self.cache.parts[part]) / BATCH)
                    features, labels = zip(*islice(pooled, count), strict=True)
                self.cache.write(view, part, torch.cat(features), torch.cat(labels))


def cache_features(data: TrainingData, model: Method, config: DataConfig, out: Path) -> CachedFeatureData:
    """Return ``data`` with cached views; raises ValueError if the method trains its backbone."""
    if not isinstance(model, Frozen):
        raise ValueError(
            f"data.cached_views needs a method with a frozen backbone, such as lcar or tokencut; {model.config.method} "
            "trains its backbone. Set data.cached_views to 0"
        )
    sources = feature_sources(model, data.train, data.preprocessing, data.seed, config.options)
    cache = FeatureCache(config.cache or out / "features", sources, len(data.train))
    return CachedFeatureData(data, model, cache, config.cached_views)
