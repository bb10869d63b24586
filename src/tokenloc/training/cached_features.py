"""What a frozen backbone makes of the training photographs, kept on disk: an epoch then costs the head alone.

Every photograph has N views, the crops and mirrors of the first N epochs; epoch e shows view e mod N. What the method
pools out of a view (``Frozen.pool``) is computed once, in float32 and in batches that do not depend on the run, and
read through memory maps. The folder of a cache is named after all that its numbers depend on, so that several runs may
share it and none takes what is not its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenloc._files import refuse_unwritable, write_json, written_whole
from tokenloc.backbones.weights import weights_digest
from tokenloc.data import ImageDataset, Preprocessing
from tokenloc.data.loading import Labelled, labelled_loader, shared_batches
from tokenloc.methods import Method, Output
from tokenloc.methods.frozen import Frozen
from tokenloc.training.fit import Photographs

PART = 1024
"""Photographs a file: what a kill costs at most."""
BATCH = 32
"""Photographs that are pooled at a time, whatever the batch of the training: in other company the last bit differs."""
SOURCES = "sources.json"

Progress = Callable[[Iterable[int], str], Iterator[int]]


def sources_of(
    model: Frozen, dataset: ImageDataset, preprocessing: Preprocessing, seed: int, options: Mapping[str, Any]
) -> dict[str, str]:
    """Return digests of what pooled features depend on, by name: weights, network, preprocessing, seed, photographs.

    Args:
        model: its backbone makes the features.
        dataset: the photographs: each is known by its file's place, size and time of change; a generated one by its id.
        preprocessing: how they become the network's input.
        seed: of their crops and mirrors.
        options: of the dataset.

    Raises:
        OSError: where a photograph is not there.
    """
    config = model.config
    network = [config.method, config.backbone, config.image_size, config.backbone_options]
    photographs = hashlib.sha256(f"{dataset.name} {json.dumps(options, sort_keys=True, default=str)}".encode())
    for sample in dataset.samples:
        photographs.update(f"\n{sample.id} {sample.label} {_identity(sample.path)}".encode("utf-8", "surrogateescape"))
    return {
        "weights": weights_digest(model.backbone),
        "network": _digest(network),
        "preprocessing": _digest(preprocessing.to_dict()),
        "seed": str(seed),
        "photographs": photographs.hexdigest(),
    }


def _identity(path: Path | None) -> str:
    if path is None:
        return "generated"
    known = path.stat()
    return f"{path.resolve()} {known.st_size} {known.st_mtime_ns}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


class View(Labelled):
    """One view of every photograph: (pooled [P] float32, class index), read through memory maps."""

    def __init__(self, parts: list[NDArray[np.void]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        record = self.parts[index // PART][index % PART]
        return torch.from_numpy(record["pooled"].copy()), int(record["label"])


@dataclass(frozen=True)
class FeatureCache:
    """Pooled views on disk: FOLDER/KEY/view-V/P.npy, ``PART`` photographs each, of records (pooled, label).

    Attributes:
        folder: FOLDER; runs may share it.
        sources: of ``sources_of``; KEY is their digest.
        length: photographs.
    """

    folder: Path
    sources: Mapping[str, str]
    length: int

    @property
    def own(self) -> Path:
        """The folder of these sources, FOLDER/KEY."""
        return self.folder / _digest(self.sources)[:16]

    def view(self, number: int) -> View:
        """Return a view that was filled."""
        return View([np.load(path, mmap_mode="r") for path in self._paths(number)])

    def missing(self, number: int, tell: Callable[[str], None]) -> list[int]:
        """Return the parts of a view that are not there, or not as they were written, which is told."""
        return [part for part, path in enumerate(self._paths(number)) if not self._is_whole(part, path, tell)]

    def begin(self, tell: Callable[[str], None]) -> None:
        """Make the folder; where it is new beside others, tell in what each of those differs.

        Raises:
            OSError: where nothing can be written.
        """
        if (self.own / SOURCES).is_file():
            return
        refuse_unwritable(self.folder)
        for path in sorted(self.folder.glob(f"*/{SOURCES}")):
            stored = json.loads(path.read_text(encoding="utf-8"))
            other = ", ".join(name for name in self.sources if stored.get(name) != self.sources[name])
            tell(f"{path.parent} holds features of other {other}: they are not used, and computed anew beside")
        write_json(self.own / SOURCES, dict(self.sources))

    def write(self, number: int, part: int, pooled: Tensor, labels: Tensor) -> None:
        """Write a part, whole and down to the disk or not at all: ``pooled`` [M, P] float32, ``labels`` [M].

        Raises:
            OSError: where it cannot be written, as on a full disk.
        """
        records = np.empty(len(labels), [("pooled", "<f4", pooled.shape[1:]), ("label", "<i8")])
        records["pooled"], records["label"] = pooled.numpy(), labels.numpy()
        content = io.BytesIO()
        np.save(content, records)
        path = self._paths(number)[part]
        try:
            with written_whole(path) as temporary, temporary.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                f"{path} could not be written ({error.strerror or error}); what was written before is kept. Make room, "
                "or give another folder by --data.cache, then go on with --resume"
            ) from error

    def rows(self, part: int) -> range:
        """Return the indices of a part's photographs."""
        return range(part * PART, min((part + 1) * PART, self.length))

    def _paths(self, number: int) -> list[Path]:
        return [self.own / f"view-{number}" / f"{part:05d}.npy" for part in range(-(-self.length // PART))]

    def _is_whole(self, part: int, path: Path, tell: Callable[[str], None]) -> bool:
        if not path.exists():
            return False
        try:
            whole = len(np.load(path, mmap_mode="r")["label"]) == len(self.rows(part))
        except (ValueError, IndexError, EOFError):
            whole = False
        if not whole:
            tell(f"{path} is damaged, and is computed anew")
        return whole


class CachedPhotographs(Photographs):
    """Training photographs as a frozen backbone's pooled features, ``views`` of each; call ``fill`` first.

    Args:
        feed: the same photographs as pictures.
        cache: where the features are.
        views: N, at least 1.
    """

    def __init__(self, feed: Photographs, cache: FeatureCache, views: int) -> None:
        super().__init__(feed.train, feed.val, feed.preprocessing, feed.batch_size, feed.workers, feed.seed)
        self.cache, self.views = cache, views

    @property
    def readers(self) -> int:
        """No process of its own has to read what is in memory maps."""
        return 0

    def examples(self, epoch: int) -> Labelled:
        """Return the view that an epoch shows."""
        return self.cache.view(epoch % self.views)

    def training_pass(self, model: Method) -> Callable[[Tensor], Output]:
        """Return what of ``model`` is run in a training step: the head."""
        return frozen(model).from_pooled

    def fill(
        self, model: Method, epochs: int, device: torch.device, tell: Callable[[str], None], progress: Progress
    ) -> None:
        """Compute what is missing of the views that ``epochs`` epochs show.

        Raises:
            OSError: where a part cannot be written; see ``FeatureCache.write``.
        """
        self.cache.begin(tell)
        backbone = model.backbone.to(device).eval()
        for number in range(min(self.views, epochs)):
            missing = self.cache.missing(number, tell)
            batches = {part: self._batches(part) for part in missing}
            loader = labelled_loader(super().examples(number), list(chain(*batches.values())), self.workers)
            pooled = ((frozen(model).pool(backbone(images.to(device))).cpu(), labels) for images, labels in loader)
            for part in progress(missing, f"features, view {number + 1}") if missing else ():
                with torch.no_grad():
                    features, labels = zip(*islice(pooled, len(batches[part])), strict=True)
                self.cache.write(number, part, torch.cat(features), torch.cat(labels))

    def _batches(self, part: int) -> list[list[int]]:
        rows = self.cache.rows(part)
        return [[rows[row] for row in batch] for batch in shared_batches(len(rows), BATCH)]


def frozen(model: Method) -> Frozen:
    """Return ``model``; raise ValueError where it is none whose backbone stays as it is."""
    if not isinstance(model, Frozen):
        raise ValueError(
            f"data.cached_views keeps the features of a backbone that never changes; {model.config.method} trains its "
            "own. Leave it at 0, or choose lcar or tokencut"
        )
    return model
